#include "wire/channel.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "wire/socket.hpp"

namespace carrel::wire {

Channel::Channel(std::unique_ptr<Transport> transport, size_t buffer)
    : transport_(std::move(transport)), usual_(buffer), buffer_(buffer) {}

Channel::Channel(int fd, size_t buffer) : Channel(std::make_unique<Socket>(fd), buffer) {}

void Channel::abandon() {
    if (!transport_) return;
    transport_->abandon();
    // Its threads are the parent's, so that it cannot be destroyed here.
    [[maybe_unused]] Transport* const left = transport_.release();
}

int Channel::send(std::span<const iovec> parts, size_t* sent) {
    constexpr size_t kMaxParts = 16;
    iovec list[kMaxParts];
    size_t total = 0;
    int error = 0;
    while (!parts.empty() && !error) {
        const size_t count = std::min(parts.size(), kMaxParts);
        std::copy_n(parts.begin(), count, list);
        size_t part = 0;
        error = transport_->send({list, count}, &part);
        total += part;
        parts = parts.subspan(count);
    }
    if (sent) *sent = total;
    return error;
}

int Channel::send(const void* data, size_t size) {
    const iovec part{const_cast<void*>(data), size};
    return send(std::span(&part, 1));
}

bool Channel::ended(ssize_t received) {
    if (received > 0) return false;
    error_ = static_cast<int>(-received);
    return true;
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
    const ssize_t n = transport_->receive(buffer_.data() + end_, buffer_.size() - end_, false);
    if (ended(n)) return false;
    end_ += static_cast<size_t>(n);
    return true;
}

bool Channel::receive(void* data, size_t size) {
    auto* to = static_cast<std::byte*>(data);
    const size_t ready = std::min(size, end_ - begin_);
    if (ready) {
        std::memcpy(to, buffer_.data() + begin_, ready);
        begin_ += ready;
    }
    for (size_t done = ready; done < size;) {
        const ssize_t n = transport_->receive(to + done, size - done, true);
        if (ended(n)) return false;
        done += static_cast<size_t>(n);
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

}  // namespace carrel::wire
