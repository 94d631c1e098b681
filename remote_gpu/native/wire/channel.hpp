// One connection of client and worker: sends everything, receives through a buffer, over whatever
// transport. Not thread-safe; sending and receiving may happen in two threads.
#pragma once
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "wire/transport.hpp"

namespace carrel::wire {

class Channel {
  public:
    static constexpr size_t kBuffer = size_t{256} << 10;

    Channel() = default;
    explicit Channel(std::unique_ptr<Transport> transport, size_t buffer = kBuffer);
    // A stream socket; takes the descriptor over.
    explicit Channel(int fd, size_t buffer = kBuffer);

    bool open() const { return transport_ != nullptr; }
    void close() { transport_.reset(); }
    Transport& transport() { return *transport_; }
    // Wakes whoever receives or sends on this channel, in any thread.
    void shutdown() {
        if (transport_) transport_->shutdown();
    }
    // In a forked child, whose parent goes on with this channel.
    void abandon();

    // Sends all parts, waiting as needed. 0, or errno (EPIPE and the like; EFAULT for bad user
    // memory, then `*sent` says how much went out).
    int send(std::span<const iovec> parts, size_t* sent = nullptr);
    int send(const void* data, size_t size);

    // What has been received and not consumed yet.
    std::span<const std::byte> buffered() const { return {buffer_.data() + begin_, end_ - begin_}; }
    void consume(size_t size) { begin_ += size; }
    // Receives at least once, towards `size` bytes in the buffer. False at the end of the stream or
    // on an error, then error() says which (0: orderly end).
    bool fill(size_t size);
    // Receives exactly `size` bytes into `data`: buffered ones first.
    bool receive(void* data, size_t size);
    bool discard(size_t size);
    int error() const { return error_; }
    // Whether bytes wait in the buffer or the transport; never blocks.
    bool readable() const {
        return begin_ != end_ || transport_->readable(std::chrono::milliseconds(0));
    }

  private:
    bool ended(ssize_t received);

    std::unique_ptr<Transport> transport_;
    int error_ = 0;
    size_t usual_ = 0;
    size_t begin_ = 0;
    size_t end_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace carrel::wire
