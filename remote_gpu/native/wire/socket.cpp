#include "wire/socket.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace carrel::wire {

namespace {
constexpr size_t kMaxParts = 64;
// Tries in a row that the other end's system has not acknowledged; they double their distance from
// 0.2 s, so that these take 25 s or more.
constexpr unsigned kUnanswered = 7;
constexpr timeval kLook{5, 0};  // how often a waiting send or receive looks
}  // namespace

std::span<iovec> after_bytes(std::span<iovec> parts, size_t n) {
    while (!parts.empty() && n >= parts.front().iov_len) {
        n -= parts.front().iov_len;
        parts = parts.subspan(1);
    }
    if (!parts.empty()) {
        parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + n;
        parts.front().iov_len -= n;
    }
    return parts;
}

Socket::~Socket() {
    if (fd_ >= 0) ::close(fd_);
}

int Socket::send(std::span<iovec> parts, size_t* sent) {
    *sent = 0;
    parts = after_bytes(parts, 0);
    while (!parts.empty()) {
        msghdr message{};
        message.msg_iov = parts.data();
        message.msg_iovlen = std::min(parts.size(), kMaxParts);
        const ssize_t n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN && !silent()) continue;
            return errno == EAGAIN ? ETIMEDOUT : errno;
        }
        *sent += static_cast<size_t>(n);
        parts = after_bytes(parts, static_cast<size_t>(n));
    }
    return 0;
}

ssize_t Socket::receive(void* to, size_t size, bool all) {
    for (;;) {
        const ssize_t n = ::recv(fd_, to, size, all ? MSG_WAITALL : 0);
        if (n >= 0) return n;
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return -errno;
        if (silent()) return -ETIMEDOUT;
    }
}

bool Socket::silent() const {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (::getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
    return info.tcpi_retransmits >= kUnanswered || info.tcpi_probes >= kUnanswered;
}

bool Socket::readable(std::chrono::milliseconds wait) {
    pollfd waiting{fd_, POLLIN, 0};
    return ::poll(&waiting, 1, static_cast<int>(wait.count())) > 0;
}

bool Socket::writable() {
    pollfd waiting{fd_, POLLOUT, 0};
    return ::poll(&waiting, 1, 0) > 0 && (waiting.revents & POLLOUT);
}

bool Socket::peer_gone() {
    pollfd waiting{fd_, 0, 0};
    return ::poll(&waiting, 1, 0) != 0;  // POLLHUP or POLLERR
}

bool Socket::hung_up() {
    pollfd waiting{fd_, POLLRDHUP, 0};
    return ::poll(&waiting, 1, 0) > 0;
}

void Socket::shutdown() {
    ::shutdown(fd_, SHUT_RDWR);
}

void Socket::end_sending() {
    ::shutdown(fd_, SHUT_WR);
}

void Socket::end_receiving() {
    ::shutdown(fd_, SHUT_RD);
}

void Socket::linger(std::chrono::milliseconds limit) {
    const auto until = std::chrono::steady_clock::now() + limit;
    char waste[4096];
    while (std::chrono::steady_clock::now() < until) {
        pollfd waiting{fd_, POLLIN, 0};
        if (::poll(&waiting, 1, 100) <= 0) continue;
        if (waiting.revents & (POLLHUP | POLLERR)) break;
        if (::recv(fd_, waste, sizeof waste, 0) <= 0) ::poll(nullptr, 0, 10);
    }
}

void Socket::abandon() {
    ::close(fd_);
    fd_ = -1;
}

void tune_socket(int fd) {
    const auto set = [fd](int level, int name, int value) {
        ::setsockopt(fd, level, name, &value, sizeof value);  // fails on Unix sockets: harmless
    };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 4);
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kLook, sizeof kLook);
    ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kLook, sizeof kLook);
}

}  // namespace carrel::wire
