#include "wire/channel.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace carrel::wire {

namespace {
constexpr size_t kMaxParts = 64;
// Tries in a row that the other end's system has not acknowledged; they double their distance from
// 0.2 s, so that these take 25 s or more.
constexpr unsigned kUnanswered = 7;
constexpr timeval kLook{5, 0};  // how often a waiting send or receive looks
}  // namespace

Channel::Channel(int fd, size_t buffer) : fd_(fd), usual_(buffer), buffer_(buffer) {}

Channel::Channel(Channel&& other) noexcept {
    *this = std::move(other);
}

Channel& Channel::operator=(Channel&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(error_, other.error_);
    std::swap(usual_, other.usual_);
    std::swap(begin_, other.begin_);
    std::swap(end_, other.end_);
    buffer_.swap(other.buffer_);
    return *this;
}

Channel::~Channel() {
    close();
}

void Channel::close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

void Channel::shutdown() {
    if (fd_ >= 0) ::shutdown(fd_, SHUT_RDWR);
}

int Channel::send(std::span<const iovec> parts, size_t* sent) {
    iovec list[kMaxParts];
    const size_t count = std::min(parts.size(), kMaxParts);
    std::copy_n(parts.begin(), count, list);
    size_t first = 0;
    if (sent) *sent = 0;
    while (first < count) {
        msghdr message{};
        message.msg_iov = list + first;
        message.msg_iovlen = count - first;
        ssize_t n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN && !silent()) continue;
            return errno == EAGAIN ? ETIMEDOUT : errno;
        }
        if (sent) *sent += static_cast<size_t>(n);
        while (first < count && static_cast<size_t>(n) >= list[first].iov_len) {
            n -= static_cast<ssize_t>(list[first].iov_len);
            ++first;
        }
        if (first < count) {
            list[first].iov_base = static_cast<char*>(list[first].iov_base) + n;
            list[first].iov_len -= static_cast<size_t>(n);
        }
    }
    return parts.size() > kMaxParts ? send(parts.subspan(kMaxParts)) : 0;
}

int Channel::send(const void* data, size_t size) {
    const iovec part{const_cast<void*>(data), size};
    return send(std::span(&part, 1));
}

// The kernel's own limit would also end a connection whose other end is only slow: stopped in a
// debugger, or busy with one long call. Such an end still acknowledges what it is sent.
bool Channel::silent() const {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (::getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return false;
    return info.tcpi_retransmits >= kUnanswered || info.tcpi_probes >= kUnanswered;
}

// Whether a receive that failed is to be tried again.
bool Channel::again() const {
    if (errno == EINTR) return true;
    if (errno != EAGAIN) return false;
    const bool dead = silent();
    errno = ETIMEDOUT;
    return !dead;
}

bool Channel::fill(size_t size) {
    if (begin_ == end_) {
        begin_ = end_ = 0;
        if (buffer_.size() > usual_ && size <= usual_) {
            buffer_.resize(usual_);
            buffer_.shrink_to_fit();
        }
    }
    if (begin_ + size > buffer_.size()) {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        // Grows with what has arrived, not with what a stranger announces.
        if (end_ == buffer_.size()) {
            buffer_.resize(std::min(std::max(size, usual_), 2 * buffer_.size()));
        }
    }
    for (;;) {
        const ssize_t n = ::recv(fd_, buffer_.data() + end_, buffer_.size() - end_, 0);
        if (n > 0) {
            end_ += static_cast<size_t>(n);
            return true;
        }
        if (n < 0 && again()) continue;
        error_ = n == 0 ? 0 : errno;
        return false;
    }
}

bool Channel::receive(void* data, size_t size) {
    auto* to = static_cast<std::byte*>(data);
    const size_t ready = std::min(size, end_ - begin_);
    if (ready) {
        std::memcpy(to, buffer_.data() + begin_, ready);
        begin_ += ready;
    }
    for (size_t done = ready; done < size;) {
        const ssize_t n = ::recv(fd_, to + done, size - done, MSG_WAITALL);
        if (n > 0) {
            done += static_cast<size_t>(n);
        } else if (n == 0 || !again()) {
            error_ = n == 0 ? 0 : errno;
            return false;
        }
    }
    return true;
}

bool Channel::discard(size_t size) {
    std::vector<std::byte> sink(std::min(size, size_t{256} << 10));
    while (size) {
        const size_t part = std::min(size, sink.size());
        if (!receive(sink.data(), part)) return false;
        size -= part;
    }
    return true;
}

bool Channel::readable() const {
    if (begin_ != end_) return true;
    pollfd waiting{fd_, POLLIN, 0};
    return ::poll(&waiting, 1, 0) > 0;
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
