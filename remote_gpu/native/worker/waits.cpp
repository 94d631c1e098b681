#include "worker/waits.hpp"

namespace carrel::worker {

Waits::~Waits() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    woken_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Waits::defer(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (tasks_.size() > idle_ && threads_.size() < kMaxThreads) {
        threads_.emplace_back([this] { run(); });
    }
    woken_.notify_one();
}

void Waits::run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
        ++idle_;
        woken_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
        --idle_;
        if (stop_) return;
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        lock.unlock();
        task();
        lock.lock();
    }
}

}  // namespace carrel::worker
