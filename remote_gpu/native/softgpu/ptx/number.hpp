// Numbers between formats: any PTX integer or float taken apart exactly, and put together in
// another format under a rounding mode. Slow and plain; the common conversions have their own loops
// in convert.cpp.
#pragma once

#include <cstdint>

#include "softgpu/ptx/types.hpp"

namespace carrel::softgpu::ptx {

enum class Rounding : std::uint8_t { nearest_even, zero, down, up, nearest_away };

/// (-1)^negative × mantissa × 2^exponent, or an infinity or NaN.
struct Number {
    enum class Class : std::uint8_t { finite, infinity, nan } kind = Class::finite;
    bool negative = false;
    std::uint64_t mantissa = 0;
    int exponent = 0;
};

/// A binary format of at most 64 bits: `precision` counts the hidden bit.
struct FloatFormat {
    int precision;
    int max_exponent;  // of the largest finite number, unbiased
    int exponent_bits;
    bool has_infinity = true;
};

[[nodiscard]] FloatFormat format_of(Type type);

[[nodiscard]] Number number_from_float(std::uint64_t bits, const FloatFormat& format);
[[nodiscard]] Number number_from_integer(std::uint64_t bits, Type type);

/// `finite`: too large becomes the largest finite number, not infinity.
[[nodiscard]] std::uint64_t float_from_number(const Number& number, const FloatFormat& format,
                                              Rounding rounding, bool finite);
/// Clamped to the type's range; NaN becomes 0.
[[nodiscard]] std::uint64_t integer_from_number(const Number& number, Type type, Rounding rounding);
/// Rounded to a whole number, exactly representable where the argument was.
[[nodiscard]] Number whole(const Number& number, Rounding rounding);

}  // namespace carrel::softgpu::ptx
