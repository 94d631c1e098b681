// Appends plain values to a growing buffer. It knows nothing of what they mean.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <type_traits>
#include <utility>

namespace carrel::wire {

class Writer {
  public:
    Writer() = default;
    explicit Writer(size_t capacity) { reserve(capacity); }
    Writer(Writer&& other) noexcept { swap(other); }
    Writer& operator=(Writer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Writer() { std::free(data_); }

    template <class T>
        requires std::is_trivially_copyable_v<T>
    void put(const T& value) {
        std::memcpy(extend(sizeof(T)), &value, sizeof(T));
    }

    void raw(const void* data, size_t size) {
        if (size) std::memcpy(extend(size), data, size);
    }

    // u64 length, then the bytes.
    void bytes(const void* data, size_t size) {
        put(static_cast<uint64_t>(size));
        raw(data, size);
    }
    void text(std::string_view value) { bytes(value.data(), value.size()); }

    // Room for `size` more bytes, to be filled by the caller at once.
    void* extend(size_t size) {
        if (size > capacity_ - size_) reserve(size_ + size);
        void* at = data_ + size_;
        size_ += size;
        return at;
    }

    // Overwrites what was put at `offset` before.
    template <class T>
    void patch(size_t offset, const T& value) {
        std::memcpy(data_ + offset, &value, sizeof(T));
    }

    void truncate(size_t size) { size_ = size; }
    void clear() { size_ = 0; }
    const std::byte* data() const { return data_; }
    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }
    bool empty() const { return size_ == 0; }

    void swap(Writer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
    }

    // Gives memory back after an unusually large message.
    void shrink(size_t capacity) {
        if (capacity_ <= capacity || size_) return;
        Writer smaller(capacity);
        swap(smaller);
    }

  private:
    void reserve(size_t wanted) {
        size_t capacity = capacity_ ? capacity_ : 256;
        while (capacity < wanted) capacity *= 2;
        void* moved = std::realloc(data_, capacity);
        if (!moved) throw std::bad_alloc();
        data_ = static_cast<std::byte*>(moved);
        capacity_ = capacity;
    }

    std::byte* data_ = nullptr;
    size_t size_ = 0;
    size_t capacity_ = 0;
};

}  // namespace carrel::wire
