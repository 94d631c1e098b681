// cuMemset*: fills with a pattern of 1, 2 or 4 bytes, in one and two dimensions.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

template <class Pattern>
CUresult fill(bool wait, CUstream stream, CUdeviceptr to, std::size_t pitch, Pattern pattern,
              std::size_t width, std::size_t height) {
    return entry_in_context([&](Context&) {
        if (width == 0 || height == 0) return;
        require(to != 0 && to % sizeof(Pattern) == 0 && pitch % sizeof(Pattern) == 0);
        require(width <= PageTable::kAddressLimit && height <= PageTable::kAddressLimit);
        const std::size_t row = width * sizeof(Pattern);
        require(height == 1 || (pitch >= row && pitch <= PageTable::kAddressLimit / height));
        const std::size_t span = (height - 1) * pitch + row;
        const auto allocation = Runtime::get().addresses().find(to);
        require(allocation && (allocation->kind == MemoryKind::mapped ||
                               span <= allocation->base + allocation->bytes - to));
        require(Runtime::get().pages().mapped(to, span));
        const auto target = find_stream(stream);
        // Only where the host could see it unfinished does the call wait.
        const bool shared = allocation->host() || allocation->kind == MemoryKind::managed;
        const auto work = [=] {
            for (std::size_t y = 0; y < height; ++y) {
                auto* start = reinterpret_cast<Pattern*>(to + y * pitch);
                std::fill(start, start + width, pattern);
            }
        };
        if (shared && wait) {
            target->context.enqueue_and_run(*target, work);
        } else {
            target->context.enqueue(*target, work);
        }
    });
}

}  // namespace

CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N) {
    return fill(true, nullptr, dstDevice, 0, uc, N, 1);
}

CUresult cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N) {
    return fill(true, nullptr, dstDevice, 0, us, N, 1);
}

CUresult cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N) {
    return fill(true, nullptr, dstDevice, 0, ui, N, 1);
}

CUresult cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                         size_t Height) {
    return fill(true, nullptr, dstDevice, dstPitch, uc, Width, Height);
}

CUresult cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                          size_t Height) {
    return fill(true, nullptr, dstDevice, dstPitch, us, Width, Height);
}

CUresult cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                          size_t Height) {
    return fill(true, nullptr, dstDevice, dstPitch, ui, Width, Height);
}

CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream) {
    return fill(false, hStream, dstDevice, 0, uc, N, 1);
}

CUresult cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream) {
    return fill(false, hStream, dstDevice, 0, us, N, 1);
}

CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream) {
    return fill(false, hStream, dstDevice, 0, ui, N, 1);
}

CUresult cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                           size_t Height, CUstream hStream) {
    return fill(false, hStream, dstDevice, dstPitch, uc, Width, Height);
}

CUresult cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                            size_t Height, CUstream hStream) {
    return fill(false, hStream, dstDevice, dstPitch, us, Width, Height);
}

CUresult cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                            size_t Height, CUstream hStream) {
    return fill(false, hStream, dstDevice, dstPitch, ui, Width, Height);
}
