#include "softgpu/ptx/number.hpp"

#include <algorithm>
#include <bit>

namespace carrel::softgpu::ptx {
namespace {

using Class = Number::Class;

// mantissa / 2^shift, rounded; shift may be anything above zero.
std::uint64_t shift_rounding(std::uint64_t mantissa, int shift, bool negative, Rounding rounding) {
    if (shift <= 0) return mantissa;
    const std::uint64_t kept = shift < 64 ? mantissa >> shift : 0;
    const std::uint64_t rest = shift < 64 ? mantissa & ((std::uint64_t{1} << shift) - 1) : mantissa;
    if (rest == 0) return kept;
    // Compare the rest with one half of the last kept place.
    int against_half = -1;
    if (shift <= 64) {
        const std::uint64_t half = std::uint64_t{1} << (shift - 1);
        against_half = rest < half ? -1 : rest == half ? 0 : 1;
    }
    bool up = false;
    switch (rounding) {
        case Rounding::nearest_even:
            up = against_half > 0 || (against_half == 0 && (kept & 1));
            break;
        case Rounding::nearest_away:
            up = against_half >= 0;
            break;
        case Rounding::zero:
            break;
        case Rounding::down:
            up = negative;
            break;
        case Rounding::up:
            up = !negative;
            break;
    }
    return kept + up;
}

std::uint64_t integer_mask(unsigned bits) {
    return bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
}

}  // namespace

FloatFormat format_of(Type type) {
    switch (type) {
        case Type::f16:
            return {11, 15, 5};
        case Type::bf16:
            return {8, 127, 8};
        case Type::tf32:
            return {11, 127, 8};
        case Type::f64:
            return {53, 1023, 11};
        case Type::e4m3x2:
            return {4, 8, 4, false};
        case Type::e5m2x2:
            return {3, 15, 5};
        default:
            return {24, 127, 8};
    }
}

Number number_from_float(std::uint64_t bits, const FloatFormat& format) {
    Number number;
    const int fraction_bits = format.precision - 1;
    const std::uint64_t fraction = bits & ((std::uint64_t{1} << fraction_bits) - 1);
    const int top = (1 << format.exponent_bits) - 1;
    const int exponent = static_cast<int>(bits >> fraction_bits) & top;
    const int bias = (1 << (format.exponent_bits - 1)) - 1;
    number.negative = (bits >> (fraction_bits + format.exponent_bits) & 1) != 0;
    if (exponent == top && format.has_infinity) {
        number.kind = fraction != 0 ? Class::nan : Class::infinity;
        return number;
    }
    if (!format.has_infinity && exponent == top &&
        fraction == (std::uint64_t{1} << fraction_bits) - 1) {
        number.kind = Class::nan;
        return number;
    }
    number.mantissa = exponent == 0 ? fraction : fraction | std::uint64_t{1} << fraction_bits;
    number.exponent = std::max(exponent, 1) - bias - fraction_bits;
    return number;
}

Number number_from_integer(std::uint64_t bits, Type type) {
    Number number;
    const unsigned size = size_of(type) * 8;
    bits &= integer_mask(size);
    if (is_signed(type) && (bits >> (size - 1) & 1) != 0) {
        number.negative = true;
        bits = (0 - bits) & integer_mask(size);
    }
    number.mantissa = bits;
    return number;
}

std::uint64_t float_from_number(const Number& number, const FloatFormat& format, Rounding rounding,
                                bool finite) {
    const int fraction_bits = format.precision - 1;
    const std::uint64_t sign = std::uint64_t{number.negative}
                               << (fraction_bits + format.exponent_bits);
    const int top = (1 << format.exponent_bits) - 1;
    const int bias = (1 << (format.exponent_bits - 1)) - 1;
    const std::uint64_t ones = (std::uint64_t{1} << fraction_bits) - 1;
    const std::uint64_t infinity = std::uint64_t(top) << fraction_bits;
    const std::uint64_t nan = infinity | ones;
    // Without infinities the pattern below NaN is the largest number.
    const std::uint64_t largest = format.has_infinity ? infinity - 1 : nan - 1;
    if (number.kind == Class::nan) return nan;
    if (number.kind == Class::infinity)
        return sign | (finite || !format.has_infinity ? (finite ? largest : nan) : infinity);
    if (number.mantissa == 0) return sign;
    const int lead = std::countl_zero(number.mantissa);
    const std::uint64_t mantissa = number.mantissa << lead;
    const int exponent = number.exponent - lead + 63;  // value = 1.… × 2^exponent
    const int lowest = 1 - bias;
    const int shift = 64 - format.precision + (exponent < lowest ? lowest - exponent : 0);
    const std::uint64_t kept = shift_rounding(mantissa, shift, number.negative, rounding);
    // A carry out of the fraction runs into the exponent, where it belongs.
    std::uint64_t bits = kept;
    if (exponent >= lowest)
        bits = kept - (ones + 1) +
               (static_cast<std::uint64_t>(std::min(exponent, 5000) + bias) << fraction_bits);
    if (bits <= largest) return sign | bits;
    const bool toward_zero = rounding == Rounding::zero ||
                             (rounding == Rounding::down && !number.negative) ||
                             (rounding == Rounding::up && number.negative);
    if (finite || toward_zero) return sign | largest;
    return sign | (format.has_infinity ? infinity : nan);
}

Number whole(const Number& number, Rounding rounding) {
    if (number.kind != Class::finite || number.exponent >= 0) return number;
    Number result = number;
    result.mantissa = shift_rounding(number.mantissa, -number.exponent, number.negative, rounding);
    result.exponent = 0;
    return result;
}

std::uint64_t integer_from_number(const Number& number, Type type, Rounding rounding) {
    const unsigned size = size_of(type) * 8;
    const std::uint64_t mask = integer_mask(size);
    const std::uint64_t highest = is_signed(type) ? mask >> 1 : mask;
    const std::uint64_t lowest = is_signed(type) ? highest + 1 : 0;  // magnitude of the least
    if (number.kind == Class::nan) return 0;
    const Number rounded = whole(number, rounding);
    const std::uint64_t limit = rounded.negative ? lowest : highest;
    std::uint64_t magnitude = limit;
    if (rounded.kind == Class::finite) {
        const bool fits =
            rounded.mantissa == 0 || (rounded.exponent <= std::countl_zero(rounded.mantissa));
        if (fits) magnitude = rounded.mantissa == 0 ? 0 : rounded.mantissa << rounded.exponent;
        magnitude = std::min(magnitude, limit);
    }
    return (rounded.negative ? 0 - magnitude : magnitude) & mask;
}

}  // namespace carrel::softgpu::ptx
