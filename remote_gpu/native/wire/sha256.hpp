// SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104): all the cryptography of the handshake.
// Our own, because a client library must not load a second OpenSSL into other people's processes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace carrel::wire {

using Hash = std::array<uint8_t, 32>;

class Sha256 {
  public:
    // `instructions`: with those of the processor, if it has them.
    explicit Sha256(bool instructions = true);
    void update(const void* data, size_t size);
    Hash finish();

  private:
    void block(const uint8_t* data);

    const bool instructions_;
    std::array<uint32_t, 8> state_;
    std::array<uint8_t, 64> pending_;
    uint64_t total_ = 0;  // bytes
};

Hash sha256(const void* data, size_t size);

// HMAC over the concatenation of `parts`.
Hash hmac_sha256(std::span<const uint8_t> key, std::span<const std::span<const uint8_t>> parts);

// Compares in constant time.
bool equal(const Hash& a, const Hash& b);

// 64 hexadecimal digits; false when `text` is not.
bool parse_hex(const std::string& text, Hash& out);

}  // namespace carrel::wire
