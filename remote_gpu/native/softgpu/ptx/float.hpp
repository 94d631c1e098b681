// What float operations share: flushing subnormals and the canonical NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {

class Decoder;
enum class Type : std::uint8_t;

CARREL_INLINE float flush(float a) {
    return std::abs(a) < 0x1p-126F ? std::copysign(0.0F, a) : a;
}
CARREL_INLINE double flush(double a) {
    return a;
}

/// An operand as an .ftz instruction sees it.
template <class F, bool Ftz>
CARREL_INLINE F start(F a) {
    if constexpr (Ftz) return flush(a);
    return a;
}

/// A result as the hardware leaves it: one NaN for f32, whatever the operands were.
template <class F, bool Ftz>
CARREL_INLINE F finish(F a) {
    if constexpr (Ftz) a = flush(a);
    if constexpr (sizeof(F) == 4)
        return a == a ? a : std::bit_cast<float>(std::uint32_t{0x7fffffff});
    else
        return a;
}

/// .rz .rm .rp and .sat forms; operands are resolved already.
bool decode_rounded(Decoder& d, Type type);

}  // namespace carrel::softgpu::ptx
