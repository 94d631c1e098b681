// Runs operations when those they wait for have ended, on a pool of threads: the engine room below
// streams and events. Knows nothing of CUDA.
#pragma once

#include <atomic>
#include <chrono>
#include <concepts>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

namespace carrel::softgpu {

/// What an operation does: work, or nothing but to take its time, for which no thread is needed.
struct Task {
    using Clock = std::chrono::steady_clock;

    std::function<void()> work;
    Clock::duration takes{0};  // of a task without work

    Task() = default;  // a mark
    template <std::invocable F>
    Task(F does) : work(std::move(does)) {}
    explicit Task(Clock::duration time) : takes(time) {}
};

/// One unit of work. Made once, submitted once.
class Operation {
  public:
    using Clock = Task::Clock;

    /// Higher `urgency` goes first among operations that are ready.
    explicit Operation(Task task, int urgency = 0) : task_(std::move(task)), urgency_(urgency) {}

    [[nodiscard]] bool done() const { return performed() && ended_at_ <= Clock::now(); }
    /// When it ended; only once done.
    [[nodiscard]] Clock::time_point ended_at() const { return ended_at_; }

  private:
    friend class Scheduler;
    // Nothing is left to do; its end may yet be to come.
    [[nodiscard]] bool performed() const { return performed_.load(std::memory_order_acquire); }

    Task task_;
    const int urgency_;
    std::atomic<bool> performed_{false};
    Clock::time_point starts_after_{};  // the ends of what it follows
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
    void make_ready(std::vector<OperationPtr> next);
    static void finish(Operation& operation, Operation::Clock::time_point end,
                       std::vector<OperationPtr>& next);
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
