// Reads plain values from bytes of a stranger: every length is checked.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace carrel::wire {

// The bytes are not what the protocol says. Ends the session.
struct Malformed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Reader {
  public:
    Reader() = default;
    explicit Reader(std::span<const std::byte> data) : data_(data) {}

    template <class T>
        requires std::is_trivially_copyable_v<T>
    T get() {
        T value;
        std::memcpy(&value, raw(sizeof(T)).data(), sizeof(T));
        return value;
    }

    std::span<const std::byte> raw(size_t size) {
        if (size > data_.size()) throw Malformed("a message ends too early");
        const auto part = data_.first(size);
        data_ = data_.subspan(size);
        return part;
    }

    // u64 length, then the bytes; the span is valid as long as the message.
    std::span<const std::byte> bytes() { return raw(length()); }

    std::string text() {
        const auto part = bytes();
        return {reinterpret_cast<const char*>(part.data()), part.size()};
    }

    size_t left() const { return data_.size(); }
    std::span<const std::byte> rest() { return raw(data_.size()); }

  private:
    size_t length() {
        const auto size = get<uint64_t>();
        if (size > data_.size()) throw Malformed("a length exceeds its message");
        return static_cast<size_t>(size);
    }

    std::span<const std::byte> data_;
};

inline std::string text(std::span<const std::byte> data) {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

}  // namespace carrel::wire
