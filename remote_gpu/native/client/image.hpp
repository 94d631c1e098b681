// How large a module image is: CUDA's functions take a bare pointer.
#pragma once
#include <cstddef>
#include <vector>

namespace carrel::client {

struct Image {
    const void* data = nullptr;
    size_t size = 0;
};

// Reads just the headers. Text counts its terminating zero. Size 0: not an image.
Image measure_image(const void* data);

// A fatbin without the code that a device of this compute capability cannot use: most of what
// libraries carry is for other GPUs. Empty: the image is to be sent as it is.
std::vector<std::byte> only_fitting(const Image& image, unsigned major, unsigned minor);

// Outputs of the linker, whose size is known.
void remember_image(const void* data, size_t size);
void forget_image(const void* data);

}  // namespace carrel::client
