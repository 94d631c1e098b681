// A fingerprint of a page of memory, to see whether it has changed. Not cryptographic: the memory
// is the session's own, and who constructs two pages with one digest deceives nobody else.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace carrel::worker {

using Digest = std::array<uint64_t, 4>;

// Four lanes, so that their multiplications overlap. Each step is a bijection of the lane for any
// word: pages that differ in one word never agree, others with a chance of 2^-64 and less.
inline Digest digest(const std::byte* data, size_t size) {
    Digest lanes = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0xd6e8feb86659fd93};
    const auto step = [](uint64_t lane, uint64_t word) {
        lane = (lane ^ word) * 0xff51afd7ed558ccd;
        return lane ^ lane >> 32;
    };
    while (size >= 32) {
        uint64_t words[4];
        std::memcpy(words, data, sizeof words);
        for (size_t i = 0; i < 4; ++i) lanes[i] = step(lanes[i], words[i]);
        data += 32;
        size -= 32;
    }
    for (size_t i = 0; size; ++i) {
        uint64_t word = 0;
        const size_t part = size < 8 ? size : 8;
        std::memcpy(&word, data, part);
        lanes[i] = step(lanes[i], word);
        data += part;
        size -= part;
    }
    return lanes;
}

}  // namespace carrel::worker
