// LZ4 blocks, as compilers of GPU code pack it. Decompression only.
#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace carrel::image {

// The `size` bytes that the block `packed` holds, or nothing: it is malformed, or of another size.
// Never reads or writes beyond, whatever the bytes are.
std::optional<std::vector<std::byte>> lz4_decompress(std::span<const std::byte> packed,
                                                     size_t size);

}  // namespace carrel::image
