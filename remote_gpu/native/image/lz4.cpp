#include "image/lz4.hpp"

#include <algorithm>

namespace carrel::image {

namespace {

constexpr size_t kLeastCopy = 4;
constexpr unsigned kMore = 15;  // in a token: the length goes on in the bytes that follow
// No byte of a block stands for more than this: a claim beyond it need not be tried.
constexpr size_t kMostRatio = 255;

class Block {
  public:
    Block(std::span<const std::byte> packed, size_t size) : in_(packed), size_(size) {}

    bool unpack() {
        out.reserve(size_);
        while (!in_.empty()) {
            const unsigned token = next();
            size_t length = 0;
            if (!read_length(token >> 4, length) || !literals(length)) return false;
            if (in_.empty()) break;  // the last run of literals has no copy after it
            if (in_.size() < 2) return false;
            const size_t low = next();
            const size_t distance = low | size_t{next()} << 8;
            if (!read_length(token & kMore, length) || !copy(distance, length + kLeastCopy)) {
                return false;
            }
        }
        return out.size() == size_;
    }

    std::vector<std::byte> out;

  private:
    unsigned next() {
        const auto value = static_cast<unsigned>(in_.front());
        in_ = in_.subspan(1);
        return value;
    }

    bool read_length(unsigned nibble, size_t& length) {
        length = nibble;
        if (nibble != kMore) return true;
        for (unsigned byte = 255; byte == 255;) {
            if (in_.empty()) return false;
            length += byte = next();
        }
        return true;
    }

    bool literals(size_t length) {
        if (length > in_.size() || length > size_ - out.size()) return false;
        out.insert(out.end(), in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(length));
        in_ = in_.subspan(length);
        return true;
    }

    bool copy(size_t distance, size_t length) {
        if (!distance || distance > out.size() || length > size_ - out.size()) return false;
        // Byte by byte: a copy may reach into what it writes.
        for (size_t i = 0; i < length; ++i) out.push_back(out[out.size() - distance]);
        return true;
    }

    std::span<const std::byte> in_;
    const size_t size_;
};

}  // namespace

std::optional<std::vector<std::byte>> lz4_decompress(std::span<const std::byte> packed,
                                                     size_t size) {
    if (packed.empty() || size / kMostRatio > packed.size()) return std::nullopt;
    Block block(packed, size);
    if (!block.unpack()) return std::nullopt;
    return std::move(block.out);
}

}  // namespace carrel::image
