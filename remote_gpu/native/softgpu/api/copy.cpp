// cuMemcpy*: copies between host and device, in one, two and three dimensions.
#include "softgpu/copy.hpp"

#include <cstring>
#include <memory>
#include <vector>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

// Pageable memory of the host is read before the call returns, as CUDA promises: up to this size by
// a copy of its own.
constexpr std::size_t kStaged = std::size_t{64} << 10;

std::uint64_t address_of(const void* pointer) {
    return reinterpret_cast<std::uint64_t>(pointer);
}

// From the first byte to the last, gaps included.
std::size_t span_of(const End& end, const Extent& extent) {
    const std::size_t rows = (extent.depth - 1) * end.rows + (extent.height - 1);
    require(rows == 0 || end.pitch <= PageTable::kAddressLimit / rows);
    return rows * end.pitch + extent.width;
}

void require_allocated(std::uint64_t address, std::size_t bytes) {
    Runtime& runtime = Runtime::get();
    const auto allocation = runtime.addresses().find(address);
    require(allocation.has_value());
    const bool inside = bytes <= allocation->base + allocation->bytes - address;
    // Mappings may stand side by side; the page table knows whether they do.
    require(inside || allocation->kind == MemoryKind::mapped);
    require(runtime.pages().mapped(address, bytes));
}

// Whether only the host's page tables know the memory: not pinned, not ours.
bool pageable(const End& end, std::size_t span) {
    return end.side != Side::device && !Runtime::get().pages().mapped(end.base, span);
}

void check(const End& end, std::size_t span) {
    require(end.base != 0);
    if (end.side == Side::device) require_allocated(end.base, span);
    if (end.side == Side::either && Runtime::get().addresses().find(end.base))
        require_allocated(end.base, span);
}

enum class Wait : std::uint8_t { asynchronous, as_cuda_does };

void copy(Stream& stream, const End& to, const End& from, const Extent& extent, Wait wait) {
    stream.context.require_usable();
    if (extent.empty()) return;
    const Copy ready{to, from, extent};
    const std::size_t to_span = span_of(to, extent), from_span = span_of(from, extent);
    check(to, to_span);
    check(from, from_span);
    const bool waits =
        wait == Wait::as_cuda_does && (to.side != Side::device || from.side != Side::device);
    if (wait == Wait::as_cuda_does) require_unsafe_call_allowed();
    if (capturing(stream)) {
        capture(stream, ready);
        return;
    }
    const bool to_pageable = pageable(to, to_span), from_pageable = pageable(from, from_span);
    if (to_pageable || waits || (from_pageable && from_span > kStaged)) {
        stream.context.enqueue_and_run(stream, [=] { ready.perform(); });
        return;
    }
    if (!from_pageable) {
        stream.context.enqueue(stream, [=] { ready.perform(); });
        return;
    }
    const auto* source = reinterpret_cast<const unsigned char*>(from.base);
    auto staged = std::make_shared<std::vector<unsigned char>>(source, source + from_span);
    Copy from_staged = ready;
    from_staged.from.base = address_of(staged->data());
    stream.context.enqueue(stream, [=, staged = std::move(staged)] { from_staged.perform(); });
}

CUresult copy_row(CUstream stream, Side to_side, std::uint64_t to, Side from_side,
                  std::uint64_t from, std::size_t bytes, Wait wait) {
    return entry_in_context([&](Context&) {
        copy(*find_stream(stream), {to, to_side, bytes, 1}, {from, from_side, bytes, 1},
             {bytes, 1, 1}, wait);
    });
}

End end_of(CUmemorytype type, const void* host, CUdeviceptr device, std::size_t x, std::size_t y,
           std::size_t z, std::size_t pitch, std::size_t height, const Extent& extent) {
    End end;
    end.pitch = pitch ? pitch : extent.width + x;
    end.rows = height ? height : extent.height + y;
    require(end.pitch >= x + extent.width || (extent.height == 1 && extent.depth == 1));
    switch (type) {
        case CU_MEMORYTYPE_HOST:
            end.base = address_of(host);
            end.side = Side::host;
            break;
        case CU_MEMORYTYPE_DEVICE:
            end.base = device;
            end.side = Side::device;
            break;
        case CU_MEMORYTYPE_UNIFIED:
            end.base = device;
            break;
        case CU_MEMORYTYPE_ARRAY:
            throw Failure(CUDA_ERROR_NOT_SUPPORTED);
        default:
            throw Failure(CUDA_ERROR_INVALID_VALUE);
    }
    require(end.base != 0);
    end.base += (z * end.rows + y) * end.pitch + x;
    return end;
}

CUresult copy_2d(const CUDA_MEMCPY2D* p, CUstream stream, Wait wait) {
    return entry_in_context([&](Context&) {
        require(p != nullptr);
        const Extent extent{p->WidthInBytes, p->Height, 1};
        if (extent.empty()) return;
        const End from = end_of(p->srcMemoryType, p->srcHost, p->srcDevice, p->srcXInBytes, p->srcY,
                                0, p->srcPitch, 0, extent);
        const End to = end_of(p->dstMemoryType, p->dstHost, p->dstDevice, p->dstXInBytes, p->dstY,
                              0, p->dstPitch, 0, extent);
        copy(*find_stream(stream), to, from, extent, wait);
    });
}

template <class Description>
Copy copy_from(const Description& p) {
    require(p.srcLOD == 0 && p.dstLOD == 0);
    Copy copy;
    copy.extent = {p.WidthInBytes, p.Height, p.Depth};
    if (copy.extent.empty()) return copy;
    copy.from = end_of(p.srcMemoryType, p.srcHost, p.srcDevice, p.srcXInBytes, p.srcY, p.srcZ,
                       p.srcPitch, p.srcHeight, copy.extent);
    copy.to = end_of(p.dstMemoryType, p.dstHost, p.dstDevice, p.dstXInBytes, p.dstY, p.dstZ,
                     p.dstPitch, p.dstHeight, copy.extent);
    return copy;
}

// CUDA_MEMCPY3D and CUDA_MEMCPY3D_PEER: the same fields but for the contexts.
template <class Description>
CUresult copy_3d(const Description* p, CUstream stream, Wait wait) {
    return entry_in_context([&](Context&) {
        require(p != nullptr);
        const Copy ready = copy_from(*p);
        copy(*find_stream(stream), ready.to, ready.from, ready.extent, wait);
    });
}

}  // namespace

namespace carrel::softgpu {

void Copy::perform() const {
    for (std::size_t z = 0; z < extent.depth; ++z)
        for (std::size_t y = 0; y < extent.height; ++y)
            std::memmove(
                reinterpret_cast<void*>(to.base + (z * to.rows + y) * to.pitch),
                reinterpret_cast<const void*>(from.base + (z * from.rows + y) * from.pitch),
                extent.width);
}

Copy copy_of(const CUDA_MEMCPY3D& description) {
    Copy copy = copy_from(description);
    require(!copy.extent.empty());
    check(copy.to, span_of(copy.to, copy.extent));
    check(copy.from, span_of(copy.from, copy.extent));
    return copy;
}

CUDA_MEMCPY3D description_of(const Copy& copy) {
    const auto type = [](Side side) {
        return side == Side::host     ? CU_MEMORYTYPE_HOST
               : side == Side::device ? CU_MEMORYTYPE_DEVICE
                                      : CU_MEMORYTYPE_UNIFIED;
    };
    CUDA_MEMCPY3D p{};
    p.srcMemoryType = type(copy.from.side);
    p.dstMemoryType = type(copy.to.side);
    if (copy.from.side == Side::host) {
        p.srcHost = reinterpret_cast<const void*>(copy.from.base);
    } else {
        p.srcDevice = copy.from.base;
    }
    if (copy.to.side == Side::host) {
        p.dstHost = reinterpret_cast<void*>(copy.to.base);
    } else {
        p.dstDevice = copy.to.base;
    }
    p.srcPitch = copy.from.pitch, p.srcHeight = copy.from.rows;
    p.dstPitch = copy.to.pitch, p.dstHeight = copy.to.rows;
    p.WidthInBytes = copy.extent.width;
    p.Height = copy.extent.height;
    p.Depth = copy.extent.depth;
    return p;
}

}  // namespace carrel::softgpu

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) {
    return copy_row(nullptr, Side::either, dst, Side::either, src, ByteCount, Wait::as_cuda_does);
}

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) {
    return copy_row(hStream, Side::either, dst, Side::either, src, ByteCount, Wait::asynchronous);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount) {
    return copy_row(nullptr, Side::device, dstDevice, Side::host, address_of(srcHost), ByteCount,
                    Wait::as_cuda_does);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                              CUstream hStream) {
    return copy_row(hStream, Side::device, dstDevice, Side::host, address_of(srcHost), ByteCount,
                    Wait::asynchronous);
}

CUresult cuMemcpyDtoH_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) {
    return copy_row(nullptr, Side::host, address_of(dstHost), Side::device, srcDevice, ByteCount,
                    Wait::as_cuda_does);
}

CUresult cuMemcpyDtoHAsync_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) {
    return copy_row(hStream, Side::host, address_of(dstHost), Side::device, srcDevice, ByteCount,
                    Wait::asynchronous);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) {
    return copy_row(nullptr, Side::device, dstDevice, Side::device, srcDevice, ByteCount,
                    Wait::as_cuda_does);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) {
    return copy_row(hStream, Side::device, dstDevice, Side::device, srcDevice, ByteCount,
                    Wait::asynchronous);
}

CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext, CUdeviceptr srcDevice, CUcontext,
                      size_t ByteCount) {
    return cuMemcpyDtoD_v2(dstDevice, srcDevice, ByteCount);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext, CUdeviceptr srcDevice, CUcontext,
                           size_t ByteCount, CUstream hStream) {
    return cuMemcpyDtoDAsync_v2(dstDevice, srcDevice, ByteCount, hStream);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* pCopy) {
    return copy_2d(pCopy, nullptr, Wait::as_cuda_does);
}

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* pCopy) {
    return copy_2d(pCopy, nullptr, Wait::as_cuda_does);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* pCopy, CUstream hStream) {
    return copy_2d(pCopy, hStream, Wait::asynchronous);
}

CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* pCopy) {
    return copy_3d(pCopy, nullptr, Wait::as_cuda_does);
}

CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* pCopy, CUstream hStream) {
    return copy_3d(pCopy, hStream, Wait::asynchronous);
}

CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* pCopy) {
    return copy_3d(pCopy, nullptr, Wait::as_cuda_does);
}

CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* pCopy, CUstream hStream) {
    return copy_3d(pCopy, hStream, Wait::asynchronous);
}
