#include "worker/host_calls.hpp"

#include <memory>

namespace carrel::worker {

CUresult HostCalls::enqueue(CUstream stream, uint64_t ticket) {
    auto call = std::make_unique<Ticket>(Ticket{this, ticket});
    ++outstanding_;
    const CUresult result =
        invoke(driver_.cuLaunchHostFunc, stream, &HostCalls::run, static_cast<void*>(call.get()));
    if (result == CUDA_SUCCESS) {
        call.release();
    } else {
        --outstanding_;
    }
    return result;
}

void CUDAAPI HostCalls::run(void* data) {
    const std::unique_ptr<Ticket> ticket(static_cast<Ticket*>(data));
    HostCalls& calls = *ticket->calls;
    calls.outbox_.host_call(ticket->number, CUDA_SUCCESS);
    std::unique_lock lock(calls.mutex_);
    calls.changed_.wait(lock,
                        [&] { return calls.closed_ || calls.done_.erase(ticket->number) != 0; });
    --calls.outstanding_;
}

void HostCalls::done(uint64_t ticket) {
    {
        const std::lock_guard lock(mutex_);
        // Numbers that no stream waits for are forgotten with the session; keep their count sane.
        if (done_.size() < 65536) done_.insert(ticket);
    }
    changed_.notify_all();
}

void HostCalls::close() {
    {
        const std::lock_guard lock(mutex_);
        closed_ = true;
    }
    changed_.notify_all();
}

void HostCalls::reopen() {
    const std::lock_guard lock(mutex_);
    closed_ = false;
    done_.clear();
}

}  // namespace carrel::worker
