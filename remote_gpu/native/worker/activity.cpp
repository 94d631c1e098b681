#include "worker/activity.hpp"

#include <algorithm>

namespace carrel::worker {

namespace {
bool legacy(CUstream stream) {
    return reinterpret_cast<uint64_t>(stream) <= 1;
}
}  // namespace

Activity::Activity(const DriverTable& driver, std::function<void(CUresult)> failed,
                   std::function<void()> idle)
    : driver_(driver), failed_(std::move(failed)), idle_(std::move(idle)) {
    last_call_ = now_us();
}

Activity::~Activity() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    woken_.notify_all();
    if (watcher_.joinable()) watcher_.join();
}

uint64_t Activity::now_us() {
    using namespace std::chrono;
    return static_cast<uint64_t>(
        duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count());
}

void Activity::touch(CUcontext context, CUstream stream) {
    if (legacy(stream)) stream = nullptr;
    const std::lock_guard lock(mutex_);
    for (const Entry& e : busy_) {
        if (e.stream == stream && e.context == context) return;
    }
    if (busy_.empty()) {
        busy_since_ = now_us();
        if (!watcher_.joinable()) watcher_ = std::thread([this] { watch(); });
        woken_.notify_one();
    }
    busy_.push_back({context, stream});
}

// Asks every relevant stream; idle ones leave the list. Needs the lock.
template <class Relevant>
CUresult Activity::sweep(Relevant relevant) {
    CUresult result = CUDA_SUCCESS;
    const bool any = !busy_.empty();
    std::erase_if(busy_, [&](const Entry& e) {
        if (result != CUDA_SUCCESS || !relevant(e)) return false;
        if (captures_ && (legacy(e.stream) || captures_(e.stream))) {
            result = CUDA_ERROR_NOT_READY;
            return false;
        }
        const CUresult state = invoke(driver_.cuStreamQuery, e.stream);
        if (state == CUDA_SUCCESS) return true;
        result = state;
        return state != CUDA_ERROR_NOT_READY;
    });
    if (any && busy_.empty()) ended(now_us());
    return result;
}

void Activity::ended(uint64_t now) {
    busy_us_ += now - busy_since_;
    last_call_.store(now, std::memory_order_relaxed);
}

CUresult Activity::check(CUcontext context, CUstream stream) {
    const bool all = legacy(stream);
    const std::lock_guard lock(mutex_);
    return sweep([&](const Entry& e) {
        return e.context == context && (all || e.stream == stream || legacy(e.stream));
    });
}

CUresult Activity::check(CUcontext context) {
    const std::lock_guard lock(mutex_);
    return sweep([&](const Entry& e) { return e.context == context; });
}

bool Activity::idle() {
    const std::lock_guard lock(mutex_);
    return busy_.empty();
}

void Activity::forget(CUstream stream) {
    const std::lock_guard lock(mutex_);
    const bool any = !busy_.empty();
    // What a destroyed stream still runs is waited for on the default stream's account.
    for (Entry& e : busy_) {
        if (e.stream == stream) e.stream = nullptr;
    }
    if (any && busy_.empty()) ended(now_us());
}

void Activity::forget(CUcontext context) {
    const std::lock_guard lock(mutex_);
    const bool any = !busy_.empty();
    std::erase_if(busy_, [&](const Entry& e) { return e.context == context; });
    if (any && busy_.empty()) ended(now_us());
}

void Activity::hold(std::function<bool(CUstream)> captures) {
    const std::lock_guard lock(mutex_);
    captures_ = std::move(captures);
}

void Activity::release() {
    const std::lock_guard lock(mutex_);
    captures_ = nullptr;
}

uint64_t Activity::busy_us() {
    const std::lock_guard lock(mutex_);
    return busy_us_ + (busy_.empty() ? 0 : now_us() - busy_since_);
}

uint64_t Activity::idle_ms() {
    {
        const std::lock_guard lock(mutex_);
        if (!busy_.empty()) return 0;
    }
    return (now_us() - last_call_.load(std::memory_order_relaxed)) / 1000;
}

void Activity::watch() {
    using namespace std::chrono_literals;
    CUcontext current = nullptr;
    std::unique_lock lock(mutex_);
    while (!stop_) {
        woken_.wait(lock, [this] { return stop_ || !busy_.empty(); });
        auto pause = 200us;
        CUresult failure = CUDA_SUCCESS;
        while (!stop_ && !busy_.empty()) {
            woken_.wait_for(lock, pause, [this] { return stop_; });
            pause = std::min(pause * 3 / 2, 5000us);
            if (busy_.empty()) break;
            if (captures_) continue;
            if (busy_.front().context != current) {
                current = busy_.front().context;
                invoke(driver_.cuCtxSetCurrent, current);
            }
            const CUresult state = sweep([&](const Entry& e) { return e.context == current; });
            if (state != CUDA_SUCCESS && state != CUDA_ERROR_NOT_READY) failure = state;
        }
        if (stop_) break;
        // Told under the lock: once forget() has returned, nothing old is reported any more.
        if (failure != CUDA_SUCCESS) failed_(failure);
        lock.unlock();
        idle_();
        lock.lock();
    }
}

}  // namespace carrel::worker
