#include "client/copies.hpp"

#include "client/forward.hpp"
#include "client/memory.hpp"
#include "client/mirror.hpp"
#include "client/settled.hpp"
#include "client/work.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

namespace {

// Whether the bytes lie in one allocation; memory outside the arena is the worker's to judge.
bool plausible(CUdeviceptr pointer, size_t bytes) {
    if (!in_arena(pointer)) return true;
    const auto range = find_device(pointer);
    return range && bytes <= range->base + range->size - pointer;
}

bool is_device(CUdeviceptr pointer) {
    return in_arena(pointer) || find_device(pointer);
}

void put_copy(wire::Writer& w, CUdeviceptr pointer, size_t bytes, CUstream stream) {
    w.put(uint64_t{pointer});
    w.put(uint64_t{bytes});
    w.put(name_of(stream));
}

CUresult send_piece(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    const Context* context = current_context();
    if (!context) return no_context();
    const auto number = static_cast<uint16_t>(wire::Internal::copy_in);
    const auto encode = [&](wire::Writer& w) {
        put_copy(w, to, bytes, stream);
        if (bytes < wire::kInlineData) w.raw(from, bytes);
    };
    // Outside the arena only the worker knows whether the address is good: wait for its answer.
    if (!in_arena(to)) {
        Pending pending;
        if (const CUresult bad =
                session().transact(number, context->wire, encode, &pending,
                                   {from, bytes < wire::kInlineData ? 0 : bytes})) {
            return bad;
        }
        return session().settle(static_cast<CUresult>(wire::Reader(pending.body()).get<int32_t>()));
    }
    const uint64_t before = session().calls();
    const CUresult bad =
        bytes < wire::kInlineData
            ? session().post(number, context->wire, encode)
            : session().transact(number, context->wire, encode, nullptr, {from, bytes});
    // A host function before it runs in this process, and is to be waited for.
    if (!bad && !work.host_functions.load(std::memory_order_relaxed))
        settled.note(stream, context->wire, before);
    return bad;
}

}  // namespace

CUresult copy_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!bytes) return CUDA_SUCCESS;
    const auto source = reinterpret_cast<uint64_t>(from);
    if (!from || !plausible(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(stream, &captured)) return bad;
        if (captured) return capture_copy_in(to, from, bytes, stream);
    }
    if (mirrors_exist()) {
        // In stream order the worker's copy of mirrored memory is the true one.
        if (const auto mirror = find_mirror(source)) {
            const CUdeviceptr there = mirror->device + (source - mirror->host);
            return cuMemcpyDtoDAsync_v2(to, there, bytes, stream);
        }
    }
    if (in_arena(source)) return CUDA_ERROR_INVALID_VALUE;
    const MirrorWork mirrored;
    if (mirrored.result()) return mirrored.result();
    return send_in(to, from, bytes, stream);
}

CUresult send_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    const auto* at = static_cast<const std::byte*>(from);
    while (bytes > wire::kPiece) {
        if (const CUresult bad = send_piece(to, at, wire::kPiece, stream)) return bad;
        to += wire::kPiece;
        at += wire::kPiece;
        bytes -= wire::kPiece;
    }
    return send_piece(to, at, bytes, stream);
}

CUresult copy_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!bytes) return session().settle(CUDA_SUCCESS);
    const auto target = reinterpret_cast<uint64_t>(to);
    if (!to || !plausible(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(stream, &captured)) return bad;
        if (captured) return capture_copy_out(to, from, bytes, stream);
    }
    if (!mirrors_exist()) {
        if (in_arena(target)) return CUDA_ERROR_INVALID_VALUE;
        return fetch_out(to, from, bytes, stream);
    }
    if (const auto mirror = find_mirror(target)) {
        const CUdeviceptr there = mirror->device + (target - mirror->host);
        const CUresult result = cuMemcpyDtoDAsync_v2(there, from, bytes, stream);
        return result ? result : cuStreamSynchronize(stream);
    }
    if (in_arena(target)) return CUDA_ERROR_INVALID_VALUE;
    const MirrorWait wait;
    if (const CUresult bad = publish_mirrors()) return bad;
    if (const CUresult bad = fetch_out(to, from, bytes, stream)) return bad;
    return wait.collect(false);
}

CUresult fetch_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    const Context* context = current_context();
    if (!context) return no_context();
    Pending pending;
    pending.sink = static_cast<std::byte*>(to);
    pending.sink_size = bytes;
    const auto encode = [&](wire::Writer& w) { put_copy(w, from, bytes, stream); };
    const uint64_t before = session().calls();
    if (const CUresult bad = session().transact(static_cast<uint16_t>(wire::Internal::copy_out),
                                                context->wire, encode, &pending)) {
        return bad;
    }
    const auto result = static_cast<CUresult>(wire::Reader(pending.body()).get<int32_t>());
    if (!result) settled.note(stream, context->wire, before);
    return session().settle(result);
}

CUresult copy_any(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    const bool to_device = is_device(to);
    const bool from_device = is_device(from);
    if (to_device && from_device) return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
    if (to_device) return copy_in(to, reinterpret_cast<const void*>(from), bytes, stream);
    if (from_device) return copy_out(reinterpret_cast<void*>(to), from, bytes, stream);
    if (captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(stream, &captured)) return bad;
        if (captured) return unsupported(Call::cuMemcpyAsync);
    }
    if (const CUresult bad = cuStreamSynchronize(stream)) return bad;
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return CUDA_SUCCESS;
}

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount) {
    trace(Call::cuMemcpyHtoD_v2, false);
    return copy_in(dstDevice, srcHost, ByteCount, nullptr);
}

CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                                      CUstream hStream) {
    trace(Call::cuMemcpyHtoDAsync_v2, false);
    return copy_in(dstDevice, srcHost, ByteCount, hStream);
}

CUresult CUDAAPI cuMemcpyDtoH_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) {
    trace(Call::cuMemcpyDtoH_v2, true);
    return copy_out(dstHost, srcDevice, ByteCount, nullptr);
}

CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                      CUstream hStream) {
    trace(Call::cuMemcpyDtoHAsync_v2, true);
    return copy_out(dstHost, srcDevice, ByteCount, hStream);
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) {
    trace(Call::cuMemcpy, false);
    return copy_any(dst, src, ByteCount, nullptr);
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                               CUstream hStream) {
    trace(Call::cuMemcpyAsync, false);
    return copy_any(dst, src, ByteCount, hStream);
}

CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                              CUcontext srcContext, size_t ByteCount) {
    return cuMemcpyPeerAsync(dstDevice, dstContext, srcDevice, srcContext, ByteCount, nullptr);
}

// A slice is one device: between its contexts a peer copy is a plain one.
CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext,
                                   CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount,
                                   CUstream hStream) {
    if (!find_context(dstContext) || !find_context(srcContext)) return CUDA_ERROR_INVALID_CONTEXT;
    return cuMemcpyDtoDAsync_v2(dstDevice, srcDevice, ByteCount, hStream);
}
