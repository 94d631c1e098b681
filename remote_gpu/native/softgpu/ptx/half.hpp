// The 16-bit float formats: exact widening to float, and rounding to nearest even from float.
#pragma once

#include <bit>
#include <cstdint>

namespace carrel::softgpu::ptx {

struct Float16 {
    [[gnu::always_inline]] static inline float widen(std::uint16_t bits) {
        // The exponent is moved by an exact multiplication, which also normalises subnormals.
        const std::uint32_t magnitude = std::uint32_t{bits & 0x7fffU} << 13;
        std::uint32_t result =
            std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
        if ((bits & 0x7c00U) == 0x7c00U) result = magnitude | 0x7f800000U;
        return std::bit_cast<float>(result | std::uint32_t{bits & 0x8000U} << 16);
    }

    [[gnu::always_inline]] static inline std::uint16_t narrow(float value) {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
        const std::uint32_t magnitude = bits & 0x7fffffffU;
        if (magnitude > 0x7f800000U) return 0x7fff;           // the canonical NaN
        if (magnitude >= 0x477ff000U) return sign | 0x7c00U;  // 65520 and more round to infinity
        if (magnitude < 0x38800000U) {
            // Subnormal: adding a number whose last place is 2^-24 rounds there.
            const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
            return static_cast<std::uint16_t>(
                sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U));
        }
        const std::uint32_t odd = magnitude >> 13 & 1;
        return static_cast<std::uint16_t>(sign | ((magnitude + 0xfffU + odd - 0x38000000U) >> 13));
    }
};

struct BFloat16 {
    [[gnu::always_inline]] static inline float widen(std::uint16_t bits) {
        return std::bit_cast<float>(std::uint32_t{bits} << 16);
    }

    [[gnu::always_inline]] static inline std::uint16_t narrow(float value) {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        if ((bits & 0x7fffffffU) > 0x7f800000U) return 0x7fff;
        return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1)) >> 16);
    }
};

}  // namespace carrel::softgpu::ptx
