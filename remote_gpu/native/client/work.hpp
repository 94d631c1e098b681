// Counts asynchronous work, so that freed device memory is not handed out again while a stream
// other than the next user's may still touch it. As in CUDA, only programs that free memory in use
// by several streams ever wait for it.
#pragma once
#include <atomic>
#include <cstdint>

namespace carrel::client {

struct Work {
    std::atomic<uint64_t> issued{0};      // operations so far
    std::atomic<uint64_t> finished{0};    // operations known to be complete
    std::atomic<uint64_t> stream{~0ull};  // the stream of the last operation
    std::atomic<uint64_t> mixed{0};       // the last operation that changed the stream
};

inline Work work;

inline void note_work(uint64_t stream) {
    const uint64_t now = work.issued.fetch_add(1, std::memory_order_relaxed) + 1;
    if (work.stream.load(std::memory_order_relaxed) != stream) {
        work.stream.store(stream, std::memory_order_relaxed);
        work.mixed.store(now, std::memory_order_relaxed);
    }
}

// Everything issued up to `issued` is complete.
inline void note_finished(uint64_t issued) {
    uint64_t known = work.finished.load(std::memory_order_relaxed);
    while (known < issued && !work.finished.compare_exchange_weak(known, issued)) {
    }
}

// Whether memory freed when `issued` operations were out may still be in use by a stream that the
// next operation does not wait for.
inline bool still_in_use(uint64_t issued) {
    const uint64_t finished = work.finished.load(std::memory_order_relaxed);
    return issued > finished && work.mixed.load(std::memory_order_relaxed) > finished + 1;
}

}  // namespace carrel::client
