// cuStream*, host functions, waits for and writes of values in memory.
#include <atomic>
#include <chrono>
#include <thread>

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUresult create(CUstream* phStream, unsigned flags, int priority) {
    return entry_in_context([&](Context& context) {
        require(phStream && (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) == 0);
        *phStream = Runtime::get().streams.add(context.create_stream(flags, priority));
    });
}

template <class Value>
Value load(CUdeviceptr address) {
    return __atomic_load_n(reinterpret_cast<Value*>(address), __ATOMIC_SEQ_CST);
}

template <class Value>
bool satisfied(Value now, Value value, unsigned flags) {
    switch (flags & 3) {
        case CU_STREAM_WAIT_VALUE_GEQ:
            return static_cast<std::make_signed_t<Value>>(now - value) >= 0;
        case CU_STREAM_WAIT_VALUE_EQ:
            return now == value;
        case CU_STREAM_WAIT_VALUE_AND:
            return (now & value) != 0;
        default:
            return ~(now | value) != 0;
    }
}

void require_word(CUdeviceptr address, std::size_t bytes) {
    require(address % bytes == 0 && Runtime::get().pages().mapped(address, bytes));
}

template <class Value>
CUresult wait_value(CUstream stream, CUdeviceptr address, Value value, unsigned flags) {
    return entry([&] {
        const auto target = find_stream(stream);
        require_word(address, sizeof(Value));
        target->context.enqueue(*target, [=, context = &target->context] {
            while (!satisfied(load<Value>(address), value, flags)) {
                if (context->error() != CUDA_SUCCESS || context->abort) return;
                std::this_thread::sleep_for(std::chrono::microseconds(20));
            }
        });
    });
}

template <class Value>
CUresult write_value(CUstream stream, CUdeviceptr address, Value value) {
    return entry([&] {
        const auto target = find_stream(stream);
        require_word(address, sizeof(Value));
        target->context.enqueue(*target, [=] {
            __atomic_store_n(reinterpret_cast<Value*>(address), value, __ATOMIC_SEQ_CST);
        });
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
        const OperationPtr after = Runtime::get().events.get(hEvent)->recorded();
        if (after) stream->context.enqueue(*stream, [] {}, {&after, 1});
    });
}

CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                             unsigned int flags) {
    return entry([&] {
        require(callback && flags == 0);
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
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
        stream->context.enqueue(*stream, [=] { fn(userData); });
    });
}

CUresult cuStreamQuery(CUstream hStream) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        if (!stream->context.idle(*stream)) return CUDA_ERROR_NOT_READY;
        stream->context.flush_output();
        return stream->context.error();
    });
}

CUresult cuStreamSynchronize(CUstream hStream) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        stream->context.synchronize(*stream);
    });
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) {
    return entry([&] {
        require(captureStatus != nullptr);
        (void)find_stream(hStream);
        *captureStatus = CU_STREAM_CAPTURE_STATUS_NONE;
    });
}

CUresult cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                   cuuint64_t*, CUgraph*, const CUgraphNode**, size_t*) {
    return cuStreamIsCapturing(hStream, captureStatus_out);
}

CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                   cuuint64_t*, CUgraph*, const CUgraphNode**,
                                   const CUgraphEdgeData**, size_t*) {
    return cuStreamIsCapturing(hStream, captureStatus_out);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    return entry([&] {
        require(mode != nullptr);
        thread_local CUstreamCaptureMode current = CU_STREAM_CAPTURE_MODE_GLOBAL;
        std::swap(*mode, current);
    });
}

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                unsigned int flags) {
    return wait_value(stream, addr, value, flags);
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                unsigned int flags) {
    return wait_value(stream, addr, value, flags);
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                 unsigned int) {
    return write_value(stream, addr, value);
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                 unsigned int) {
    return write_value(stream, addr, value);
}
