// What carries the bytes of one connection: a socket, rings in shared memory, TLS, or a stream that
// survives a broken connection. Sending and receiving may happen in two threads, each in one thread
// at a time; the functions marked so may be called in any.
#pragma once
#include <sys/types.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>

namespace carrel::wire {

class Transport {
  public:
    Transport() = default;
    Transport(const Transport&) = delete;
    Transport& operator=(const Transport&) = delete;
    virtual ~Transport() = default;

    // Sends all parts, waiting as needed; the parts are used up. 0, or errno (EPIPE and the like;
    // EFAULT for bad user memory); `*sent` says how much went out.
    virtual int send(std::span<iovec> parts, size_t* sent) = 0;
    // Between 1 and `size` bytes, waiting for the first; with `all`, it may wait for the rest too.
    // 0 at the end of the stream, -errno on an error.
    virtual ssize_t receive(void* to, size_t size, bool all) = 0;
    // Whether receive() would find bytes or an end, at once or within `wait`.
    virtual bool readable(std::chrono::milliseconds wait) = 0;
    // Whether a few bytes could be sent without waiting; never blocks.
    virtual bool writable() = 0;
    // Whether the other end is gone for good, as far as can be told without reading. Any thread.
    virtual bool peer_gone() = 0;
    // Whether the other end sends no more, though something may be left to read. Any thread.
    virtual bool hung_up() { return peer_gone(); }

    // Ends both directions and wakes whoever sends or receives. Any thread.
    virtual void shutdown() = 0;
    // The other end reads what was sent, then the end of the stream. Any thread.
    virtual void end_sending() = 0;
    // Whoever receives here finds the end of the stream. Any thread.
    virtual void end_receiving() = 0;
    // After end_sending(): waits until the other end has left, `limit` at most.
    virtual void linger(std::chrono::milliseconds limit) = 0;
    // In a forked child: drops this process's descriptors without a word to the other end, which is
    // the parent's.
    virtual void abandon() = 0;

    // A stream that survives its connection goes on with this one; false for others. Any thread.
    virtual bool continue_on(std::unique_ptr<Transport>) { return false; }
    // Sends such a stream's other end a sign of life and looks for its own; it never waits, so that
    // peer_gone() can be asked by who must not. False for others.
    virtual bool probe() { return false; }
    // Waits for another connection no longer. Any thread.
    virtual void hurry() {}
};

}  // namespace carrel::wire
