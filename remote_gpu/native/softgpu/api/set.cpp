// cuMemset*: fills with a pattern of 1, 2 or 4 bytes, in one and two dimensions.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/copy.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

std::size_t span_of(const Fill& fill) {
    return (fill.height - 1) * fill.pitch + fill.width * fill.element_bytes;
}

template <class Pattern>
void write_rows(const Fill& fill) {
    for (std::size_t y = 0; y < fill.height; ++y) {
        auto* start = reinterpret_cast<Pattern*>(fill.to + y * fill.pitch);
        std::fill(start, start + fill.width, static_cast<Pattern>(fill.pattern));
    }
}

template <class Pattern>
CUresult fill(bool wait, CUstream stream, CUdeviceptr to, std::size_t pitch, Pattern pattern,
              std::size_t width, std::size_t height) {
    return entry_in_context([&](Context&) {
        if (width == 0 || height == 0) return;
        const Fill ready{to, pitch, pattern, sizeof(Pattern), width, height};
        ready.check();
        const auto target = find_stream(stream);
        if (capturing(*target)) {
            capture(*target, ready);
            return;
        }
        // Only where the host could see it unfinished does the call wait.
        const auto allocation = Runtime::get().addresses().find(to);
        const bool shared =
            allocation && (allocation->host() || allocation->kind == MemoryKind::managed);
        const auto work = [=] { ready.perform(); };
        if (shared && wait) {
            target->context.enqueue_and_run(*target, work);
        } else {
            target->context.enqueue(*target, work);
        }
    });
}

}  // namespace

namespace carrel::softgpu {

void Fill::check() const {
    require(element_bytes == 1 || element_bytes == 2 || element_bytes == 4);
    require(to != 0 && width > 0 && height > 0);
    require(to % element_bytes == 0 && pitch % element_bytes == 0);
    require(width <= PageTable::kAddressLimit && height <= PageTable::kAddressLimit);
    require(height == 1 ||
            (pitch >= width * element_bytes && pitch <= PageTable::kAddressLimit / height));
    const std::size_t span = span_of(*this);
    const auto allocation = Runtime::get().addresses().find(to);
    require(allocation && (allocation->kind == MemoryKind::mapped ||
                           span <= allocation->base + allocation->bytes - to));
    require(Runtime::get().pages().mapped(to, span));
}

void Fill::perform() const {
    switch (element_bytes) {
        case 1:
            return write_rows<std::uint8_t>(*this);
        case 2:
            return write_rows<std::uint16_t>(*this);
        default:
            return write_rows<std::uint32_t>(*this);
    }
}

}  // namespace carrel::softgpu

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
