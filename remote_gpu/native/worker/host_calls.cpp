#include "worker/host_calls.hpp"

#include <memory>

namespace carrel::worker {

CUresult HostCalls::enqueue(CUstream stream, uint64_t ticket) {
    auto call = std::make_unique<Ticket>(Ticket{this, ticket, false});
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
    auto* ticket = static_cast<Ticket*>(data);
    const std::unique_ptr<Ticket> once(ticket->repeats ? nullptr : ticket);
    HostCalls& calls = *ticket->calls;
    const uint64_t number = ticket->number;
    if (ticket->repeats) ++calls.outstanding_;
    calls.outbox_.host_call(number, CUDA_SUCCESS);
    std::unique_lock lock(calls.mutex_);
    calls.changed_.wait(lock, [&] {
        if (calls.closed_) return true;
        const auto found = calls.done_.find(number);
        if (found == calls.done_.end()) return false;
        calls.done_.erase(found);
        return true;
    });
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
