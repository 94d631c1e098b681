#include "softgpu/fatbin.hpp"

#include <cstring>
#include <span>
#include <vector>

#include "image/zstd.hpp"

namespace carrel::softgpu {
namespace {

constexpr const char* kWrapperMagic = "\xb1\x43\x62\x46";
constexpr const char* kFatbinMagic = "\x50\xed\x55\xba";
constexpr std::uint64_t kLz4 = 0x2000, kZstd = 0x8000;
constexpr std::uint64_t kLargestText = std::uint64_t{256} << 20;

template <class T>
T read(const unsigned char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// An LZ4 block: tokens of a literal run and a copy from what was already written. Empty: malformed.
std::string unpack_lz4(const unsigned char* at, std::size_t packed, std::size_t unpacked) {
    const unsigned char* const end = at + packed;
    std::string out;
    out.reserve(unpacked);
    const auto length = [&](std::size_t start) {
        std::size_t total = start;
        if (start == 15)
            for (unsigned char more = 255; more == 255 && at < end;) total += more = *at++;
        return total;
    };
    while (at < end) {
        const unsigned token = *at++;
        const std::size_t literals = length(token >> 4);
        if (literals > static_cast<std::size_t>(end - at) || out.size() + literals > unpacked)
            return {};
        out.append(reinterpret_cast<const char*>(at), literals);
        at += literals;
        if (out.size() == unpacked || end - at < 2) break;
        const std::size_t distance = read<std::uint16_t>(at);
        at += 2;
        const std::size_t copied = length(token & 15) + 4;
        if (distance == 0 || distance > out.size() || out.size() + copied > unpacked) return {};
        for (std::size_t i = 0; i < copied; ++i) out.push_back(out[out.size() - distance]);
    }
    return out.size() == unpacked ? out : std::string();
}

std::string unpack_zstd(const unsigned char* at, std::size_t packed) {
    const auto text = image::zstd_decompress(std::as_bytes(std::span(at, packed)), kLargestText);
    return text ? std::string(reinterpret_cast<const char*>(text->data()), text->size())
                : std::string();
}

// Reads no further than the first byte that differs: the image may be a very short text.
bool starts_with(const unsigned char* at, const char* magic) {
    return std::strncmp(reinterpret_cast<const char*>(at), magic, 4) == 0;
}

}  // namespace

std::optional<const unsigned char*> fatbin_of(const void* image) {
    const auto* at = static_cast<const unsigned char*>(image);
    if (starts_with(at, kWrapperMagic)) {
        at = read<const unsigned char*>(at + 8);
        if (!at) return std::nullopt;
    }
    if (!starts_with(at, kFatbinMagic)) return std::nullopt;
    return at;
}

std::optional<std::string> ptx_of_fatbin(const unsigned char* fatbin, std::string& why) {
    const unsigned char* at = fatbin + read<std::uint16_t>(fatbin + 6);
    const unsigned char* const end = at + read<std::uint64_t>(fatbin + 8);
    why = "the fatbin holds machine code of NVIDIA GPUs only; the software GPU executes PTX";
    std::optional<std::string> best;
    std::uint32_t best_arch = 0;
    while (end - at >= 64) {
        const auto kind = read<std::uint16_t>(at);
        const auto header = read<std::uint32_t>(at + 4);
        const auto padded = read<std::uint64_t>(at + 8);
        const auto packed = read<std::uint32_t>(at + 16);
        const auto arch = read<std::uint32_t>(at + 28);
        const auto flags = read<std::uint64_t>(at + 40);
        const auto unpacked = read<std::uint64_t>(at + 56);
        if (header < 64 || padded > static_cast<std::uint64_t>(end - at) - header) {
            why = "the fatbin is malformed";
            return std::nullopt;
        }
        const unsigned char* const body = at + header;
        at = body + padded;
        if (kind != 1 || (best && arch <= best_arch)) continue;
        if (flags & (kZstd | kLz4)) {
            if (packed > padded || unpacked > kLargestText) continue;
            std::string text =
                flags & kZstd ? unpack_zstd(body, packed) : unpack_lz4(body, packed, unpacked);
            if (text.empty()) {
                why = "the fatbin's PTX is damaged";
                continue;
            }
            best = std::string(text.c_str());
            best_arch = arch;
        } else {
            best = std::string(reinterpret_cast<const char*>(body),
                               ::strnlen(reinterpret_cast<const char*>(body), padded));
            best_arch = arch;
        }
    }
    return best;
}

}  // namespace carrel::softgpu
