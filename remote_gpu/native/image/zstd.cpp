#include "image/zstd.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace carrel::image {

namespace {

struct Malformed {};

void require(bool condition) {
    if (!condition) throw Malformed{};
}

// Bytes from front to back.
class Bytes {
  public:
    explicit Bytes(std::span<const std::byte> data) : data_(data) {}
    size_t left() const { return data_.size(); }
    std::span<const std::byte> take(size_t count) {
        require(count <= data_.size());
        const auto part = data_.first(count);
        data_ = data_.subspan(count);
        return part;
    }
    uint64_t number(size_t bytes) {
        uint64_t value = 0;
        std::memcpy(&value, take(bytes).data(), bytes);
        return value;
    }
    std::span<const std::byte> rest() const { return data_; }

  private:
    std::span<const std::byte> data_;
};

// Up to 32 bits at `position` of a little-endian bit string; what lies beyond it is zero.
uint64_t bits_at(std::span<const std::byte> data, size_t position, unsigned count) {
    uint64_t word = 0;
    const size_t byte = position / 8;
    if (byte >= data.size()) return 0;
    std::memcpy(&word, data.data() + byte, std::min<size_t>(sizeof word, data.size() - byte));
    return (word >> (position % 8)) & ((uint64_t{1} << count) - 1);
}

// Bits from front to back: descriptions of tables.
class ForwardBits {
  public:
    explicit ForwardBits(std::span<const std::byte> data) : data_(data) {}
    unsigned read(unsigned count) {
        require(position_ + count <= 8 * data_.size());
        const auto value = static_cast<unsigned>(bits_at(data_, position_, count));
        position_ += count;
        return value;
    }
    void unread(unsigned count) { position_ -= count; }
    size_t bytes() const { return (position_ + 7) / 8; }

  private:
    std::span<const std::byte> data_;
    size_t position_ = 0;
};

// Bits from back to front, below the highest one that is set. Reading beyond the front gives zeros
// and is seen by left().
class BackwardBits {
  public:
    explicit BackwardBits(std::span<const std::byte> data) : data_(data) {
        require(!data.empty() && data.back() != std::byte{0});
        const auto last = static_cast<unsigned>(data.back());
        left_ = static_cast<int64_t>(8 * data.size()) -
                std::countl_zero(static_cast<uint8_t>(last)) - 1;
    }
    uint64_t read(unsigned count) {
        const uint64_t value = peek(count);
        left_ -= count;
        return value;
    }
    uint64_t peek(unsigned count) const {
        const int64_t position = left_ - count;
        if (position >= 0) return bits_at(data_, static_cast<size_t>(position), count);
        if (left_ <= 0) return 0;
        return bits_at(data_, 0, static_cast<unsigned>(left_)) << -position;
    }
    void skip(unsigned count) { left_ -= count; }
    int64_t left() const { return left_; }

  private:
    std::span<const std::byte> data_;
    int64_t left_;
};

// ---- finite state entropy
// ------------------------------------------------------------------------

struct FseTable {
    struct Entry {
        uint8_t symbol;
        uint8_t bits;
        uint16_t base;
    };
    unsigned log = 0;
    std::vector<Entry> entries;

    bool empty() const { return entries.empty(); }
};

FseTable fse_table(std::span<const int16_t> shares, unsigned log) {
    const size_t size = size_t{1} << log;
    FseTable table{log, std::vector<FseTable::Entry>(size)};
    std::vector<uint16_t> next(shares.size());
    size_t high = size;
    for (size_t s = 0; s < shares.size(); ++s) {
        if (shares[s] != -1) continue;
        require(high > 0);
        table.entries[--high].symbol = static_cast<uint8_t>(s);
        next[s] = 1;
    }
    const size_t step = (size >> 1) + (size >> 3) + 3;
    size_t at = 0;
    for (size_t s = 0; s < shares.size(); ++s) {
        if (shares[s] <= 0) continue;
        next[s] = static_cast<uint16_t>(shares[s]);
        for (int i = 0; i < shares[s]; ++i) {
            table.entries[at].symbol = static_cast<uint8_t>(s);
            do at = (at + step) & (size - 1);
            while (at >= high);
        }
    }
    require(at == 0);
    for (auto& entry : table.entries) {
        const unsigned state = next[entry.symbol]++;
        entry.bits = static_cast<uint8_t>(log - (std::bit_width(state) - 1u));
        entry.base = static_cast<uint16_t>((state << entry.bits) - size);
    }
    return table;
}

FseTable read_fse_table(Bytes& in, unsigned most_log, size_t most_symbols) {
    ForwardBits bits(in.rest());
    const unsigned log = bits.read(4) + 5;
    require(log <= most_log);
    std::vector<int16_t> shares;
    int remaining = 1 << log;
    while (remaining > 0) {
        require(shares.size() < most_symbols);
        const unsigned count =
            static_cast<unsigned>(std::bit_width(static_cast<unsigned>(remaining + 1)));
        auto value = static_cast<int>(bits.read(count));
        const int lower = (1 << (count - 1)) - 1;
        const int threshold = (1 << count) - 1 - (remaining + 1);
        if ((value & lower) < threshold) {
            bits.unread(1);
            value &= lower;
        } else if (value > lower) {
            value -= threshold;
        }
        const int share = value - 1;
        remaining -= std::abs(share);
        shares.push_back(static_cast<int16_t>(share));
        if (share != 0) continue;
        for (unsigned more = 3; more == 3;) {
            more = bits.read(2);
            require(shares.size() + more <= most_symbols);
            shares.insert(shares.end(), more, 0);
        }
    }
    require(remaining == 0);
    in.take(bits.bytes());
    return fse_table(shares, log);
}

class FseState {
  public:
    FseState(const FseTable& table, BackwardBits& bits)
        : table_(table), state_(bits.read(table.log)) {}
    uint8_t symbol() const { return entry().symbol; }
    void advance(BackwardBits& bits) { state_ = entry().base + bits.read(entry().bits); }

  private:
    const FseTable::Entry& entry() const { return table_.entries[state_]; }
    const FseTable& table_;
    uint64_t state_;
};

// ---- Huffman
// -------------------------------------------------------------------------------------

struct HuffmanTable {
    struct Entry {
        uint8_t symbol;
        uint8_t bits;
    };
    unsigned most_bits = 0;
    std::vector<Entry> entries;
};

constexpr unsigned kMostHuffmanBits = 11;

std::vector<uint8_t> huffman_weights(Bytes& in) {
    const auto head = static_cast<unsigned>(in.number(1));
    std::vector<uint8_t> weights;
    if (head >= 128) {
        const size_t count = head - 127;
        const auto packed = in.take((count + 1) / 2);
        for (size_t i = 0; i < count; ++i) {
            const auto both = static_cast<unsigned>(packed[i / 2]);
            weights.push_back(static_cast<uint8_t>(i % 2 ? both & 15 : both >> 4));
        }
        return weights;
    }
    Bytes part(in.take(head));
    const FseTable table = read_fse_table(part, 6, 16);
    BackwardBits bits(part.rest());
    FseState first(table, bits);
    FseState second(table, bits);
    for (FseState *now = &first, *then = &second;; std::swap(now, then)) {
        require(weights.size() < 254);
        weights.push_back(now->symbol());
        now->advance(bits);
        if (bits.left() < 0) {
            weights.push_back(then->symbol());
            return weights;
        }
    }
}

HuffmanTable read_huffman_table(Bytes& in) {
    std::vector<uint8_t> weights = huffman_weights(in);
    uint64_t sum = 0;
    for (const uint8_t weight : weights) {
        require(weight <= kMostHuffmanBits);
        if (weight) sum += uint64_t{1} << (weight - 1);
    }
    require(sum > 0);
    // The last weight fills what is left up to a power of two.
    const auto most = static_cast<unsigned>(std::bit_width(sum));
    require(most <= kMostHuffmanBits);
    const uint64_t left = (uint64_t{1} << most) - sum;
    require(std::has_single_bit(left) && weights.size() < 256);
    weights.push_back(static_cast<uint8_t>(std::bit_width(left)));
    HuffmanTable table{most, std::vector<HuffmanTable::Entry>(size_t{1} << most)};
    size_t at = 0;
    for (unsigned weight = 1; weight <= most; ++weight) {  // longest codes first
        for (size_t s = 0; s < weights.size(); ++s) {
            if (weights[s] != weight) continue;
            const size_t length = size_t{1} << (weight - 1);
            require(at + length <= table.entries.size());
            std::fill_n(table.entries.begin() + static_cast<std::ptrdiff_t>(at), length,
                        HuffmanTable::Entry{static_cast<uint8_t>(s),
                                            static_cast<uint8_t>(most + 1 - weight)});
            at += length;
        }
    }
    require(at == table.entries.size());
    return table;
}

void huffman_decode(const HuffmanTable& table, std::span<const std::byte> packed,
                    std::span<std::byte> out) {
    BackwardBits bits(packed);
    for (std::byte& symbol : out) {
        const auto& entry = table.entries[bits.peek(table.most_bits)];
        symbol = std::byte{entry.symbol};
        bits.skip(entry.bits);
        require(bits.left() >= 0);
    }
    require(bits.left() == 0);
}

// ---- sequences
// -----------------------------------------------------------------------------------

struct Length {
    uint32_t base;
    uint8_t bits;
};

constexpr std::array<Length, 36> kLiteralLengths = [] {
    std::array<Length, 36> table{};
    for (uint32_t i = 0; i < 16; ++i) table[i] = {i, 0};
    constexpr uint8_t kBits[] = {1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    uint32_t base = 16;
    for (size_t i = 0; i < std::size(kBits); ++i) {
        table[16 + i] = {base, kBits[i]};
        base += uint32_t{1} << kBits[i];
    }
    return table;
}();

constexpr std::array<Length, 53> kMatchLengths = [] {
    std::array<Length, 53> table{};
    for (uint32_t i = 0; i < 32; ++i) table[i] = {i + 3, 0};
    constexpr uint8_t kBits[] = {1, 1, 1, 1,  2,  2,  3,  3,  4,  4, 5,
                                 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    uint32_t base = 35;
    for (size_t i = 0; i < std::size(kBits); ++i) {
        table[32 + i] = {base, kBits[i]};
        base += uint32_t{1} << kBits[i];
    }
    return table;
}();
static_assert(kLiteralLengths[35].base == 65536 && kMatchLengths[52].base == 65539);

// Shares of the tables that every decoder knows (RFC 8878, 3.1.1.3.2.2).
constexpr int16_t kLiteralShares[] = {4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1,  1,  2,  2,
                                      2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1};
constexpr int16_t kOffsetShares[] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 1,  1,  1,  1,  1, 1,
                                     1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1};
constexpr int16_t kMatchShares[] = {1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1};

constexpr size_t kMostBlock = size_t{128} << 10;

// One frame's state: what blocks take over from those before.
class Frame {
  public:
    Frame(std::vector<std::byte>& out, size_t most) : out_(out), begin_(out.size()), most_(most) {}

    void block(Bytes in);
    void append(std::span<const std::byte> bytes) {
        require(bytes.size() <= most_ - out_.size());
        out_.insert(out_.end(), bytes.begin(), bytes.end());
    }
    void repeat(std::byte byte, size_t count) {
        require(count <= most_ - out_.size());
        out_.insert(out_.end(), count, byte);
    }

  private:
    void literals(Bytes& in);
    void sequences(Bytes& in);
    void read_table(Bytes& in, unsigned mode, FseTable& table, std::span<const int16_t> known,
                    unsigned known_log, unsigned most_log, size_t symbols);
    size_t offset(uint64_t value, bool no_literals);
    void copy(size_t distance, size_t length);

    std::vector<std::byte>& out_;
    const size_t begin_;
    const size_t most_;
    std::vector<std::byte> literals_;
    HuffmanTable huffman_;
    FseTable literal_lengths_, offsets_, match_lengths_;
    std::array<size_t, 3> recent_{1, 4, 8};
};

void Frame::block(Bytes in) {
    literals(in);
    sequences(in);
}

void Frame::literals(Bytes& in) {
    const auto head = static_cast<unsigned>(in.rest().empty() ? throw Malformed{} : in.rest()[0]);
    const unsigned kind = head & 3;
    const unsigned format = (head >> 2) & 3;
    if (kind < 2) {
        static constexpr unsigned kBytes[] = {1, 2, 1, 3};
        const auto size = in.number(kBytes[format]) >> (kBytes[format] == 1 ? 3 : 4);
        require(size <= kMostBlock);
        if (kind == 0) {
            const auto raw = in.take(size);
            literals_.assign(raw.begin(), raw.end());
        } else {
            literals_.assign(size, in.take(1)[0]);
        }
        return;
    }
    static constexpr unsigned kBytes[] = {3, 3, 4, 5};
    static constexpr unsigned kBits[] = {10, 10, 14, 18};
    const uint64_t sizes = in.number(kBytes[format]) >> 4;
    const uint64_t size = sizes & ((uint64_t{1} << kBits[format]) - 1);
    const uint64_t packed_size = sizes >> kBits[format];
    require(size <= kMostBlock && size > 0);
    Bytes packed(in.take(packed_size));
    if (kind == 2) huffman_ = read_huffman_table(packed);
    require(!huffman_.entries.empty());
    literals_.resize(size);
    std::span<std::byte> out(literals_);
    if (format == 0) {
        huffman_decode(huffman_, packed.rest(), out);
        return;
    }
    std::array<size_t, 3> parts{};
    for (size_t& part : parts) part = packed.number(2);
    const size_t each = (size + 3) / 4;
    require(3 * each <= size);
    for (const size_t part : parts) {
        huffman_decode(huffman_, packed.take(part), out.first(each));
        out = out.subspan(each);
    }
    huffman_decode(huffman_, packed.rest(), out);
}

void Frame::read_table(Bytes& in, unsigned mode, FseTable& table, std::span<const int16_t> known,
                       unsigned known_log, unsigned most_log, size_t symbols) {
    switch (mode) {
        case 0:
            table = fse_table(known, known_log);
            break;
        case 1: {
            const auto symbol = static_cast<uint8_t>(in.number(1));
            require(symbol < symbols);
            table = {0, {{symbol, 0, 0}}};
            break;
        }
        case 2:
            table = read_fse_table(in, most_log, symbols);
            break;
        default:
            require(!table.empty());
    }
}

size_t Frame::offset(uint64_t value, bool no_literals) {
    size_t distance;
    unsigned place = 2;
    if (value > 3) {
        distance = value - 3;
    } else {
        const auto index = static_cast<unsigned>(value - 1) + (no_literals ? 1 : 0);
        distance = index < 3 ? recent_[index] : recent_[0] - 1;
        require(distance > 0);
        place = std::min(index, 2u);
    }
    for (unsigned i = place; i > 0; --i) recent_[i] = recent_[i - 1];
    recent_[0] = distance;
    return distance;
}

void Frame::copy(size_t distance, size_t length) {
    require(distance <= out_.size() - begin_ && length <= most_ - out_.size());
    const size_t from = out_.size() - distance;
    const size_t to = out_.size();
    out_.resize(to + length);
    if (distance >= length) {
        std::memcpy(&out_[to], &out_[from], length);
    } else {
        for (size_t i = 0; i < length; ++i) out_[to + i] = out_[from + i];
    }
}

void Frame::sequences(Bytes& in) {
    size_t count = in.number(1);
    if (count == 255) {
        count = in.number(2) + 0x7F00;
    } else if (count >= 128) {
        count = ((count - 128) << 8) + in.number(1);
    }
    std::span<const std::byte> literals(literals_);
    if (count == 0) {
        require(in.left() == 0);
        append(literals);
        return;
    }
    const auto modes = static_cast<unsigned>(in.number(1));
    require((modes & 3) == 0);
    read_table(in, modes >> 6, literal_lengths_, kLiteralShares, 6, 9, kLiteralLengths.size());
    read_table(in, (modes >> 4) & 3, offsets_, kOffsetShares, 5, 8, 32);
    read_table(in, (modes >> 2) & 3, match_lengths_, kMatchShares, 6, 9, kMatchLengths.size());
    BackwardBits bits(in.rest());
    FseState literal(literal_lengths_, bits);
    FseState back(offsets_, bits);
    FseState match(match_lengths_, bits);
    for (size_t i = 0; i < count; ++i) {
        const unsigned code = back.symbol();
        const uint64_t value = (uint64_t{1} << code) + bits.read(code);
        const Length& copied = kMatchLengths[match.symbol()];
        const size_t length = copied.base + bits.read(copied.bits);
        const Length& own = kLiteralLengths[literal.symbol()];
        const size_t ahead = own.base + bits.read(own.bits);
        require(bits.left() >= 0 && ahead <= literals.size());
        append(literals.first(ahead));
        literals = literals.subspan(ahead);
        copy(offset(value, ahead == 0), length);
        if (i + 1 == count) break;
        literal.advance(bits);
        match.advance(bits);
        back.advance(bits);
    }
    require(bits.left() == 0);
    append(literals);
}

void frame(Bytes& in, std::vector<std::byte>& out, size_t most) {
    const auto head = static_cast<unsigned>(in.number(1));
    const bool single = head & 0x20;
    const unsigned size_flag = head >> 6;
    require(!(head & 8) && !(head & 3));  // no dictionary
    if (!single) in.take(1);              // the window: all output is kept
    if (size_flag || single) in.take(size_flag ? size_t{1} << size_flag : 1);
    Frame state(out, most);
    for (bool last = false; !last;) {
        const auto block = static_cast<size_t>(in.number(3));
        last = block & 1;
        const size_t size = block >> 3;
        switch ((block >> 1) & 3) {
            case 0:
                state.append(in.take(size));
                break;
            case 1:
                state.repeat(in.take(1)[0], size);
                break;
            case 2:
                require(size <= kMostBlock);
                state.block(Bytes(in.take(size)));
                break;
            default:
                throw Malformed{};
        }
    }
    if (head & 4) in.take(4);
}

}  // namespace

std::optional<std::vector<std::byte>> zstd_decompress(std::span<const std::byte> packed,
                                                      size_t most) {
    constexpr uint32_t kMagic = 0xFD2FB528;
    constexpr uint32_t kSkippable = 0x184D2A50;
    std::vector<std::byte> out;
    try {
        Bytes in(packed);
        do {
            const auto magic = static_cast<uint32_t>(in.number(4));
            if ((magic & ~15u) == kSkippable) {
                in.take(in.number(4));
                continue;
            }
            require(magic == kMagic);
            frame(in, out, most);
        } while (in.left());
        return out;
    } catch (const Malformed&) {
        return std::nullopt;
    }
}

}  // namespace carrel::image
