// libFuzzer: any bytes are unpacked or refused, within the size that is allowed.
#include <cstdint>
#include <cstdlib>

#include "image/zstd.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    constexpr size_t kMost = size_t{1} << 20;
    const auto out = carrel::image::zstd_decompress(std::as_bytes(std::span(data, size)), kMost);
    if (out && out->size() > kMost) std::abort();
    return 0;
}
