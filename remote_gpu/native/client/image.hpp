// How large a module image is: CUDA's functions take a bare pointer.
#pragma once
#include <cstddef>
#include <cstdint>

namespace carrel::client {

enum class ImageKind : uint8_t { ptx, cubin, fatbin };

struct Image {
    const void* data = nullptr;
    size_t size = 0;
};

// Reads just the headers. Text counts its terminating zero. Size 0: not an image.
Image measure_image(const void* data);

// Outputs of the linker, whose size is known.
void remember_image(const void* data, size_t size);
void forget_image(const void* data);

}  // namespace carrel::client
