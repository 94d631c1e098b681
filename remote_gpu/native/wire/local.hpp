// The transport of two processes on one host: a ring in shared memory for each direction, and the
// Unix socket over which they met, which stays open beside the rings to tell when the other end is
// gone. The node's end makes the memory and passes it on.
#pragma once
#include <memory>
#include <string>
#include <thread>

#include "wire/ring.hpp"
#include "wire/transport.hpp"

namespace carrel::wire {

class Local : public Transport {
  public:
    // The node's end: makes the shared memory (sealed: nobody can shrink it under the other) and
    // passes it over the socket. Throws std::system_error; the socket is closed then.
    static std::unique_ptr<Local> offer(int socket);
    // The client's end: receives the memory, within `limit`.
    static std::unique_ptr<Local> accept(int socket, std::chrono::milliseconds limit);
    ~Local() override;

    int send(std::span<iovec> parts, size_t* sent) override;
    ssize_t receive(void* to, size_t size, bool all) override;
    bool readable(std::chrono::milliseconds wait) override;
    bool writable() override;
    bool peer_gone() override { return gone_.load(); }
    void shutdown() override;
    void end_sending() override { out_.end(); }
    void end_receiving() override { in_.stop(true); }
    void linger(std::chrono::milliseconds limit) override;
    void abandon() override;

  private:
    Local(int socket, std::byte* mapping, bool offered);
    void watch();

    const bool doubts_;  // whether what is copied is a program's memory, not our own
    int socket_;
    int stop_;  // eventfd that ends the watcher
    std::byte* mapping_;
    Ring in_, out_;
    std::atomic<bool> gone_{false};
    std::thread watcher_;
};

}  // namespace carrel::wire
