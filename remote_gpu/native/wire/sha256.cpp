#include "wire/sha256.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstring>

namespace carrel::wire {
namespace {

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t load_be(const uint8_t* p) {
    return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}

#if defined(__x86_64__)
bool has_instructions() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

// With the processor's instructions, which hold the state as (a b e f) and (c d g h).
__attribute__((target("sha,sse4.1,ssse3"))) void block_by_instructions(uint32_t* state,
                                                                       const uint8_t* data) {
    const auto load = [](const void* at) {
        return _mm_loadu_si128(static_cast<const __m128i*>(at));
    };
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i low = _mm_shuffle_epi32(load(state), 0xB1);
    const __m128i high = _mm_shuffle_epi32(load(state + 4), 0x1B);
    const __m128i before_abef = _mm_alignr_epi8(low, high, 8);
    const __m128i before_cdgh = _mm_blend_epi16(high, low, 0xF0);
    __m128i abef = before_abef, cdgh = before_cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(data + 16 * i), big_endian);
    for (int i = 0; i < 16; ++i) {  // four rounds each
        __m128i& words = w[i % 4];
        if (i >= 4) {
            const __m128i later = w[(i + 3) % 4];
            const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(words, w[(i + 1) % 4]),
                                              _mm_alignr_epi8(later, w[(i + 2) % 4], 4));
            words = _mm_sha256msg2_epu32(sum, later);
        }
        const __m128i keyed = _mm_add_epi32(words, load(kRound.data() + 4 * i));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, keyed);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(keyed, 0x0E));
    }
    const __m128i feba = _mm_shuffle_epi32(_mm_add_epi32(abef, before_abef), 0x1B);
    const __m128i dchg = _mm_shuffle_epi32(_mm_add_epi32(cdgh, before_cdgh), 0xB1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#endif

void store_be(uint8_t* p, uint32_t v) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v >> (24 - 8 * i));
}

}  // namespace

Sha256::Sha256(bool instructions)
    : instructions_(instructions),
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
      pending_{} {}

void Sha256::block(const uint8_t* data) {
#if defined(__x86_64__)
    static const bool there = has_instructions();
    if (instructions_ && there) {
        block_by_instructions(state_.data(), data);
        return;
    }
#endif
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = load_be(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        const uint32_t s0 = std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3);
        const uint32_t s1 = std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10);
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (size_t i = 0; i < 64; ++i) {
        const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
        const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
        const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const uint32_t next[8] = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state_[i] += next[i];
}

void Sha256::update(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    while (size > 0) {
        if (total_ % 64 == 0 && size >= 64) {
            block(bytes);
            total_ += 64;
            bytes += 64;
            size -= 64;
            continue;
        }
        const size_t used = total_ % 64;
        const size_t n = std::min(size, 64 - used);
        std::memcpy(pending_.data() + used, bytes, n);
        total_ += n;
        bytes += n;
        size -= n;
        if (total_ % 64 == 0) block(pending_.data());
    }
}

Hash Sha256::finish() {
    const uint64_t bits = total_ * 8;
    const uint8_t one = 0x80, zero = 0;
    update(&one, 1);
    while (total_ % 64 != 56) update(&zero, 1);
    uint8_t length[8];
    store_be(length, static_cast<uint32_t>(bits >> 32));
    store_be(length + 4, static_cast<uint32_t>(bits));
    update(length, sizeof length);
    Hash hash;
    for (size_t i = 0; i < 8; ++i) store_be(hash.data() + 4 * i, state_[i]);
    return hash;
}

Hash sha256(const void* data, size_t size) {
    Sha256 digest;
    digest.update(data, size);
    return digest.finish();
}

Hash hmac_sha256(std::span<const uint8_t> key, std::span<const std::span<const uint8_t>> parts) {
    std::array<uint8_t, 64> inner{}, outer{};
    Hash hashed;
    if (key.size() > inner.size()) {
        hashed = sha256(key.data(), key.size());
        key = hashed;
    }
    std::copy(key.begin(), key.end(), inner.begin());
    outer = inner;
    for (uint8_t& byte : inner) byte ^= 0x36;
    for (uint8_t& byte : outer) byte ^= 0x5c;
    Sha256 first;
    first.update(inner.data(), inner.size());
    for (const auto part : parts) first.update(part.data(), part.size());
    const Hash middle = first.finish();
    Sha256 second;
    second.update(outer.data(), outer.size());
    second.update(middle.data(), middle.size());
    return second.finish();
}

bool equal(const Hash& a, const Hash& b) {
    uint8_t difference = 0;
    for (size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
    return difference == 0;
}

bool parse_hex(const std::string& text, Hash& out) {
    if (text.size() != 2 * out.size()) return false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        int digit = -1;
        if (c >= '0' && c <= '9') digit = c - '0';
        if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
        if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
        if (digit < 0) return false;
        out[i / 2] = static_cast<uint8_t>(i % 2 ? out[i / 2] | digit : digit << 4);
    }
    return true;
}

}  // namespace carrel::wire
