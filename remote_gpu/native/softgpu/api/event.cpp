// cuEvent*: marks in streams, and the time between them.
#include <chrono>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

CUresult cuEventCreate(CUevent* phEvent, unsigned int Flags) {
    return entry_in_context([&](Context& context) {
        constexpr unsigned kKnown =
            CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
        require(phEvent && (Flags & ~kKnown) == 0);
        require(!(Flags & CU_EVENT_INTERPROCESS), CUDA_ERROR_NOT_SUPPORTED);
        *phEvent =
            Runtime::get().events.add(std::make_shared<Event>(context.shared_from_this(), Flags));
    });
}

CUresult cuEventDestroy_v2(CUevent hEvent) {
    return entry([&] {
        require(Runtime::get().events.remove(hEvent) != nullptr, CUDA_ERROR_INVALID_HANDLE);
    });
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) {
    return entry([&] {
        require((flags & ~static_cast<unsigned>(CU_EVENT_RECORD_EXTERNAL)) == 0);
        const auto event = Runtime::get().events.get(hEvent);
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        require(&stream->context == event->context.get(), CUDA_ERROR_INVALID_HANDLE);
        if (capturing(*stream)) {
            if (flags & CU_EVENT_RECORD_EXTERNAL) {
                capture(*stream, EventRecord{event});
            } else {
                capture_record(*stream, *event);
            }
            return;
        }
        forget_mark(*event);
        const std::lock_guard lock(event->mutex);
        event->operation = stream->context.enqueue_always(*stream, {});
    });
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream) {
    return cuEventRecordWithFlags(hEvent, hStream, CU_EVENT_RECORD_DEFAULT);
}

CUresult cuEventQuery(CUevent hEvent) {
    return entry([&] {
        const auto event = Runtime::get().events.get(hEvent);
        event->context->require_usable();
        require_not_captured(*event);
        require_unsafe_call_allowed();
        const OperationPtr operation = event->recorded();
        return operation && !operation->done() ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
    });
}

CUresult cuEventSynchronize(CUevent hEvent) {
    return entry([&] {
        const auto event = Runtime::get().events.get(hEvent);
        require_not_captured(*event);
        require_unsafe_call_allowed();
        Runtime::get().scheduler().wait(event->recorded());
        event->context->flush_output();
        event->context->require_usable();
    });
}

CUresult cuEventElapsedTime_v2(float* pMilliseconds, CUevent hStart, CUevent hEnd) {
    return entry([&] {
        require(pMilliseconds != nullptr);
        const auto start = Runtime::get().events.get(hStart);
        const auto end = Runtime::get().events.get(hEnd);
        require(start->timed() && end->timed(), CUDA_ERROR_INVALID_HANDLE);
        start->context->require_usable();
        require_not_captured(*start);
        require_not_captured(*end);
        const OperationPtr from = start->recorded(), to = end->recorded();
        require(from && to, CUDA_ERROR_INVALID_HANDLE);
        if (!from->done() || !to->done()) return CUDA_ERROR_NOT_READY;
        using Milliseconds = std::chrono::duration<float, std::milli>;
        *pMilliseconds = Milliseconds(to->ended_at() - from->ended_at()).count();
        return CUDA_SUCCESS;
    });
}

CUresult cuEventElapsedTime(float* pMilliseconds, CUevent hStart, CUevent hEnd) {
    return cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}
