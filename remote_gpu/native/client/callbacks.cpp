// Host functions: they run in this process, in stream order. The worker's stream stops at the
// function's place, says so, and goes on when the function has run. Correct first: each is a round
// trip.
#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "client/forward.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct HostCall {
    CUhostFn function = nullptr;          // of cuLaunchHostFunc, or
    CUstreamCallback callback = nullptr;  // of cuStreamAddCallback
    CUstream stream = nullptr;
    void* data = nullptr;
};

class HostCalls {
  public:
    uint64_t add(const HostCall& call) {
        const std::lock_guard lock(mutex_);
        if (!started_) start();
        pending_[++last_] = call;
        changed_.notify_all();
        return last_;
    }

    void remove(uint64_t ticket) {
        const std::lock_guard lock(mutex_);
        pending_.erase(ticket);
    }

    static HostCalls& instance() {
        static HostCalls* const all = new HostCalls;  // its threads outlive static destructors
        return *all;
    }

  private:
    void start() {
        started_ = true;
        session().on_host_call([this](uint64_t ticket, CUresult result) {
            const std::lock_guard lock(mutex_);
            due_.emplace_back(ticket, result);
            changed_.notify_all();
        });
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        std::thread([this] { listen(); }).detach();
        std::thread([this] { run(); }).detach();
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    // Reads the session while host functions are outstanding, even when no thread waits.
    void listen() {
        for (;;) {
            {
                std::unique_lock lock(mutex_);
                changed_.wait(lock, [this] { return !pending_.empty(); });
            }
            const CUresult status = session().status();
            if (status && !corrupts_context(status)) return;
            session().listen();
        }
    }

    void run() {
        for (;;) {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return !due_.empty(); });
            const auto [ticket, result] = due_.front();
            due_.pop_front();
            const auto found = pending_.find(ticket);
            if (found == pending_.end()) continue;
            const HostCall call = found->second;
            lock.unlock();
            if (call.callback) {
                call.callback(call.stream, result, call.data);
            } else if (result == CUDA_SUCCESS) {
                call.function(call.data);
            }
            remove(ticket);
            post(wire::Internal::host_done,
                 [ticket = ticket](wire::Writer& w) { w.put(uint64_t{ticket}); });
            session().flush();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool started_ = false;
    uint64_t last_ = 0;
    std::unordered_map<uint64_t, HostCall> pending_;
    std::deque<std::pair<uint64_t, CUresult>> due_;
};

CUresult enqueue(Call which, const HostCall& call) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    const uint64_t ticket = HostCalls::instance().add(call);
    const CUresult result = post(which, [&](wire::Writer& w) {
        w.put(name_of(call.stream));
        w.put(ticket);
    });
    if (result != CUDA_SUCCESS) HostCalls::instance().remove(ticket);
    return result;
}

}  // namespace

CUresult CUDAAPI cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) {
    if (!fn) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(Call::cuLaunchHostFunc, {fn, nullptr, hStream, userData});
}

CUresult CUDAAPI cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                                     unsigned int flags) {
    if (!callback || flags) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(Call::cuStreamAddCallback, {nullptr, callback, hStream, userData});
}

CUresult CUDAAPI cuStreamAttachMemAsync(CUstream, CUdeviceptr, size_t, unsigned int) {
    return unsupported(Call::cuStreamAttachMemAsync);  // is about managed memory
}
