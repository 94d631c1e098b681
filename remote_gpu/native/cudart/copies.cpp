// Copies and fills.
#include "cudart/copies.hpp"

#include <cstring>

#include "cudart/registry.hpp"

namespace carrel::cudart {

CUmemorytype source_type(cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault) return CU_MEMORYTYPE_UNIFIED;
    return kind == cudaMemcpyHostToHost || kind == cudaMemcpyHostToDevice ? CU_MEMORYTYPE_HOST
                                                                          : CU_MEMORYTYPE_DEVICE;
}

CUmemorytype target_type(cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault) return CU_MEMORYTYPE_UNIFIED;
    return kind == cudaMemcpyHostToHost || kind == cudaMemcpyDeviceToHost ? CU_MEMORYTYPE_HOST
                                                                          : CU_MEMORYTYPE_DEVICE;
}

CUDA_MEMCPY3D solid(const cudaMemcpy3DParms& p) {
    CUDA_MEMCPY3D c{};
    c.srcXInBytes = p.srcPos.x, c.srcY = p.srcPos.y, c.srcZ = p.srcPos.z;
    c.srcMemoryType = p.srcArray ? CU_MEMORYTYPE_ARRAY : source_type(p.kind);
    c.srcHost = p.srcPtr.ptr;
    c.srcDevice = device(p.srcPtr.ptr);
    c.srcArray = p.srcArray;
    c.srcPitch = p.srcPtr.pitch;
    c.srcHeight = p.srcPtr.ysize;
    c.dstXInBytes = p.dstPos.x, c.dstY = p.dstPos.y, c.dstZ = p.dstPos.z;
    c.dstMemoryType = p.dstArray ? CU_MEMORYTYPE_ARRAY : target_type(p.kind);
    c.dstHost = p.dstPtr.ptr;
    c.dstDevice = device(p.dstPtr.ptr);
    c.dstArray = p.dstArray;
    c.dstPitch = p.dstPtr.pitch;
    c.dstHeight = p.dstPtr.ysize;
    c.WidthInBytes = p.extent.width;
    c.Height = p.extent.height;
    c.Depth = p.extent.depth;
    return c;
}

// The bytes of a device variable from `offset` on.
CUresult inside(const void* symbol, size_t offset, size_t count, char** out) {
    CUdeviceptr address = 0;
    size_t size = 0;
    if (const CUresult bad = registry().variable(symbol, &address, &size)) return bad;
    if (offset > size || count > size - offset) return CUDA_ERROR_INVALID_VALUE;
    *out = reinterpret_cast<char*>(address + offset);
    return CUDA_SUCCESS;
}

}  // namespace carrel::cudart

using namespace carrel::cudart;

namespace {

bool valid(cudaMemcpyKind kind) {
    return kind >= cudaMemcpyHostToHost && kind <= cudaMemcpyDefault;
}

CUresult copy(void* to, const void* from, size_t count, cudaMemcpyKind kind) {
    if (!count) return CUDA_SUCCESS;
    switch (kind) {
        case cudaMemcpyHostToDevice:
            return cuMemcpyHtoD_v2(device(to), from, count);
        case cudaMemcpyDeviceToHost:
            return cuMemcpyDtoH_v2(to, device(from), count);
        case cudaMemcpyDeviceToDevice:
            return cuMemcpyDtoD_v2(device(to), device(from), count);
        default:
            return cuMemcpy(device(to), device(from), count);
    }
}

CUresult copy(void* to, const void* from, size_t count, cudaMemcpyKind kind, CUstream stream) {
    if (!count) return CUDA_SUCCESS;
    switch (kind) {
        case cudaMemcpyHostToDevice:
            return cuMemcpyHtoDAsync_v2(device(to), from, count, stream);
        case cudaMemcpyDeviceToHost:
            return cuMemcpyDtoHAsync_v2(to, device(from), count, stream);
        case cudaMemcpyDeviceToDevice:
            return cuMemcpyDtoDAsync_v2(device(to), device(from), count, stream);
        default:
            return cuMemcpyAsync(device(to), device(from), count, stream);
    }
}

CUDA_MEMCPY2D flat(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                   size_t height, cudaMemcpyKind kind) {
    CUDA_MEMCPY2D c{};
    c.srcMemoryType = source_type(kind);
    c.srcHost = from;
    c.srcDevice = device(from);
    c.srcPitch = from_pitch;
    c.dstMemoryType = target_type(kind);
    c.dstHost = to;
    c.dstDevice = device(to);
    c.dstPitch = to_pitch;
    c.WidthInBytes = width;
    c.Height = height;
    return c;
}

cudaError_t symbol_error(cudaError_t error) {
    return error == cudaErrorSymbolNotFound ? finish(cudaErrorInvalidSymbol) : error;
}

}  // namespace

cudaError_t cudaMemcpy(void* dst, const void* src, size_t count, cudaMemcpyKind kind) {
    if (!valid(kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] { return copy(dst, src, count, kind); });
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t count, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    if (!valid(kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] { return copy(dst, src, count, kind, stream); });
}

cudaError_t cudaMemcpyPeer(void* dst, int, const void* src, int, size_t count) {
    return call([&] { return copy(dst, src, count, cudaMemcpyDeviceToDevice); });
}

cudaError_t cudaMemcpyPeerAsync(void* dst, int, const void* src, int, size_t count,
                                cudaStream_t stream) {
    return call([&] { return copy(dst, src, count, cudaMemcpyDeviceToDevice, stream); });
}

cudaError_t cudaMemcpy2D(void* dst, size_t dpitch, const void* src, size_t spitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
    if (!valid(kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] {
        const CUDA_MEMCPY2D c = flat(dst, dpitch, src, spitch, width, height, kind);
        return width && height ? cuMemcpy2DUnaligned_v2(&c) : CUDA_SUCCESS;
    });
}

cudaError_t cudaMemcpy2DAsync(void* dst, size_t dpitch, const void* src, size_t spitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
    if (!valid(kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] {
        const CUDA_MEMCPY2D c = flat(dst, dpitch, src, spitch, width, height, kind);
        return width && height ? cuMemcpy2DAsync_v2(&c, stream) : CUDA_SUCCESS;
    });
}

cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* p) {
    if (!p) return finish(cudaErrorInvalidValue);
    if (!valid(p->kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] {
        const CUDA_MEMCPY3D c = solid(*p);
        return cuMemcpy3D_v2(&c);
    });
}

cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* p, cudaStream_t stream) {
    if (!p) return finish(cudaErrorInvalidValue);
    if (!valid(p->kind)) return finish(cudaErrorInvalidMemcpyDirection);
    return call([&] {
        const CUDA_MEMCPY3D c = solid(*p);
        return cuMemcpy3DAsync_v2(&c, stream);
    });
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* src, size_t count, size_t offset,
                               cudaMemcpyKind kind) {
    return symbol_error(call([&] {
        char* to = nullptr;
        const CUresult bad = inside(symbol, offset, count, &to);
        return bad ? bad : copy(to, src, count, kind);
    }));
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* src, size_t count,
                                    size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
    return symbol_error(call([&] {
        char* to = nullptr;
        const CUresult bad = inside(symbol, offset, count, &to);
        return bad ? bad : copy(to, src, count, kind, stream);
    }));
}

cudaError_t cudaMemcpyFromSymbol(void* dst, const void* symbol, size_t count, size_t offset,
                                 cudaMemcpyKind kind) {
    return symbol_error(call([&] {
        char* from = nullptr;
        const CUresult bad = inside(symbol, offset, count, &from);
        return bad ? bad : copy(dst, from, count, kind);
    }));
}

cudaError_t cudaMemcpyFromSymbolAsync(void* dst, const void* symbol, size_t count, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t stream) {
    return symbol_error(call([&] {
        char* from = nullptr;
        const CUresult bad = inside(symbol, offset, count, &from);
        return bad ? bad : copy(dst, from, count, kind, stream);
    }));
}

cudaError_t cudaMemset(void* devPtr, int value, size_t count) {
    return call([&] {
        return count ? cuMemsetD8_v2(device(devPtr), static_cast<unsigned char>(value), count)
                     : CUDA_SUCCESS;
    });
}

cudaError_t cudaMemsetAsync(void* devPtr, int value, size_t count, cudaStream_t stream) {
    return call([&] {
        return count ? cuMemsetD8Async(device(devPtr), static_cast<unsigned char>(value), count,
                                       stream)
                     : CUDA_SUCCESS;
    });
}

cudaError_t cudaMemset2D(void* devPtr, size_t pitch, int value, size_t width, size_t height) {
    return call([&] {
        return cuMemsetD2D8_v2(device(devPtr), pitch, static_cast<unsigned char>(value), width,
                               height);
    });
}

cudaError_t cudaMemset2DAsync(void* devPtr, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    return call([&] {
        return cuMemsetD2D8Async(device(devPtr), pitch, static_cast<unsigned char>(value), width,
                                 height, stream);
    });
}

// The driver fills planes: one after the other.
cudaError_t cudaMemset3DAsync(cudaPitchedPtr pitchedDevPtr, int value, cudaExtent extent,
                              cudaStream_t stream) {
    return call([&] {
        const CUdeviceptr base = device(pitchedDevPtr.ptr);
        const size_t plane = pitchedDevPtr.pitch * pitchedDevPtr.ysize;
        if (!extent.width || !extent.height) return CUDA_SUCCESS;
        for (size_t z = 0; z < extent.depth; ++z) {
            if (const CUresult bad = cuMemsetD2D8Async(base + z * plane, pitchedDevPtr.pitch,
                                                       static_cast<unsigned char>(value),
                                                       extent.width, extent.height, stream)) {
                return bad;
            }
        }
        return CUDA_SUCCESS;
    });
}

cudaError_t cudaMemset3D(cudaPitchedPtr pitchedDevPtr, int value, cudaExtent extent) {
    return cudaMemset3DAsync(pitchedDevPtr, value, extent, nullptr);
}
