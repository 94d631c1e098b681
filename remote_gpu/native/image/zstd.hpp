// Zstandard frames (RFC 8878), as compilers of GPU code pack it. Decompression only, without
// dictionaries; checksums are not compared.
#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace carrel::image {

// What the frames in `packed` hold, or nothing: it is malformed, or larger than `most` bytes. Never
// reads or writes beyond, whatever the bytes are.
std::optional<std::vector<std::byte>> zstd_decompress(std::span<const std::byte> packed,
                                                      size_t most);

}  // namespace carrel::image
