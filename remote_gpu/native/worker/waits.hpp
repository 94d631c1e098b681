// Threads for what would block the main loop: a call that waits for the GPU is finished here while
// other threads' calls go on.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace carrel::worker {

class Waits {
  public:
    static constexpr size_t kMaxThreads = 64;

    Waits() = default;
    ~Waits();
    Waits(const Waits&) = delete;
    Waits& operator=(const Waits&) = delete;

    void defer(std::function<void()> task);

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable woken_;
    std::deque<std::function<void()>> tasks_;
    std::vector<std::thread> threads_;
    size_t idle_ = 0;
    bool stop_ = false;
};

}  // namespace carrel::worker
