// Fatbins made byte by byte.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace carrel::test {

inline constexpr uint16_t kPtx = 1, kCubin = 2;
inline constexpr uint64_t kLz4 = 0x2000, kZstd = 0x8000;

template <class T>
void put(std::string& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

struct Code {
    uint16_t kind = kPtx;
    uint32_t arch = 80;
    std::string bytes;
    uint64_t flags = 0;
    uint64_t size = 0;  // unpacked
};

inline std::string entry_of(const Code& code) {
    std::string body = code.bytes;
    body.resize((body.size() + 7) / 8 * 8);
    std::string header(64, '\0');
    put(header, 0, code.kind);
    put(header, 4, static_cast<uint32_t>(header.size()));
    put(header, 8, static_cast<uint64_t>(body.size()));
    put(header, 16, static_cast<uint32_t>(code.flags ? code.bytes.size() : 0));
    put(header, 28, code.arch);
    put(header, 40, code.flags);
    put(header, 56, code.size);
    return header + body;
}

inline std::string fatbin_of(const std::vector<Code>& codes) {
    std::string body;
    for (const Code& code : codes) body += entry_of(code);
    std::string header(16, '\0');
    put(header, 0, uint32_t{0xBA55ED50});
    put(header, 4, uint16_t{1});
    put(header, 6, static_cast<uint16_t>(header.size()));
    put(header, 8, static_cast<uint64_t>(body.size()));
    return header + body;
}

}  // namespace carrel::test
