// A stream that survives the connection that carries it. Both ends count the bytes of each
// direction; when a connection breaks, the client makes another, both say how much they have
// received, and what is missing is sent again. Above, nothing is noticed but the time.
//
// On a connection, the stream is cut into segments:
//     u64 size       bytes that follow, kMaxSegment at most; 0: none; kGoodbye: the stream ends
//     here u64 received   bytes of the other direction that have been received
// A connection that continues a stream begins, at both ends, with a segment of size 0.
//
// What has been sent and not acknowledged is kept: up to kKept bytes are copied; more than that is
// waited for, while it lies in the memory of whoever sends it.
//
// Locks, in the order in which they may be taken: send_, join_, receive_, current_mutex_.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "wire/transport.hpp"

namespace carrel::wire {

class Resumable : public Transport {
  public:
    static constexpr uint64_t kMaxSegment = uint64_t{1} << 20;
    static constexpr uint64_t kKept = uint64_t{4} << 20;
    static constexpr uint64_t kAckEvery = uint64_t{512} << 10;
    static constexpr size_t kMaxEarly = size_t{64} << 20;  // received while waiting to send
    static constexpr uint64_t kGoodbye = ~uint64_t{0};

    // Makes another connection. Null when it failed; `*final` then says that trying again is no
    // use.
    using Reconnect = std::function<std::unique_ptr<Transport>(bool* final)>;

    // The client's end: `reconnect` is tried for as long as `grace`. A thread notices breaks while
    // the program is busy with something else.
    Resumable(std::unique_ptr<Transport> first, std::chrono::milliseconds grace,
              Reconnect reconnect);
    // The worker's end: waits for continue_on() for as long as `grace`.
    Resumable(std::unique_ptr<Transport> first, std::chrono::milliseconds grace);
    ~Resumable() override;

    int send(std::span<iovec> parts, size_t* sent) override;
    ssize_t receive(void* to, size_t size, bool all) override;
    bool readable(std::chrono::milliseconds wait) override;
    bool writable() override;
    bool peer_gone() override;
    bool hung_up() override { return over_.load(); }
    void shutdown() override;
    void end_sending() override;
    void end_receiving() override;
    void linger(std::chrono::milliseconds limit) override;
    void abandon() override;
    bool continue_on(std::unique_ptr<Transport> next) override;
    bool probe() override;
    void hurry() override;

  private:
    struct Segment {
        uint64_t size;
        uint64_t received;
    };
    struct Current {
        std::shared_ptr<Transport> connection;
        uint64_t generation;
    };
    enum class Read { bytes, nothing, broken };

    Current current();
    const Current& follow(Current& known);
    // After `generation` failed: true when there is another connection, false when it is over.
    bool recover(uint64_t generation);
    bool recover_as_client(std::unique_lock<std::mutex>& joining);
    bool recover_as_worker(std::unique_lock<std::mutex>& joining);
    bool join(std::unique_ptr<Transport> next);  // under join_
    void give_up(int error);
    void watch();

    // Under send_.
    int push(std::span<const iovec> parts, uint64_t end, bool* fault);
    void keep(std::span<const iovec> parts, uint64_t end);
    void wait_for_ack(uint64_t position);
    void hear_acks();
    void say(uint64_t size);
    // Sends what became due while another thread held send_.
    void settle();

    // Under receive_.
    Read read(void* to, size_t size, bool all, size_t* got);
    Read pump(std::chrono::milliseconds wait);

    const std::chrono::milliseconds grace_;
    const Reconnect reconnect_;  // of the client only

    std::mutex current_mutex_;
    std::shared_ptr<Transport> connection_;
    std::atomic<uint64_t> generation_{0};

    std::mutex join_;
    std::condition_variable joinable_;
    std::unique_ptr<Transport> next_;  // of the worker: offered, not joined yet
    std::atomic<bool> over_{false};
    std::atomic<bool> hurried_{false};
    std::atomic<int> error_{0};  // why it is over
    std::atomic<int64_t> missing_since_ms_{
        0};  // by probe(): the connection is broken; 0: it is not

    std::mutex send_;
    std::unique_ptr<std::byte[]> kept_;  // byte n of the stream at n modulo kKept
    Current sending_to_{};
    uint64_t sent_ = 0;     // end of the stream so far
    uint64_t written_ = 0;  // given to the connection of `written_to_` up to here
    std::atomic<uint64_t> written_to_{0};
    std::atomic<uint64_t> acked_{0};  // the other end has received up to here
    std::atomic<bool> ack_due_{false};

    std::mutex receive_;
    std::atomic<int> receivers_{0};  // threads that want receive_ for themselves
    std::mutex progress_mutex_;
    std::condition_variable progress_;
    Current receiving_from_{};
    std::vector<std::byte> raw_;  // as it came
    size_t raw_begin_ = 0, raw_end_ = 0;
    uint64_t segment_left_ = 0;
    uint64_t read_from_ = 0;  // the generation that raw_ and segment_left_ are of
    std::vector<std::byte> early_;
    size_t early_begin_ = 0;
    std::atomic<uint64_t> received_{0};
    std::atomic<uint64_t> said_{0};  // what the other end has been told of received_
    std::atomic<bool> goodbye_{false};
    std::atomic<bool> deaf_{false};

    std::thread watcher_;
    std::mutex watch_mutex_;
    std::condition_variable watch_;
    bool stop_watching_ = false;
};

}  // namespace carrel::wire
