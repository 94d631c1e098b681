// A bounded queue of bytes: what has been received and not yet passed on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

class ByteRing {
  public:
    explicit ByteRing(size_t capacity) : data_(new char[capacity]), capacity_(capacity) {}

    // Positions in the stream.
    uint64_t received() const { return received_; }
    uint64_t sent() const { return sent_; }
    size_t held() const { return static_cast<size_t>(received_ - sent_); }
    size_t free() const { return capacity_ - held(); }

    // Where the next bytes go, at most so many and in one piece; then add() what came.
    std::span<char> room(size_t most) {
        if (held() == 0) tail_ = 0;  // little traffic stays in the cache
        const size_t head = (tail_ + held()) % capacity_;
        const size_t end = head < tail_ ? tail_ : capacity_;
        return {data_.get() + head, std::min({most, free(), end - head})};
    }
    void add(size_t size) { received_ += size; }

    // The oldest bytes, at most so many and in one piece; then take() what was passed on.
    std::span<const char> data(uint64_t most) const {
        const size_t size = std::min(held(), capacity_ - tail_);
        return {data_.get() + tail_, static_cast<size_t>(std::min<uint64_t>(size, most))};
    }
    void take(size_t size) {
        sent_ += size;
        tail_ = (tail_ + size) % capacity_;
    }

    void clear() { take(held()); }

  private:
    std::unique_ptr<char[]> data_;
    size_t capacity_;
    size_t tail_ = 0;
    uint64_t received_ = 0, sent_ = 0;
};
