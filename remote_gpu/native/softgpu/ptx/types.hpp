// The scalar types and state spaces of PTX, by name and size. Knows nothing of values or
// instructions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace carrel::softgpu::ptx {

enum class Type : std::uint8_t {
    none,
    pred,
    b8,
    b16,
    b32,
    b64,
    b128,
    u8,
    u16,
    u32,
    u64,
    s8,
    s16,
    s32,
    s64,
    f16,
    f16x2,
    bf16,
    bf16x2,
    tf32,
    f32,
    f64,
    e4m3x2,
    e5m2x2,
    u16x2,
    s16x2,
    f32x2,
};

enum class StateSpace : std::uint8_t { none, reg, global, constant, shared, local, param, generic };

/// The type a modifier such as "u32" names (no dot).
[[nodiscard]] std::optional<Type> type_named(std::string_view name);
[[nodiscard]] std::string_view name_of(Type type);

/// Bytes of one value in memory; 0 for predicates.
[[nodiscard]] unsigned size_of(Type type);

/// Bytes of one lane of the register that holds such a value: 2, 4, 8 or 16; 0 for predicates.
[[nodiscard]] inline unsigned width_of(Type type) {
    const unsigned size = size_of(type);
    return size == 1 ? 2 : size;
}

[[nodiscard]] inline bool is_signed(Type type) {
    return type == Type::s8 || type == Type::s16 || type == Type::s32 || type == Type::s64;
}

[[nodiscard]] inline bool is_unsigned_or_bits(Type type) {
    return (type >= Type::b8 && type <= Type::b128) || (type >= Type::u8 && type <= Type::u64);
}

[[nodiscard]] inline bool is_integer(Type type) {
    return is_signed(type) || is_unsigned_or_bits(type);
}

[[nodiscard]] inline bool is_half(Type type) {
    return type >= Type::f16 && type <= Type::bf16x2;
}

[[nodiscard]] inline bool is_float(Type type) {
    return is_half(type) || type == Type::tf32 || type == Type::f32 || type == Type::f64;
}

}  // namespace carrel::softgpu::ptx
