#include "wire/ring.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

namespace carrel::wire {

namespace {

constexpr int64_t kLongestNs = 60'000;
constexpr int64_t kShortestNs = 2'000;
constexpr int64_t kSpinNs = 15'000;  // then the CPU is offered to others between looks
constexpr unsigned kLooksPerClock = 16;
constexpr unsigned kSeldom = 32;  // with the shortest patience, look only so often

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr int kReader = 0, kWriter = 1;

// Not private: the other end is another process.
void futex_wait(std::atomic<uint32_t>& word) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, 1, nullptr);
}

void futex_wake(std::atomic<uint32_t>& word) {
    if (word.exchange(0, std::memory_order_seq_cst)) {
        ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT_MAX);
    }
}

}  // namespace

Patience::Patience() : limit_ns_(kLongestNs) {}

int64_t Patience::now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

template <class Ready, class Shared>
bool Patience::wait(Ready&& ready, Shared&& shared) {
    if (ready()) return true;
    if (limit_ns_ <= kShortestNs && ++passed_ % kSeldom != 0) return false;
    const int64_t start = now_ns();
    for (int64_t waited = 0; waited < limit_ns_; waited = now_ns() - start) {
        if (shared() || waited >= kSpinNs) {
            sched_yield();
            if (ready()) break;
            continue;
        }
        for (unsigned i = 0; i < kLooksPerClock && !ready(); ++i) pause();
        if (ready()) break;
    }
    const bool found = ready();
    limit_ns_ = found ? std::min(kLongestNs, 2 * limit_ns_) : std::max(kShortestNs, limit_ns_ / 2);
    return found;
}

// Says on which CPU this end runs.
void Ring::here(int self) {
    const auto cpu = static_cast<uint32_t>(sched_getcpu());
    if (cpu == cpu_[self]) return;
    cpu_[self] = cpu;
    shared_->cpu[self].store(cpu, std::memory_order_relaxed);
}

template <class Ready>
void Ring::sleep(Patience& patience, std::atomic<uint32_t>& word, int self, Ready&& ready) {
    std::atomic<uint32_t>& other = shared_->cpu[1 - self];
    const auto same = [&] {
        here(self);
        return other.load(std::memory_order_relaxed) == cpu_[self];
    };
    if (patience.wait(ready, same)) return;
    // The other end looks at the word after it has moved its end of the ring, we look at the ring
    // after we have set the word: one of us sees the other.
    word.store(1, std::memory_order_seq_cst);
    if (!ready()) futex_wait(word);
    word.store(0, std::memory_order_seq_cst);
}

Ring::Wait Ring::wait_for_room(std::byte** at, size_t* room) {
    for (;;) {
        if (stopped_.load(std::memory_order_seq_cst)) return Wait::stopped;
        const uint64_t used = head_ - shared_->tail.load(std::memory_order_acquire);
        if (used > kBytes) return Wait::broken;
        if (used < kBytes) {
            const size_t offset = head_ % kBytes;
            *at = data() + offset;
            *room = std::min(kBytes - used, kBytes - offset);
            return Wait::ready;
        }
        sleep(for_room_, shared_->writer, kWriter, [&] {
            return head_ - shared_->tail.load(std::memory_order_seq_cst) != kBytes ||
                   stopped_.load(std::memory_order_seq_cst);
        });
    }
}

void Ring::written(size_t size) {
    here(kWriter);
    head_ += size;
    shared_->head.store(head_, std::memory_order_seq_cst);
    if (shared_->reader.load(std::memory_order_seq_cst)) futex_wake(shared_->reader);
}

void Ring::end() {
    shared_->ended.store(1, std::memory_order_seq_cst);
    futex_wake(shared_->reader);
}

Ring::Wait Ring::wait_for_bytes(const std::byte** at, size_t* size) {
    for (;;) {
        // In this order: what was written before the end is found.
        const bool stopped = stopped_.load(std::memory_order_seq_cst);
        const bool over = ended();
        if (at_once_.load(std::memory_order_seq_cst)) return Wait::stopped;
        const uint64_t there = shared_->head.load(std::memory_order_acquire) - tail_;
        if (there > kBytes) return Wait::broken;
        if (there) {
            const size_t offset = tail_ % kBytes;
            *at = data() + offset;
            *size = std::min(size_t{there}, kBytes - offset);
            return Wait::ready;
        }
        if (over) return Wait::ended;
        if (stopped) return Wait::stopped;
        sleep(for_bytes_, shared_->reader, kReader, [&] {
            return shared_->head.load(std::memory_order_seq_cst) != tail_ || ended() ||
                   stopped_.load(std::memory_order_seq_cst);
        });
    }
}

void Ring::read(size_t size) {
    here(kReader);
    tail_ += size;
    shared_->tail.store(tail_, std::memory_order_seq_cst);
    if (shared_->writer.load(std::memory_order_seq_cst)) futex_wake(shared_->writer);
}

uint64_t Ring::bytes() const {
    return shared_->head.load(std::memory_order_acquire) -
           shared_->tail.load(std::memory_order_acquire);
}

void Ring::stop(bool at_once) {
    if (at_once) at_once_.store(true, std::memory_order_seq_cst);
    stopped_.store(true, std::memory_order_seq_cst);
    wake();
}

void Ring::wake() {
    futex_wake(shared_->reader);
    futex_wake(shared_->writer);
}

}  // namespace carrel::wire
