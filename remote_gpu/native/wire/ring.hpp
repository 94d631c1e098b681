// A byte ring in shared memory, one direction of a connection on one host.
//
// Layout, at the start of its part of the mapping (each word on a cache line of its own):
//
//     u64 head     bytes written since the start; only the writer moves it
//     u64 tail     bytes read since the start; only the reader moves it
//     u32 reader   1 while the reader sleeps on it; the writer sets 0 and wakes
//     u32 writer   1 while the writer sleeps on it; the reader sets 0 and wakes
//     u32 cpu[2]   where the reader and the writer last ran: who waits on the CPU that the other
//                  needs gives it away at once
//     u32 ended    1 once the writer will write no more; only the writer sets it
//     data         kBytes, at kDataAt; byte n of the stream lies at n modulo kBytes
//
// head - tail is never negative and never more than kBytes; whoever finds it otherwise treats the
// other end as gone, for the other end may be a student's program. Bytes are copied out before
// anyone looks at them. One thread writes and one reads, in any two processes.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace carrel::wire {

// How long to look again before sleeping. Whoever waits finds what it waits for within microseconds
// while both ends are busy, and then a system call to sleep and one to be woken cost more than the
// wait; after waits in vain it looks less and less.
class Patience {
  public:
    Patience();
    // Calls `ready()` until it is true or the patience is at an end. `shared()`: whether the other
    // end needs the CPU that this one runs on.
    template <class Ready, class Shared>
    bool wait(Ready&& ready, Shared&& shared);

  private:
    static int64_t now_ns();

    int64_t limit_ns_;  // adapts
    unsigned passed_ = 0;
};

class Ring {
  public:
    static constexpr size_t kBytes = size_t{1} << 20;
    static constexpr size_t kDataAt = 512;
    static constexpr size_t kMapping = kDataAt + kBytes;  // shared memory of one ring

    enum class Wait { ready, ended, stopped, broken };

    Ring() = default;
    explicit Ring(std::byte* mapping) : shared_(reinterpret_cast<Shared*>(mapping)) {}

    // The writer's side. Waits for room; then `*room` bytes can be written at `*at` (contiguous).
    Wait wait_for_room(std::byte** at, size_t* room);
    void written(size_t size);
    void end();

    // The reader's side. Waits for bytes; then `*size` can be read at `*at` (contiguous).
    Wait wait_for_bytes(const std::byte** at, size_t* size);
    void read(size_t size);

    // Without waiting, for either side.
    uint64_t bytes() const;
    bool ended() const { return shared_->ended.load(std::memory_order_seq_cst) != 0; }

    // This process stops: whoever of it waits here, or will, gets `stopped` (for bytes: after the
    // last, unless `at_once`). Any thread.
    void stop(bool at_once);
    // Wakes the reader and the writer, whichever process they are in.
    void wake();

  private:
    struct Shared {
        alignas(64) std::atomic<uint64_t> head;
        alignas(64) std::atomic<uint64_t> tail;
        alignas(64) std::atomic<uint32_t> reader;
        alignas(64) std::atomic<uint32_t> writer;
        alignas(64) std::atomic<uint32_t> cpu[2];
        alignas(64) std::atomic<uint32_t> ended;
    };
    static_assert(sizeof(Shared) <= kDataAt);
    static_assert(std::atomic<uint64_t>::is_always_lock_free);

    void here(int self);
    std::byte* data() const { return reinterpret_cast<std::byte*>(shared_) + kDataAt; }
    template <class Ready>
    void sleep(Patience& patience, std::atomic<uint32_t>& word, int self, Ready&& ready);

    Shared* shared_ = nullptr;
    uint64_t head_ = 0;  // the writer's own
    uint64_t tail_ = 0;  // the reader's own
    uint32_t cpu_[2] = {~0u, ~0u};
    Patience for_room_, for_bytes_;
    std::atomic<bool> stopped_{false};
    std::atomic<bool> at_once_{false};
};

}  // namespace carrel::wire
