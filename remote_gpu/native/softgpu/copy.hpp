// Copies and fills as data: checked when they are described, done when their turn comes, in a
// stream or in a graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_abi.hpp"

namespace carrel::softgpu {

enum class Side : std::uint8_t { host, device, either };

/// One end of a copy: rows of `pitch` bytes, layers of `rows` rows; x, y and z are in `base`
/// already.
struct End {
    std::uint64_t base = 0;
    Side side = Side::either;
    std::size_t pitch = 0;
    std::size_t rows = 0;
};

struct Extent {
    std::size_t width = 0, height = 1, depth = 1;  // bytes, rows, layers
    [[nodiscard]] bool empty() const { return width == 0 || height == 0 || depth == 0; }
};

struct Copy {
    End to, from;
    Extent extent;

    void perform() const;
};

/// What a CUDA_MEMCPY3D asks for, checked. Throws Failure.
[[nodiscard]] Copy copy_of(const CUDA_MEMCPY3D& description);
/// The other way round; offsets are zero.
[[nodiscard]] CUDA_MEMCPY3D description_of(const Copy& copy);

/// Rows of a repeated pattern of 1, 2 or 4 bytes.
struct Fill {
    std::uint64_t to = 0;
    std::size_t pitch = 0;
    std::uint32_t pattern = 0;
    unsigned element_bytes = 1;
    std::size_t width = 0;  // elements
    std::size_t height = 1;

    /// Throws Failure unless the memory is there and aligned.
    void check() const;
    void perform() const;
};

}  // namespace carrel::softgpu
