// The limit of everything that goes over the network: a plain TCP connection on loopback, with a
// peer in a process of its own that echoes, swallows and sends.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace raw_tcp {

inline constexpr size_t kPing = 16;
inline constexpr size_t kChunk = 1 << 20;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "raw TCP: %s\n", what);
    std::exit(1);
}

inline void no_delay(int fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

inline void read_all(int fd, void* buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = read(fd, static_cast<char*>(buffer) + done, size - done);
        if (n <= 0) fail("the peer went away");
        done += static_cast<size_t>(n);
    }
}

inline void write_all(int fd, const void* buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = write(fd, static_cast<const char*>(buffer) + done, size - done);
        if (n <= 0) fail("the peer went away");
        done += static_cast<size_t>(n);
    }
}

// Commands: 'p' echo kPing bytes; 'd' + u64: swallow so many bytes, then answer one; 'u' + u64:
// send so many bytes; end of file: leave.
inline void serve(int fd) {
    std::vector<char> buffer(kChunk);
    for (;;) {
        char command[kPing];
        size_t got = 0;
        while (got < kPing) {
            const ssize_t n = read(fd, command + got, kPing - got);
            if (n <= 0) return;
            got += static_cast<size_t>(n);
        }
        uint64_t left = 0;
        std::memcpy(&left, command + 8, sizeof left);
        if (command[0] == 'p') {
            write_all(fd, command, kPing);
        } else if (command[0] == 'd') {
            while (left > 0) {
                const ssize_t n = read(fd, buffer.data(), std::min<uint64_t>(left, kChunk));
                if (n <= 0) return;
                left -= static_cast<uint64_t>(n);
            }
            write_all(fd, "!", 1);
        } else {
            while (left > 0) {
                const size_t n = std::min<uint64_t>(left, kChunk);
                write_all(fd, buffer.data(), n);
                left -= n;
            }
        }
    }
}

// A process that serves any number of connections, each in a process of its own.
class Peer {
  public:
    Peer() {
        const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* where = reinterpret_cast<sockaddr*>(&address);
        if (listener < 0 || bind(listener, where, size) || listen(listener, 8) ||
            getsockname(listener, where, &size))
            fail("no loopback socket");
        port_ = ntohs(address.sin_port);
        child_ = fork();
        if (child_ == 0) {
            std::signal(SIGCHLD, SIG_IGN);
            for (;;) {
                const int fd = accept(listener, nullptr, nullptr);
                if (fd < 0) _exit(1);
                if (fork() == 0) {
                    close(listener);
                    no_delay(fd);
                    serve(fd);
                    _exit(0);
                }
                close(fd);
            }
        }
        close(listener);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;
    ~Peer() {
        kill(child_, SIGTERM);
        waitpid(child_, nullptr, 0);
    }
    int port() const { return port_; }

  private:
    int port_ = 0;
    pid_t child_ = -1;
};

// A connection to a peer, or to a relay before it. Each figure is in seconds.
class Connection {
  public:
    explicit Connection(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<uint16_t>(port));
        if (fd_ < 0 || connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address))
            fail("no loopback connection");
        no_delay(fd_);
    }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection() { close(fd_); }

    double ping() {
        char message[kPing] = {'p'};
        const auto start = Clock::now();
        write_all(fd_, message, kPing);
        read_all(fd_, message, kPing);
        return since(start);
    }
    double send(const std::vector<char>& data) {
        char answer = 0;
        const auto start = Clock::now();
        command('d', data.size());
        write_all(fd_, data.data(), data.size());
        read_all(fd_, &answer, 1);
        return since(start);
    }
    double receive(std::vector<char>& data) {
        const auto start = Clock::now();
        command('u', data.size());
        read_all(fd_, data.data(), data.size());
        return since(start);
    }

  private:
    using Clock = std::chrono::steady_clock;
    static double since(Clock::time_point start) {
        return std::chrono::duration<double>(Clock::now() - start).count();
    }
    void command(char what, uint64_t bytes) {
        char message[kPing] = {what};
        std::memcpy(message + 8, &bytes, sizeof bytes);
        write_all(fd_, message, kPing);
    }
    int fd_;
};

}  // namespace raw_tcp
