// Runs operations when those they wait for have ended, on a pool of threads: the engine room below
// streams and events. Knows nothing of CUDA.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

namespace carrel::softgpu {

/// One unit of work. Made once, submitted once.
class Operation {
  public:
    using Clock = std::chrono::steady_clock;

    /// Higher `urgency` goes first among operations that are ready.
    explicit Operation(std::function<void()> work, int urgency = 0)
        : work_(std::move(work)), urgency_(urgency) {}

    [[nodiscard]] bool done() const { return done_.load(std::memory_order_acquire); }
    /// When it ended; only once done.
    [[nodiscard]] Clock::time_point ended_at() const { return ended_at_; }

  private:
    friend class Scheduler;
    std::function<void()> work_;
    const int urgency_;
    std::atomic<bool> done_{false};
    Clock::time_point ended_at_{};
    std::uint64_t order_ = 0;
    unsigned waiting_for_ = 0;
    bool by_caller_ = false;
    std::vector<std::shared_ptr<Operation>> followers_;
};

using OperationPtr = std::shared_ptr<Operation>;

/// Threads are started as work needs them, at most kMaxThreads; they live as long as the process.
class Scheduler {
  public:
    static constexpr unsigned kMaxThreads = 64;

    /// Queues `operation` behind those in `after` (null and finished ones do not count).
    void submit(const OperationPtr& operation, std::span<const OperationPtr> after);
    /// The same, but a caller will do the work, by `run`.
    void reserve(const OperationPtr& operation, std::span<const OperationPtr> after);
    /// Waits until a reserved operation may start, does its work and returns.
    void run(const OperationPtr& operation);
    /// Waits until the operation is done; null is.
    void wait(const OperationPtr& operation);

  private:
    struct MoreUrgent {
        bool operator()(const OperationPtr& a, const OperationPtr& b) const {
            return a->urgency_ != b->urgency_ ? a->urgency_ > b->urgency_ : a->order_ < b->order_;
        }
    };
    void register_waits(const OperationPtr& operation, std::span<const OperationPtr> after);
    void make_ready(OperationPtr operation);
    void call_threads(bool one_stays);
    void perform(Operation& operation, bool one_stays);
    void serve();

    std::mutex mutex_;
    std::condition_variable work_;
    std::condition_variable progress_;
    std::set<OperationPtr, MoreUrgent> ready_;
    std::uint64_t next_order_ = 0;
    unsigned threads_ = 0;
    unsigned idle_ = 0;  // threads that wait for work or are about to
    unsigned waiters_ = 0;
};

}  // namespace carrel::softgpu
