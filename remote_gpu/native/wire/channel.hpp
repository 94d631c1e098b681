// A connected stream socket: sends everything, receives through a buffer. Not thread-safe; sending
// and receiving may happen in two threads.
#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <vector>

namespace carrel::wire {

class Channel {
  public:
    Channel() = default;
    // Takes the descriptor over.
    explicit Channel(int fd, size_t buffer = size_t{256} << 10);
    Channel(Channel&&) noexcept;
    Channel& operator=(Channel&&) noexcept;
    ~Channel();

    int fd() const { return fd_; }
    bool open() const { return fd_ >= 0; }
    void close();
    // Wakes whoever receives or sends on this socket, in any thread.
    void shutdown();

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
    // Whether bytes wait in the buffer or the socket; never blocks.
    bool readable() const;

  private:
    bool silent() const;
    bool again() const;

    int fd_ = -1;
    int error_ = 0;
    size_t usual_ = 0;
    size_t begin_ = 0;
    size_t end_ = 0;
    std::vector<std::byte> buffer_;
};

// No delay for small messages, and a dead peer is noticed within half a minute.
void tune_socket(int fd);

}  // namespace carrel::wire
