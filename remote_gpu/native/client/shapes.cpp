// Copies in two and three dimensions. Host data travels densely packed, in pieces of bounded size.
#include <algorithm>
#include <cstring>
#include <vector>

#include "client/copies.hpp"
#include "client/forward.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

constexpr size_t kPiece = size_t{64} << 20;  // bytes packed at once

enum class Direction : uint8_t { on_device, to_device, to_host };

struct Side {
    bool host;
    uint64_t base;
    size_t pitch;
    size_t height;
    size_t x, y, z;

    std::byte* row(size_t at_y, size_t at_z) const {
        return reinterpret_cast<std::byte*>(base) + ((z + at_z) * height + y + at_y) * pitch + x;
    }
};

// Where one side of a copy lies; false for arrays, which are not supported yet.
bool place(CUmemorytype type, const void* host, CUdeviceptr device, Side& side) {
    if (type == CU_MEMORYTYPE_ARRAY) return false;
    side.base = type == CU_MEMORYTYPE_HOST ? reinterpret_cast<uint64_t>(host) : device;
    side.host = type == CU_MEMORYTYPE_HOST ||
                (type == CU_MEMORYTYPE_UNIFIED && !in_arena(device) && !find_device(device));
    return true;
}

void put_shape(wire::Writer& w, const CUDA_MEMCPY3D& shape, Direction direction, CUstream stream) {
    w.put(shape);
    w.put(direction);
    w.put(name_of(stream));
}

// One piece, small enough to be packed.
CUresult copy_piece(CUDA_MEMCPY3D shape, Side from, Side to, CUstream stream) {
    const auto number = static_cast<uint16_t>(wire::Internal::copy_shape);
    const uint32_t context = current_context_name();
    const size_t width = shape.WidthInBytes;
    const size_t total = width * shape.Height * shape.Depth;
    std::vector<std::byte> dense(total);
    if (from.host) {
        std::byte* at = dense.data();
        for (size_t z = 0; z < shape.Depth; ++z) {
            for (size_t y = 0; y < shape.Height; ++y, at += width) {
                std::memcpy(at, from.row(y, z), width);
            }
        }
        return session().transact(
            number, context,
            [&](wire::Writer& w) { put_shape(w, shape, Direction::to_device, stream); }, nullptr,
            {dense.data(), total});
    }
    Pending pending;
    pending.sink = dense.data();
    pending.sink_size = total;
    if (const CUresult bad = session().transact(
            number, context,
            [&](wire::Writer& w) { put_shape(w, shape, Direction::to_host, stream); }, &pending)) {
        return bad;
    }
    const auto result = static_cast<CUresult>(wire::Reader(pending.body()).get<int32_t>());
    if (result == CUDA_SUCCESS) {
        const std::byte* at = dense.data();
        for (size_t z = 0; z < shape.Depth; ++z) {
            for (size_t y = 0; y < shape.Height; ++y, at += width) {
                std::memcpy(to.row(y, z), at, width);
            }
        }
    }
    return session().settle(result);
}

CUresult copy(const CUDA_MEMCPY3D& given, CUstream stream) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    CUDA_MEMCPY3D shape = given;
    if (!shape.WidthInBytes || !shape.Height || !shape.Depth) return CUDA_SUCCESS;
    Side from{};
    Side to{};
    if (!place(shape.srcMemoryType, shape.srcHost, shape.srcDevice, from) ||
        !place(shape.dstMemoryType, shape.dstHost, shape.dstDevice, to)) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    from.pitch = shape.srcPitch ? shape.srcPitch : shape.srcXInBytes + shape.WidthInBytes;
    to.pitch = shape.dstPitch ? shape.dstPitch : shape.dstXInBytes + shape.WidthInBytes;
    from.height = shape.srcHeight ? shape.srcHeight : shape.srcY + shape.Height;
    to.height = shape.dstHeight ? shape.dstHeight : shape.dstY + shape.Height;
    from.x = shape.srcXInBytes, from.y = shape.srcY, from.z = shape.srcZ;
    to.x = shape.dstXInBytes, to.y = shape.dstY, to.z = shape.dstZ;
    if (from.pitch < from.x + shape.WidthInBytes || to.pitch < to.x + shape.WidthInBytes) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!from.base || !to.base) return CUDA_ERROR_INVALID_VALUE;
    if ((from.host || to.host) && captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(stream, &captured)) return bad;
        if (captured) return unsupported(Call::cuMemcpy3DAsync_v2);
    }
    if (from.host && to.host) {
        if (const CUresult bad = cuStreamSynchronize(stream)) return bad;
        for (size_t z = 0; z < shape.Depth; ++z) {
            for (size_t y = 0; y < shape.Height; ++y) {
                std::memmove(to.row(y, z), from.row(y, z), shape.WidthInBytes);
            }
        }
        return CUDA_SUCCESS;
    }
    const MirrorWait wait;
    const MirrorWork mirrored;
    if (mirrored.result()) return mirrored.result();
    // The worker sees plain device addresses; it fills in the dense host side itself.
    shape.srcMemoryType = from.host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    shape.dstMemoryType = to.host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    shape.srcDevice = from.base, shape.dstDevice = to.base;
    shape.srcPitch = from.pitch, shape.dstPitch = to.pitch;
    shape.srcHeight = from.height, shape.dstHeight = to.height;
    shape.srcHost = nullptr, shape.dstHost = nullptr;
    if (!from.host && !to.host) {
        return session().post(
            static_cast<uint16_t>(wire::Internal::copy_shape), current_context_name(),
            [&](wire::Writer& w) { put_shape(w, shape, Direction::on_device, stream); });
    }
    if (shape.WidthInBytes > kPiece) return CUDA_ERROR_INVALID_VALUE;
    const size_t rows = std::max<size_t>(1, kPiece / shape.WidthInBytes);
    const size_t slices = std::max<size_t>(1, rows / shape.Height);
    for (size_t z = 0; z < shape.Depth; z += slices) {
        for (size_t y = 0; y < shape.Height; y += rows) {
            CUDA_MEMCPY3D piece = shape;
            Side piece_from = from;
            Side piece_to = to;
            piece.Depth = std::min(slices, shape.Depth - z);
            piece.Height = std::min(rows, shape.Height - y);
            piece.srcY = piece_from.y = from.y + y;
            piece.srcZ = piece_from.z = from.z + z;
            piece.dstY = piece_to.y = to.y + y;
            piece.dstZ = piece_to.z = to.z + z;
            if (const CUresult bad = copy_piece(piece, piece_from, piece_to, stream)) return bad;
        }
    }
    return to.host ? wait.collect(false) : CUDA_SUCCESS;
}

CUresult copy(const CUDA_MEMCPY2D* flat, CUstream stream) {
    if (!flat) return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D shape{};
    shape.srcXInBytes = flat->srcXInBytes, shape.srcY = flat->srcY;
    shape.srcMemoryType = flat->srcMemoryType;
    shape.srcHost = flat->srcHost, shape.srcDevice = flat->srcDevice;
    shape.srcPitch = flat->srcPitch;
    shape.dstXInBytes = flat->dstXInBytes, shape.dstY = flat->dstY;
    shape.dstMemoryType = flat->dstMemoryType;
    shape.dstHost = flat->dstHost, shape.dstDevice = flat->dstDevice;
    shape.dstPitch = flat->dstPitch;
    shape.WidthInBytes = flat->WidthInBytes, shape.Height = flat->Height;
    shape.Depth = 1;
    return copy(shape, stream);
}

}  // namespace

CUresult CUDAAPI cuMemcpy2D_v2(const CUDA_MEMCPY2D* pCopy) {
    return copy(pCopy, nullptr);
}
CUresult CUDAAPI cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* pCopy) {
    return copy(pCopy, nullptr);
}
CUresult CUDAAPI cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* pCopy, CUstream hStream) {
    return copy(pCopy, hStream);
}

CUresult CUDAAPI cuMemcpy3D_v2(const CUDA_MEMCPY3D* pCopy) {
    return pCopy ? copy(*pCopy, nullptr) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* pCopy, CUstream hStream) {
    return pCopy ? copy(*pCopy, hStream) : CUDA_ERROR_INVALID_VALUE;
}
