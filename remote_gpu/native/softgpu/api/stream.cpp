// cuStream* but for capture; host functions, waits for and writes of values in memory.
#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUresult create(CUstream* phStream, unsigned flags, int priority) {
    return entry_in_context([&](Context& context) {
        require(phStream && (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) == 0);
        *phStream = Runtime::get().streams.add(context.create_stream(flags, priority));
    });
}

CUresult value_operation(CUstream stream, const ValueOperation& operation) {
    return entry([&] {
        const auto target = find_stream(stream);
        require(operation.address % operation.bytes == 0 &&
                Runtime::get().pages().mapped(operation.address, operation.bytes));
        if (capturing(*target)) {
            capture(*target, operation);
            return;
        }
        target->context.enqueue(*target,
                                [=, context = &target->context] { operation.perform(*context); });
    });
}

}  // namespace

CUresult cuStreamCreate(CUstream* phStream, unsigned int Flags) {
    return create(phStream, Flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags, int priority) {
    return create(phStream, flags, priority);
}

CUresult cuStreamDestroy_v2(CUstream hStream) {
    return entry([&] {
        const auto stream = Runtime::get().streams.remove(hStream);
        require(stream != nullptr, CUDA_ERROR_INVALID_HANDLE);
        abandon_capture(*stream);
        stream->context.destroy_stream(*stream);
    });
}

CUresult cuStreamGetPriority(CUstream hStream, int* priority) {
    return entry([&] {
        require(priority != nullptr);
        *priority = find_stream(hStream)->priority;
    });
}

CUresult cuStreamGetFlags(CUstream hStream, unsigned int* flags) {
    return entry([&] {
        require(flags != nullptr);
        *flags = find_stream(hStream)->flags;
    });
}

CUresult cuStreamGetId(CUstream hStream, unsigned long long* streamId) {
    return entry([&] {
        require(streamId != nullptr);
        *streamId = find_stream(hStream)->id;
    });
}

CUresult cuStreamGetCtx(CUstream hStream, CUcontext* pctx) {
    return entry([&] {
        require(pctx != nullptr);
        *pctx = HandleTable<Context, CUcontext>::handle_of(&find_stream(hStream)->context);
    });
}

CUresult cuStreamGetCtx_v2(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) {
    if (pGreenCtx) *pGreenCtx = nullptr;
    return cuStreamGetCtx(hStream, pCtx);
}

CUresult cuStreamGetDevice(CUstream hStream, CUdevice* device) {
    return entry([&] {
        require(device != nullptr);
        *device = find_stream(hStream)->context.device().ordinal();
    });
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags) {
    return entry([&] {
        require((Flags & ~static_cast<unsigned>(CU_EVENT_WAIT_EXTERNAL)) == 0);
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        const auto event = Runtime::get().events.get(hEvent);
        if ((Flags & CU_EVENT_WAIT_EXTERNAL) && capturing(*stream)) {
            capture(*stream, EventWait{event});
            return;
        }
        if (capture_wait(*stream, *event)) return;
        (void)capturing(*stream);
        const OperationPtr after = event->recorded();
        if (after) stream->context.enqueue(*stream, {}, {&after, 1});
    });
}

CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                             unsigned int flags) {
    return entry([&] {
        require(callback && flags == 0);
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        if (capturing(*stream)) {
            // As a node it has no stream's state to tell of.
            require_no_capture(*stream);
        }
        stream->context.enqueue_always(*stream, [=, context = stream->context.shared_from_this()] {
            context->flush_output();
            callback(hStream, context->error(), userData);
        });
    });
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) {
    return entry([&] {
        require(fn != nullptr);
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        if (capturing(*stream)) {
            capture(*stream, HostCall{fn, userData});
            return;
        }
        stream->context.enqueue(*stream, [=] { fn(userData); });
    });
}

CUresult cuStreamQuery(CUstream hStream) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        require_no_capture(*stream);
        require_unsafe_call_allowed();
        if (!stream->context.idle(*stream)) return CUDA_ERROR_NOT_READY;
        stream->context.flush_output();
        return stream->context.error();
    });
}

CUresult cuStreamSynchronize(CUstream hStream) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        require_no_capture(*stream);
        require_unsafe_call_allowed();
        stream->context.synchronize(*stream);
    });
}

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                unsigned int flags) {
    return value_operation(stream, {addr, value, 4, true, flags});
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                unsigned int flags) {
    return value_operation(stream, {addr, value, 8, true, flags});
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                 unsigned int) {
    return value_operation(stream, {addr, value, 4});
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                 unsigned int) {
    return value_operation(stream, {addr, value, 8});
}
