#include "softgpu/scheduler.hpp"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <system_error>
#include <thread>
#include <utility>

namespace carrel::softgpu {

namespace {

// To within a few microseconds, which is as long as a short kernel.
void sleep_until(Operation::Clock::time_point moment) {
    if (moment <= Operation::Clock::now()) return;
    ::prctl(PR_SET_TIMERSLACK, 1UL);
    std::this_thread::sleep_until(moment);
}

}  // namespace

void Scheduler::register_waits(const OperationPtr& operation, std::span<const OperationPtr> after) {
    operation->order_ = next_order_++;
    for (const OperationPtr& each : after) {
        if (!each) continue;
        if (each->performed()) {
            operation->starts_after_ = std::max(operation->starts_after_, each->ended_at_);
        } else {
            each->followers_.push_back(operation);
            ++operation->waiting_for_;
        }
    }
}

void Scheduler::submit(const OperationPtr& operation, std::span<const OperationPtr> after) {
    const std::lock_guard lock(mutex_);
    register_waits(operation, after);
    if (operation->waiting_for_ == 0) {
        make_ready({operation});
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
    if (!operation) return;
    if (!operation->performed()) {
        std::unique_lock lock(mutex_);
        ++waiters_;
        progress_.wait(lock, [&] { return operation->performed(); });
        --waiters_;
    }
    sleep_until(operation->ended_at_);
}

// Those that have nothing to do end here, and what follows them may be ready too.
void Scheduler::make_ready(std::vector<OperationPtr> next) {
    while (!next.empty()) {
        OperationPtr operation = std::move(next.back());
        next.pop_back();
        if (operation->by_caller_) continue;
        if (operation->task_.work) {
            ready_.insert(std::move(operation));
        } else {
            const auto begin = std::max(operation->starts_after_, Operation::Clock::now());
            finish(*operation, begin + operation->task_.takes, next);
        }
    }
}

// Nothing is left to do; `next` gets the operations that may begin.
void Scheduler::finish(Operation& operation, Operation::Clock::time_point end,
                       std::vector<OperationPtr>& next) {
    operation.ended_at_ = end;
    operation.performed_.store(true, std::memory_order_release);
    for (OperationPtr& each : operation.followers_) {
        each->starts_after_ = std::max(each->starts_after_, end);
        if (--each->waiting_for_ == 0) next.push_back(std::move(each));
    }
    operation.followers_.clear();
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
    sleep_until(operation.starts_after_);
    operation.task_.work();
    operation.task_.work = nullptr;  // what it holds may end here, before those who wait go on
    const std::lock_guard lock(mutex_);
    std::vector<OperationPtr> next;
    finish(operation, Operation::Clock::now(), next);
    make_ready(std::move(next));
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
