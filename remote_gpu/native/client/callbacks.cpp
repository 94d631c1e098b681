// Host functions: they run in this process, in stream order. The worker's stream stops at the
// function's place, says so, and goes on when the function has run. Correct first: each is a round
// trip.
#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "client/forward.hpp"
#include "client/work.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct HostCall {
    CUhostFn function = nullptr;          // of cuLaunchHostFunc, or
    CUstreamCallback callback = nullptr;  // of cuStreamAddCallback
    CUstream stream = nullptr;
    void* data = nullptr;
    // Of a graph: asked for at each replay, removed when no graph has it any more.
    bool repeats = false;
    bool at_end = false;           // of a graph: called then, once
    const void* source = nullptr;  // of a copy to the device: what is sent instead of a call
    void* target = nullptr;        // of a copy to the host: where its data goes
    size_t bytes = 0;
};

// A host function sees what the work before it in its stream has written to memory of both sides,
// and the work after it what the function has.
void collect_for_host() {
    MirrorWait().collect(false);
}

void publish_from_host() {
    if (mirrors_exist()) publish_mirrors();
}

class HostCalls {
  public:
    uint64_t add(const HostCall& call) {
        const std::lock_guard lock(mutex_);
        if (!started_) start();
        work.host_functions.store(true, std::memory_order_relaxed);
        pending_[++last_] = call;
        changed_.notify_all();
        return last_;
    }

    void remove(uint64_t ticket) {
        const std::lock_guard lock(mutex_);
        pending_.erase(ticket);
    }

    HostCall find(uint64_t ticket) {
        const std::lock_guard lock(mutex_);
        const auto found = pending_.find(ticket);
        return found == pending_.end() ? HostCall{} : found->second;
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
        session().on_host_data([this](uint64_t ticket, std::span<const std::byte> data) {
            const HostCall copy = find(ticket);
            if (copy.target && copy.bytes == data.size())
                std::memcpy(copy.target, data.data(), data.size());
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
            if (call.repeats && result == CUDA_ERROR_NOT_FOUND) pending_.erase(found);
            lock.unlock();
            if (call.repeats && result == CUDA_ERROR_NOT_FOUND) {
                if (call.at_end) call.function(call.data);
                continue;
            }
            if (call.source) {
                session().transact(static_cast<uint16_t>(wire::Internal::graph_data),
                                   wire::kPrimaryContext,
                                   [ticket = ticket](wire::Writer& w) { w.put(uint64_t{ticket}); },
                                   nullptr, {call.source, call.bytes});
            } else if (call.callback) {
                collect_for_host();
                call.callback(call.stream, result, call.data);
                publish_from_host();
            } else if (result == CUDA_SUCCESS) {
                collect_for_host();
                call.function(call.data);
                publish_from_host();
            }
            if (!call.repeats) remove(ticket);
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

CUresult enqueue(Call which, HostCall call) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (captures_exist()) {
        if (const CUresult bad = check_capture(call.stream, &call.repeats)) return bad;
        if (call.repeats && call.callback) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    const uint64_t ticket = HostCalls::instance().add(call);
    const CUresult result = post(which, [&](wire::Writer& w) {
        w.put(name_of(call.stream));
        w.put(ticket);
        w.put(static_cast<uint8_t>(call.repeats));
    });
    if (result != CUDA_SUCCESS) HostCalls::instance().remove(ticket);
    return result;
}

CUresult capture_copy(HostCall copy, CUdeviceptr device) {
    copy.repeats = true;
    const uint64_t ticket = HostCalls::instance().add(copy);
    const CUresult result = ask(
        wire::Internal::graph_copy,
        [&](wire::Writer& w) {
            w.put(name_of(copy.stream));
            w.put(uint64_t{device});
            w.put(uint64_t{copy.bytes});
            w.put(ticket);
            w.put(static_cast<uint8_t>(copy.target != nullptr));
        },
        [](CUresult, wire::Reader&) {});
    if (result != CUDA_SUCCESS) HostCalls::instance().remove(ticket);
    return result;
}

}  // namespace

namespace carrel::client {

CUresult capture_copy_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    HostCall copy;
    copy.stream = stream, copy.source = from, copy.bytes = bytes;
    return capture_copy(copy, to);
}

CUresult capture_copy_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    HostCall copy;
    copy.stream = stream, copy.target = to, copy.bytes = bytes;
    return capture_copy(copy, from);
}

uint64_t host_ticket(CUhostFn function, void* data, bool at_end) {
    HostCall call{function, nullptr, nullptr, data};
    call.repeats = true;
    call.at_end = at_end;
    return HostCalls::instance().add(call);
}

void drop_host_ticket(uint64_t ticket) {
    HostCalls::instance().remove(ticket);
}

}  // namespace carrel::client

CUresult CUDAAPI cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) {
    if (!fn) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(Call::cuLaunchHostFunc, {fn, nullptr, hStream, userData});
}

CUresult CUDAAPI cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                                     unsigned int flags) {
    if (!callback || flags) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(Call::cuStreamAddCallback, {nullptr, callback, hStream, userData});
}
