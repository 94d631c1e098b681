#include "softgpu/watchdog.hpp"

#include <thread>

namespace carrel::softgpu {

Watchdog& Watchdog::get() {
    static auto* watchdog = new Watchdog;  // its thread outlives main
    return *watchdog;
}

Watchdog::Guard::Guard(std::chrono::seconds limit) : watched_(limit.count() > 0) {
    if (!watched_) return;
    Watchdog& watchdog = get();
    const std::lock_guard lock(watchdog.mutex_);
    place_ = watchdog.guards_.emplace(Clock::now() + limit, this);
    if (!watchdog.started_) std::thread([&watchdog] { watchdog.serve(); }).detach();
    watchdog.started_ = true;
    watchdog.changed_.notify_one();
}

Watchdog::Guard::~Guard() {
    if (!watched_) return;
    Watchdog& watchdog = get();
    const std::lock_guard lock(watchdog.mutex_);
    watchdog.guards_.erase(place_);
}

void Watchdog::serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
        if (guards_.empty()) {
            changed_.wait(lock);
            continue;
        }
        const Clock::time_point first = guards_.begin()->first;
        if (first > Clock::now()) {
            changed_.wait_until(lock, first);
            continue;
        }
        // Fired guards stay until their kernel has ended; they come last in the queue.
        auto entry = guards_.extract(guards_.begin());
        entry.mapped()->expired_ = true;
        entry.key() = Clock::now() + std::chrono::hours(24);
        Guard* const guard = entry.mapped();
        guard->place_ = guards_.insert(std::move(entry));
    }
}

}  // namespace carrel::softgpu
