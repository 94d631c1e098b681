// Counts asynchronous work, so that freed device memory is not handed out again while a stream
// other than the next user's may still touch it. As in CUDA, only programs that free memory in use
// by several streams ever wait for it.
#pragma once
#include <atomic>
#include <cstdint>

namespace carrel::client {

struct Work {
    std::atomic<uint64_t> issued{0};          // operations so far
    std::atomic<uint64_t> finished{0};        // operations known to be complete
    std::atomic<bool> streams{false};         // the program has created streams or contexts
    std::atomic<bool> host_functions{false};  // and has had functions of its own called
};

inline Work work;

inline void note_work() {
    work.issued.fetch_add(1, std::memory_order_relaxed);
}

// Everything issued up to `issued` is complete.
inline void note_finished(uint64_t issued) {
    uint64_t known = work.finished.load(std::memory_order_relaxed);
    while (known < issued && !work.finished.compare_exchange_weak(known, issued)) {
    }
}

// Whether memory freed when `issued` operations were out may still be used by a stream that its
// next user does not wait for. On the default stream alone everything is in order anyway.
inline bool still_in_use(uint64_t issued) {
    return work.streams.load(std::memory_order_relaxed) &&
           issued > work.finished.load(std::memory_order_relaxed);
}

}  // namespace carrel::client
