// A connected stream socket as a transport.
#pragma once
#include "wire/transport.hpp"

namespace carrel::wire {

class Socket : public Transport {
  public:
    // Takes the descriptor over.
    explicit Socket(int fd) : fd_(fd) {}
    ~Socket() override;

    int fd() const { return fd_; }
    int release() {
        const int fd = fd_;
        fd_ = -1;
        return fd;
    }

    int send(std::span<iovec> parts, size_t* sent) override;
    ssize_t receive(void* to, size_t size, bool all) override;
    bool readable(std::chrono::milliseconds wait) override;
    bool writable() override;
    bool peer_gone() override;
    bool hung_up() override;
    void shutdown() override;
    void end_sending() override;
    void end_receiving() override;
    void linger(std::chrono::milliseconds limit) override;
    void abandon() override;

    // Whether the other end's system has left so many tries unanswered that it must be gone. An end
    // that is only slow, stopped in a debugger or busy with one long call, still acknowledges what
    // it is sent; the kernel's own limit would end its connection too.
    bool silent() const;

  private:
    int fd_;
};

// Takes `n` bytes off the front of `parts`; returns what is left of them.
std::span<iovec> after_bytes(std::span<iovec> parts, size_t n);

// No delay for small messages, and a dead peer is noticed within half a minute.
void tune_socket(int fd);

}  // namespace carrel::wire
