// The element types of matrices: half and bfloat16, how they become float and back, and code chosen
// by cudaDataType.
#pragma once

#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "softblas/status.hpp"

namespace carrel::softblas {

struct Half {
    _Float16 bits;
    explicit operator float() const { return static_cast<float>(bits); }
    static Half from(float value) { return {static_cast<_Float16>(value)}; }
};

struct Bfloat16 {
    std::uint16_t bits;
    explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
    static Bfloat16 from(float value) {
        const auto word = std::bit_cast<std::uint32_t>(value);
        if (value != value) return {static_cast<std::uint16_t>((word >> 16) | 0x40)};
        const std::uint32_t nearest_even = 0x7fff + ((word >> 16) & 1);
        return {static_cast<std::uint16_t>((word + nearest_even) >> 16)};
    }
};

template <class T>
inline constexpr bool is_complex = false;
template <class T>
inline constexpr bool is_complex<std::complex<T>> = true;

template <class T>
struct RealOf {
    using type = T;
};
template <class T>
struct RealOf<std::complex<T>> {
    using type = T;
};
template <class T>
using Real = typename RealOf<T>::type;

template <class T>
T conjugate(const T& value) {
    if constexpr (is_complex<T>) return std::conj(value);
    return value;
}

/// `value` as another element type; the narrower ones round to nearest even, integers saturate.
template <class To, class From>
To convert(const From& value) {
    if constexpr (std::is_same_v<To, From>) {
        return value;
    } else if constexpr (is_complex<To>) {
        if constexpr (is_complex<From>)
            return To(static_cast<Real<To>>(value.real()), static_cast<Real<To>>(value.imag()));
        else
            return To(convert<Real<To>>(value));
    } else if constexpr (is_complex<From>) {
        return convert<To>(value.real());
    } else if constexpr (std::is_same_v<To, Half> || std::is_same_v<To, Bfloat16>) {
        return To::from(static_cast<float>(value));
    } else if constexpr (std::is_same_v<From, Half> || std::is_same_v<From, Bfloat16>) {
        return convert<To>(static_cast<float>(value));
    } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
        if (value != value) return 0;
        const auto rounded = std::nearbyint(static_cast<double>(value));
        if (rounded <= static_cast<double>(std::numeric_limits<To>::min()))
            return std::numeric_limits<To>::min();
        if (rounded >= static_cast<double>(std::numeric_limits<To>::max()))
            return std::numeric_limits<To>::max();
        return static_cast<To>(rounded);
    } else {
        return static_cast<To>(value);
    }
}

template <class T>
struct Type {
    using type = T;
};

/// Calls `body(Type<T>{})` with the element type of `type`. Refuses others as not supported.
template <class Body>
decltype(auto) with_type(cudaDataType type, Body&& body) {
    switch (type) {
        case CUDA_R_32F:
            return body(Type<float>{});
        case CUDA_R_64F:
            return body(Type<double>{});
        case CUDA_R_16F:
            return body(Type<Half>{});
        case CUDA_R_16BF:
            return body(Type<Bfloat16>{});
        case CUDA_R_8I:
            return body(Type<std::int8_t>{});
        case CUDA_R_32I:
            return body(Type<std::int32_t>{});
        case CUDA_C_32F:
            return body(Type<std::complex<float>>{});
        case CUDA_C_64F:
            return body(Type<std::complex<double>>{});
    }
    throw Refusal(CUBLAS_STATUS_NOT_SUPPORTED);
}

template <class T>
inline constexpr cudaDataType data_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType data_type<double> = CUDA_R_64F;
template <>
inline constexpr cudaDataType data_type<std::complex<float>> = CUDA_C_32F;
template <>
inline constexpr cudaDataType data_type<std::complex<double>> = CUDA_C_64F;
template <>
inline constexpr cudaDataType data_type<Half> = CUDA_R_16F;
template <>
inline constexpr cudaDataType data_type<Bfloat16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType data_type<std::int8_t> = CUDA_R_8I;
template <>
inline constexpr cudaDataType data_type<std::int32_t> = CUDA_R_32I;

inline std::int64_t size_of(cudaDataType type) {
    return with_type(
        type, [](auto t) { return static_cast<std::int64_t>(sizeof(typename decltype(t)::type)); });
}

}  // namespace carrel::softblas
