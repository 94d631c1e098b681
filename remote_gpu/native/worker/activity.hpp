// Which streams have work. Answers "is it idle?" without blocking, measures how long the GPU was
// busy, and notices failed work early. Used by the main loop and by its own thread.
//
// Busy time is the time between the first work after an idle moment and the moment when all streams
// were seen idle again, by a waiting call at once, otherwise by polling every 0.2 to 5 ms.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda_abi.hpp"
#include "driver_table.hpp"

namespace carrel::worker {

class Activity {
  public:
    // `failed` hears of errors that no call has asked about; `idle` is called when all work is
    // done.
    Activity(const DriverTable& driver, std::function<void(CUresult)> failed,
             std::function<void()> idle);
    ~Activity();

    // Work was queued.
    void touch(CUcontext context, CUstream stream);
    // CUDA_SUCCESS: nothing is running that this stream (or, with no stream, this context) would
    // wait for; CUDA_ERROR_NOT_READY: something is; otherwise the error of the work. The context
    // must be current.
    CUresult check(CUcontext context, CUstream stream);
    CUresult check(CUcontext context);
    // Whether no stream of any context has work, as far as is known.
    bool idle();
    // The stream or context is gone.
    void forget(CUstream stream);
    void forget(CUcontext context);

    // While streams capture, asking about one of them would end its capture: until release(), the
    // watching thread asks nothing, and check() leaves out streams for which `captures` holds.
    void hold(std::function<bool(CUstream)> captures);
    void release();

    uint64_t busy_us();
    // Milliseconds since anything happened; 0 while work runs.
    uint64_t idle_ms();
    void touch_call() { last_call_.store(now_us(), std::memory_order_relaxed); }

  private:
    struct Entry {
        CUcontext context;
        CUstream stream;
    };
    static uint64_t now_us();
    template <class Relevant>
    CUresult sweep(Relevant relevant);
    void ended(uint64_t now);
    void watch();

    const DriverTable& driver_;
    std::function<void(CUresult)> failed_;
    std::function<void()> idle_;
    std::mutex mutex_;
    std::condition_variable woken_;
    std::vector<Entry> busy_;
    std::function<bool(CUstream)> captures_;  // set while streams capture
    uint64_t busy_since_ = 0;
    uint64_t busy_us_ = 0;
    std::atomic<uint64_t> last_call_{0};
    bool stop_ = false;
    std::thread watcher_;
};

}  // namespace carrel::worker
