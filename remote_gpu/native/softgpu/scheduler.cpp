#include "softgpu/scheduler.hpp"

#include <pthread.h>

#include <csignal>
#include <system_error>
#include <thread>

namespace carrel::softgpu {

void Scheduler::register_waits(const OperationPtr& operation, std::span<const OperationPtr> after) {
    operation->order_ = next_order_++;
    for (const OperationPtr& each : after)
        if (each && !each->done()) {
            each->followers_.push_back(operation);
            ++operation->waiting_for_;
        }
}

void Scheduler::submit(const OperationPtr& operation, std::span<const OperationPtr> after) {
    const std::lock_guard lock(mutex_);
    register_waits(operation, after);
    if (operation->waiting_for_ == 0) {
        make_ready(operation);
        call_threads(false);
    }
}

void Scheduler::reserve(const OperationPtr& operation, std::span<const OperationPtr> after) {
    const std::lock_guard lock(mutex_);
    operation->by_caller_ = true;
    register_waits(operation, after);
}

void Scheduler::run(const OperationPtr& operation) {
    {
        std::unique_lock lock(mutex_);
        ++waiters_;
        progress_.wait(lock, [&] { return operation->waiting_for_ == 0; });
        --waiters_;
    }
    perform(*operation, false);
}

void Scheduler::wait(const OperationPtr& operation) {
    if (!operation || operation->done()) return;
    std::unique_lock lock(mutex_);
    ++waiters_;
    progress_.wait(lock, [&] { return operation->done(); });
    --waiters_;
}

void Scheduler::make_ready(OperationPtr operation) {
    if (!operation->by_caller_) ready_.insert(std::move(operation));
}

// `one_stays`: the calling thread is one of the pool and will take one of the ready operations
// itself.
void Scheduler::call_threads(bool one_stays) {
    const std::size_t free = idle_ + (one_stays ? 1 : 0);
    if (ready_.empty()) return;
    if (ready_.size() > free && threads_ < kMaxThreads) {
        // Signals are for the program's own threads.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            for (std::size_t n = ready_.size() - free; n > 0 && threads_ < kMaxThreads; --n) {
                std::thread([this] { serve(); }).detach();
                ++threads_;
                ++idle_;
            }
        } catch (const std::system_error&) {
            // Fewer threads then: those there are will come round to it, as long as there is one.
            if (threads_ == 0) {
                pthread_sigmask(SIG_SETMASK, &before, nullptr);
                throw;
            }
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    const std::size_t wanted = ready_.size() - (one_stays ? 1 : 0);
    if (wanted == 1) work_.notify_one();
    if (wanted > 1) work_.notify_all();
}

void Scheduler::perform(Operation& operation, bool one_stays) {
    operation.work_();
    operation.work_ = nullptr;  // what it holds may end here, before those who wait go on
    const std::lock_guard lock(mutex_);
    operation.ended_at_ = Operation::Clock::now();
    operation.done_.store(true, std::memory_order_release);
    for (OperationPtr& follower : operation.followers_)
        if (--follower->waiting_for_ == 0) make_ready(std::move(follower));
    operation.followers_.clear();
    call_threads(one_stays);
    if (waiters_ > 0) progress_.notify_all();
}

void Scheduler::serve() {
    std::unique_lock lock(mutex_);
    --idle_;
    for (;;) {
        while (ready_.empty()) {
            ++idle_;
            work_.wait(lock);
            --idle_;
        }
        const OperationPtr operation = std::move(ready_.extract(ready_.begin()).value());
        lock.unlock();
        perform(*operation, true);
        lock.lock();
    }
}

}  // namespace carrel::softgpu
