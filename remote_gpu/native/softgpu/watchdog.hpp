// Stops kernels that run longer than the configuration allows.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

namespace carrel::softgpu {

/// One thread for all kernels, started when the first guard with a limit is made.
class Watchdog {
  public:
    using Clock = std::chrono::steady_clock;

    /// Watches one kernel while it lives. `limit` 0: watches nothing.
    class Guard {
      public:
        explicit Guard(std::chrono::seconds limit);
        ~Guard();
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;
        /// Set when the kernel must stop; null: never.
        [[nodiscard]] const std::atomic<bool>* flag() const {
            return watched_ ? &expired_ : nullptr;
        }
        [[nodiscard]] bool fired() const { return expired_; }

      private:
        friend class Watchdog;
        const bool watched_;
        std::atomic<bool> expired_{false};
        std::multimap<Clock::time_point, Guard*>::iterator place_;
    };

  private:
    static Watchdog& get();
    void serve();

    std::mutex mutex_;
    std::condition_variable changed_;
    std::multimap<Clock::time_point, Guard*> guards_;
    bool started_ = false;
};

}  // namespace carrel::softgpu
