// Memory, copies and contexts: the calls that need more of the worker than one driver function.
#include <cstring>

#include "wire/log.hpp"
#include "worker/server.hpp"

namespace carrel::worker {

void Server::grow(wire::Reader& in, Reply& out) {
    const auto base = in.get<uint64_t>();
    const auto bytes = in.get<uint64_t>();
    if (memory_.has_garbage() && activity_.check(context_) == CUDA_SUCCESS && activity_.idle()) {
        memory_.reap();
    }
    const CUresult result = memory_.grow(base, bytes);
    if (result != CUDA_ERROR_NOT_READY) {
        out.result(result);
        return;
    }
    // Freed memory is in the way, and work that may still use it is running.
    later(out, [this, base, bytes](Reply& reply) {
        invoke(driver_.cuCtxSynchronize);
        memory_.reap();
        const CUresult again = memory_.grow(base, bytes);
        reply.result(again == CUDA_ERROR_NOT_READY ? CUDA_ERROR_OUT_OF_MEMORY : again);
    });
}

void Server::copy_in(wire::Reader& in, uint64_t bulk, Reply& out) {
    const auto to = in.get<uint64_t>();
    const auto bytes = in.get<uint64_t>();
    if (bytes != (bulk ? bulk : in.left() - sizeof(uint64_t))) {
        throw wire::Malformed("a copy whose data has another size than it says");
    }
    CUstream stream;
    try {
        const auto name = in.get<uint64_t>();
        // A copy on the spot would use the default stream, which must wait for streams that
        // capture.
        const bool quiet =
            !graphs_.capturing() && activity_.check(context_, nullptr) == CUDA_SUCCESS;
        if (!bulk) {
            if (!quiet) stream = objects_.get<CUstream>(name);
            out.result(transfer_.copy_in(to, in.rest(), quiet ? nullptr : stream, quiet));
            return;
        }
        stream = objects_.get<CUstream>(name);
    } catch (const BadHandle&) {
        if (bulk && !channel_.discard(bulk)) throw wire::Malformed("a copy ends too early");
        throw;
    }
    CUresult result = CUDA_SUCCESS;
    if (!transfer_.copy_in_bulk(channel_, to, bulk, stream, &result)) {
        throw wire::Malformed("a copy ends too early");
    }
    out.result(result);
}

void Server::copy_out(wire::Reader& in, Reply& out) {
    const auto from = in.get<uint64_t>();
    const auto bytes = in.get<uint64_t>();
    const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
    if (!out.wanted() || !bytes || bytes > wire::kMaxBulk) throw wire::Malformed("a bad copy");
    if (activity_.check(context_, stream) != CUDA_ERROR_NOT_READY) {
        transfer_.copy_out(outbox_, out.number(), from, bytes, stream);
        activity_.check(context_, stream);
        out.sent();
        return;
    }
    later(out, [this, from, bytes, stream](Reply& reply) {
        transfer_.copy_out(outbox_, reply.number(), from, bytes, stream);
        reply.sent();
    });
}

void Server::copy_shape(wire::Reader& in, uint64_t bulk, Reply& out) {
    enum class Direction : uint8_t { on_device, to_device, to_host };
    auto shape = in.get<CUDA_MEMCPY3D>();
    const auto direction = in.get<Direction>();
    const auto name = in.get<uint64_t>();
    const uint64_t width = shape.WidthInBytes;
    const uint64_t rows = uint64_t{shape.Height} * shape.Depth;
    if (shape.Height > wire::kMaxPayload || shape.Depth > wire::kMaxPayload ||
        width > wire::kMaxPayload || rows > wire::kMaxPayload ||
        (direction != Direction::on_device && width * rows > wire::kMaxPayload)) {
        throw wire::Malformed("a copy in pieces that are too large");
    }
    const bool host_side =
        shape.srcMemoryType == CU_MEMORYTYPE_HOST || shape.dstMemoryType == CU_MEMORYTYPE_HOST;
    if (shape.srcMemoryType == CU_MEMORYTYPE_ARRAY || shape.dstMemoryType == CU_MEMORYTYPE_ARRAY ||
        host_side != (direction != Direction::on_device) ||
        bulk != (direction == Direction::to_device ? width * rows : 0)) {
        throw wire::Malformed("a copy whose data does not fit its shape");
    }
    HostBuffer dense;
    if (bulk) {
        dense = HostBuffer(driver_, bulk);
        if (!channel_.receive(dense.data(), bulk)) throw wire::Malformed("a copy ends too early");
    }
    const auto stream = objects_.get<CUstream>(name);
    if (direction == Direction::on_device) {
        out.result(invoke(driver_.cuMemcpy3DAsync_v2, &shape, stream));
        return;
    }
    if (direction == Direction::to_device) {
        shape.srcHost = dense.data();
        shape.srcXInBytes = shape.srcY = shape.srcZ = 0;
        shape.srcPitch = width;
        shape.srcHeight = shape.Height;
        out.result(invoke(driver_.cuMemcpy3DAsync_v2, &shape, stream));
        transfer_.hold(std::move(dense), stream);
        return;
    }
    if (!out.wanted()) throw wire::Malformed("a copy to the host without an answer");
    later(out, [this, shape, stream, data = std::make_shared<std::vector<std::byte>>(width * rows)](
                   Reply& reply) mutable {
        shape.dstHost = data->data();
        shape.dstXInBytes = shape.dstY = shape.dstZ = 0;
        shape.dstPitch = shape.WidthInBytes;
        shape.dstHeight = shape.Height;
        CUresult result = invoke(driver_.cuMemcpy3DAsync_v2, &shape, stream);
        if (result == CUDA_SUCCESS) result = invoke(driver_.cuStreamSynchronize, stream);
        if (result == CUDA_SUCCESS) reply.outbox().send(wire::Frame::data, reply.number(), *data);
        reply.result(result);
    });
}

// Everything in the primary context goes, except what holds memory for the session.
void Server::reset(Reply& out) {
    host_calls_.close();
    enter(wire::kPrimaryContext);
    invoke(driver_.cuCtxSynchronize);
    transfer_.clear();
    mirrors_.clear();
    memory_.clear(false);
    objects_.erase_context(wire::kPrimaryContext);
    links_.clear();
    per_thread_.clear();
    activity_.forget(context_);
    CUresult result = invoke(driver_.cuDevicePrimaryCtxReset_v2, device_.device);
    CUcontext renewed = nullptr;
    const CUresult retained = invoke(driver_.cuDevicePrimaryCtxRetain, &renewed, device_.device);
    if (retained == CUDA_SUCCESS) {
        invoke(driver_.cuDevicePrimaryCtxRelease_v2, device_.device);
        device_.primary = contexts_[wire::kPrimaryContext] = context_ = renewed;
        objects_.erase<CUcontext>(wire::kPrimaryContext);
        objects_.bind<CUcontext>(wire::kPrimaryContext, renewed);
        invoke(driver_.cuCtxSetCurrent, renewed);
    } else if (result == CUDA_SUCCESS) {
        result = retained;
    }
    host_calls_.reopen();
    out.result(result);
}

void Server::create_context(wire::Reader& in, Reply& out) {
    const auto name = static_cast<uint32_t>(in.get<uint64_t>());
    const auto flags = in.get<unsigned int>();
    if (contexts_.contains(name)) throw wire::Malformed("a context is created twice");
    if (contexts_.size() >= 256) {
        out.result(CUDA_ERROR_OUT_OF_MEMORY);
        return;
    }
    CUcontext created = nullptr;
    CUresult result;
    if (driver_.cuCtxCreate_v4) {
        result = driver_.cuCtxCreate_v4(&created, nullptr, flags, device_.device);
    } else {
        result = invoke(driver_.cuCtxCreate_v2, &created, flags, device_.device);
    }
    if (result == CUDA_SUCCESS) {
        contexts_[name] = created;
        objects_.bind<CUcontext>(name, created);
        // Creation made it current in this thread; the next call says which one it wants.
        CUcontext popped = nullptr;
        invoke(driver_.cuCtxPopCurrent_v2, &popped);
        invoke(driver_.cuCtxSetCurrent, context_);
    }
    out.result(result);
}

void Server::destroy_context(wire::Reader& in, Reply& out) {
    const auto name = static_cast<uint32_t>(in.get<uint64_t>());
    if (name == wire::kPrimaryContext) throw BadHandle{};
    const CUcontext gone = objects_.get<CUcontext>(name);
    if (context_name_ == name) enter(wire::kPrimaryContext);
    objects_.erase_context(name);
    objects_.erase<CUcontext>(name);
    per_thread_.erase(name);
    activity_.forget(gone);
    mirrors_.forget(gone);
    contexts_.erase(name);
    out.result(invoke(driver_.cuCtxDestroy_v2, gone));
}

}  // namespace carrel::worker
