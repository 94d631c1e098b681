// cvt: common pairs of types as loops of their own, all others through Number.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/float.hpp"
#include "softgpu/ptx/half.hpp"
#include "softgpu/ptx/lanes.hpp"
#include "softgpu/ptx/number.hpp"

namespace carrel::softgpu::ptx {
namespace {

// --- integers to integers, without saturation ---

template <class T>
using Container = std::conditional_t<sizeof(T) == 1, std::make_signed_t<std::uint16_t>, T>;

template <class D, class S>
struct Cut {
    CARREL_INLINE Container<D> apply(Container<S> a) {
        return static_cast<Container<D>>(static_cast<D>(static_cast<S>(a)));
    }
};

template <class S, class D>
Handler cut() {
    return map1<Container<D>, Container<S>, Cut<D, S>>();
}

template <class S>
Handler cut_from(Type to) {
    switch (to) {
        case Type::u8:
        case Type::b8:
            return cut<S, std::uint8_t>();
        case Type::s8:
            return cut<S, std::int8_t>();
        case Type::u16:
        case Type::s16:
        case Type::b16:
            return cut<S, std::uint16_t>();
        case Type::u32:
        case Type::s32:
        case Type::b32:
            return cut<S, std::uint32_t>();
        default:
            return cut<S, std::uint64_t>();
    }
}

Handler integer_handler(Type to, Type from) {
    switch (from) {
        case Type::u8:
        case Type::b8:
            return cut_from<std::uint8_t>(to);
        case Type::s8:
            return cut_from<std::int8_t>(to);
        case Type::u16:
        case Type::b16:
            return cut_from<std::uint16_t>(to);
        case Type::s16:
            return cut_from<std::int16_t>(to);
        case Type::u32:
        case Type::b32:
            return cut_from<std::uint32_t>(to);
        case Type::s32:
            return cut_from<std::int32_t>(to);
        case Type::s64:
            return cut_from<std::int64_t>(to);
        default:
            return cut_from<std::uint64_t>(to);
    }
}

// --- common conversions with floats ---

template <class D, class S>
struct Cast {
    CARREL_INLINE D apply(S a) { return static_cast<D>(a); }
};
// Toward zero, clamped, NaN to 0. The bounds are exact in S.
template <class D, class S>
struct Truncate {
    CARREL_INLINE D apply(S a) {
        constexpr S kAbove = static_cast<S>(std::numeric_limits<D>::max() / 2 + 1) * 2;
        constexpr S kLowest = static_cast<S>(std::numeric_limits<D>::min());
        if (!(a >= kLowest)) return a != a ? 0 : std::numeric_limits<D>::min();
        return a >= kAbove ? std::numeric_limits<D>::max() : static_cast<D>(a);
    }
};
template <class S, bool Ftz>
struct ToDouble {
    CARREL_INLINE double apply(S a) { return static_cast<double>(start<S, Ftz>(a)); }
};
template <bool Ftz>
struct ToSingle {
    CARREL_INLINE float apply(double a) { return finish<float, Ftz>(static_cast<float>(a)); }
};
template <class Format>
struct Widen {
    CARREL_INLINE float apply(std::uint16_t a) { return Format::widen(a); }
};
template <class Format, bool Ftz>
struct Narrow {
    CARREL_INLINE std::uint16_t apply(float a) { return Format::narrow(start<float, Ftz>(a)); }
};
template <class Format>
struct NarrowPair {
    CARREL_INLINE std::uint32_t apply(float high, float low) {
        return Format::narrow(low) | std::uint32_t{Format::narrow(high)} << 16;
    }
};
template <class F, Rounding R, bool Ftz>
struct Whole {
    CARREL_INLINE F apply(F a) {
        a = start<F, Ftz>(a);
        switch (R) {
            case Rounding::nearest_even:
                return finish<F, false>(std::nearbyint(a));
            case Rounding::down:
                return finish<F, false>(std::floor(a));
            case Rounding::up:
                return finish<F, false>(std::ceil(a));
            default:
                return finish<F, false>(std::trunc(a));
        }
    }
};
template <bool Ftz, bool Sat>
struct SameSingle {
    CARREL_INLINE float apply(float a) {
        a = finish<float, Ftz>(a);
        if constexpr (Sat) return a > 0 ? (a < 1 ? a : 1.0F) : 0.0F;
        return a;
    }
};

template <class D>
Handler from_integer(Type from) {
    switch (from) {
        case Type::s32:
            return map1<D, std::int32_t, Cast<D, std::int32_t>>();
        case Type::u32:
            return map1<D, std::uint32_t, Cast<D, std::uint32_t>>();
        case Type::s64:
            return map1<D, std::int64_t, Cast<D, std::int64_t>>();
        case Type::u64:
            return map1<D, std::uint64_t, Cast<D, std::uint64_t>>();
        default:
            return nullptr;
    }
}
template <class S>
Handler to_integer(Type to) {
    switch (to) {
        case Type::s32:
            return map1<std::int32_t, S, Truncate<std::int32_t, S>>();
        case Type::u32:
            return map1<std::uint32_t, S, Truncate<std::uint32_t, S>>();
        case Type::s64:
            return map1<std::int64_t, S, Truncate<std::int64_t, S>>();
        case Type::u64:
            return map1<std::uint64_t, S, Truncate<std::uint64_t, S>>();
        default:
            return nullptr;
    }
}
template <class F, bool Ftz>
Handler whole_handler(Rounding rounding) {
    switch (rounding) {
        case Rounding::nearest_even:
            return map1<F, F, Whole<F, Rounding::nearest_even, Ftz>>();
        case Rounding::down:
            return map1<F, F, Whole<F, Rounding::down, Ftz>>();
        case Rounding::up:
            return map1<F, F, Whole<F, Rounding::up, Ftz>>();
        default:
            return map1<F, F, Whole<F, Rounding::zero, Ftz>>();
    }
}

// --- the general case ---

struct Conversion {
    Type to = Type::none;
    Type from = Type::none;
    Rounding rounding = Rounding::nearest_even;
    bool to_whole = false;  // .rni .rzi .rmi .rpi
    bool ftz = false;
    bool saturates = false;  // .sat
    bool finite = false;     // .satfinite
    bool relu = false;
};

std::int64_t encode(const Conversion& c) {
    return static_cast<std::int64_t>(c.to) | static_cast<std::int64_t>(c.from) << 8 |
           static_cast<std::int64_t>(c.rounding) << 16 | std::int64_t{c.to_whole} << 24 |
           std::int64_t{c.ftz} << 25 | std::int64_t{c.saturates} << 26 |
           std::int64_t{c.finite} << 27 | std::int64_t{c.relu} << 28;
}
Conversion decode(std::int64_t imm) {
    const auto bit = [imm](int at) { return (imm >> at & 1) != 0; };
    return {static_cast<Type>(imm & 0xff),
            static_cast<Type>(imm >> 8 & 0xff),
            static_cast<Rounding>(imm >> 16 & 0xff),
            bit(24),
            bit(25),
            bit(26),
            bit(27),
            bit(28)};
}

std::uint64_t convert_bits(const Conversion& c, std::uint64_t bits) {
    const bool from_float = !is_integer(c.from);
    Number number =
        from_float ? number_from_float(bits, format_of(c.from)) : number_from_integer(bits, c.from);
    if (c.ftz && c.from == Type::f32 && number.kind == Number::Class::finite &&
        (bits & 0x7f800000U) == 0)
        number.mantissa = 0;
    if (is_integer(c.to)) {
        if (from_float) return integer_from_number(number, c.to, c.rounding);
        if (c.saturates) return integer_from_number(number, c.to, Rounding::zero);
        return bits;  // cut by the caller
    }
    if (c.to_whole) number = whole(number, c.rounding);
    if (c.saturates) {
        if (number.kind == Number::Class::nan || number.negative) return 0;
    }
    if (c.relu && number.kind != Number::Class::nan && number.negative) number = Number{};
    const FloatFormat format = format_of(c.to);
    std::uint64_t result = float_from_number(number, format, c.rounding, c.finite);
    if (c.saturates) {
        const std::uint64_t one = float_from_number({Number::Class::finite, false, 1, 0}, format,
                                                    Rounding::nearest_even, false);
        result = std::min(result, one);
    }
    if (c.to == Type::tf32) {  // kept in the upper bits of an f32
        const FloatFormat single = format_of(Type::f32);
        result =
            float_from_number(number_from_float(result, format), single, Rounding::zero, false);
    }
    if (c.to == Type::f32 && result << 33 > std::uint64_t{0xff000000} << 32) result = 0x7fffffff;
    if (c.ftz && c.to == Type::f32 && (result & 0x7f800000U) == 0) result &= 0x80000000U;
    return result;
}

void convert(Warp& w, const Inst& in, std::uint32_t mask) {
    const Conversion c = decode(in.imm);
    const unsigned from = width_of(c.from);
    const unsigned to = width_of(c.to);
    const std::byte* a = lanes_of<std::byte>(w, in.a);
    std::byte* d = lanes_of<std::byte>(w, in.d);
    each_lane(mask, [&](unsigned l) {
        std::uint64_t bits = 0;
        std::memcpy(&bits, a + l * from, from);
        bits = convert_bits(c, bits);
        if (size_of(c.to) == 1)
            bits = is_signed(c.to) ? static_cast<std::uint64_t>(static_cast<std::int8_t>(bits))
                                   : bits & 0xff;
        std::memcpy(d + l * to, &bits, to);
    });
}

// Two floats to one register of two small ones, or back: imm as above for one of them.
void convert_to_pair(Warp& w, const Inst& in, std::uint32_t mask) {
    Conversion c = decode(in.imm);
    const unsigned half = size_of(c.to) * 4;  // bits of each
    if (c.to == Type::f16x2) c.to = Type::f16;
    if (c.to == Type::bf16x2) c.to = Type::bf16;
    const bool packed = c.from == Type::f16x2;
    if (packed) c.from = Type::f16;
    const std::uint32_t* a = lanes_of<std::uint32_t>(w, in.a);
    const std::uint32_t* b = packed ? a : lanes_of<std::uint32_t>(w, in.b);
    std::byte* d = lanes_of<std::byte>(w, in.d);
    each_lane(mask, [&](unsigned l) {
        const std::uint32_t high = packed ? a[l] >> 16 : a[l];
        const std::uint32_t low = packed ? a[l] & 0xffff : b[l];
        const auto result =
            static_cast<std::uint32_t>(convert_bits(c, high) << half | convert_bits(c, low));
        std::memcpy(d + l * (half / 4), &result, half / 4);
    });
}

void convert_from_fp8(Warp& w, const Inst& in, std::uint32_t mask) {
    Conversion c = decode(in.imm);
    c.to = Type::f16;
    const std::uint16_t* a = lanes_of<std::uint16_t>(w, in.a);
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    each_lane(mask, [&](unsigned l) {
        d[l] = static_cast<std::uint32_t>(convert_bits(c, a[l] & 0xff) | convert_bits(c, a[l] >> 8)
                                                                             << 16);
    });
}

// cvt.pack.sat: two s32 clamped into halves, for 8 bits pushed in below the halves of c.
void pack_saturating(Warp& w, const Inst& in, std::uint32_t mask) {
    const auto type = static_cast<Type>(in.imm);
    const std::int32_t* a = lanes_of<std::int32_t>(w, in.a);
    const std::int32_t* b = lanes_of<std::int32_t>(w, in.b);
    const std::uint32_t* c = in.c == kNoOperand ? nullptr : lanes_of<std::uint32_t>(w, in.c);
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    const unsigned bits = size_of(type) * 8;
    each_lane(mask, [&](unsigned l) {
        const auto clamp = [&](std::int32_t value) {
            return static_cast<std::uint32_t>(integer_from_number(
                number_from_integer(static_cast<std::uint32_t>(value), Type::s32), type,
                Rounding::zero));
        };
        const std::uint32_t pair = clamp(a[l]) << bits | clamp(b[l]);
        d[l] = c == nullptr ? pair : c[l] << (2 * bits) | pair;
    });
}

// --- choosing ---

Handler fast_handler(const Conversion& c) {
    const bool plain = !c.saturates && !c.relu && !c.finite;
    const bool nearest = c.rounding == Rounding::nearest_even;
    const bool from_integer_type = is_integer(c.from);
    if (from_integer_type && is_integer(c.to))
        return c.saturates ? nullptr : integer_handler(c.to, c.from);
    if (from_integer_type && nearest && plain) {
        if (c.to == Type::f32) return from_integer<float>(c.from);
        if (c.to == Type::f64) return from_integer<double>(c.from);
    }
    if (is_integer(c.to) && c.rounding == Rounding::zero) {
        if (c.from == Type::f32) return to_integer<float>(c.to);
        if (c.from == Type::f64) return to_integer<double>(c.to);
    }
    if (c.from == Type::f32 && c.to == Type::f32) {
        if (c.to_whole && plain)
            return c.ftz ? whole_handler<float, true>(c.rounding)
                         : whole_handler<float, false>(c.rounding);
        if (c.to_whole || c.relu || c.finite) return nullptr;
        if (c.saturates)
            return c.ftz ? map1<float, float, SameSingle<true, true>>()
                         : map1<float, float, SameSingle<false, true>>();
        return c.ftz ? map1<float, float, SameSingle<true, false>>()
                     : map1<float, float, SameSingle<false, false>>();
    }
    if (c.from == Type::f64 && c.to == Type::f64 && c.to_whole && plain)
        return whole_handler<double, false>(c.rounding);
    if (!plain || c.to_whole) return nullptr;
    if (c.from == Type::f32 && c.to == Type::f64)
        return c.ftz ? map1<double, float, ToDouble<float, true>>()
                     : map1<double, float, ToDouble<float, false>>();
    if (c.to == Type::f32 && c.from == Type::f16)
        return map1<float, std::uint16_t, Widen<Float16>>();
    if (c.to == Type::f32 && c.from == Type::bf16)
        return map1<float, std::uint16_t, Widen<BFloat16>>();
    if (!nearest) return nullptr;
    if (c.from == Type::f64 && c.to == Type::f32)
        return c.ftz ? map1<float, double, ToSingle<true>>()
                     : map1<float, double, ToSingle<false>>();
    if (c.from == Type::f32 && c.to == Type::f16)
        return c.ftz ? map1<std::uint16_t, float, Narrow<Float16, true>>()
                     : map1<std::uint16_t, float, Narrow<Float16, false>>();
    if (c.from == Type::f32 && c.to == Type::bf16)
        return map1<std::uint16_t, float, Narrow<BFloat16, false>>();
    return nullptr;
}

Conversion conversion_of(const Decoder& d) {
    Conversion c;
    c.to = d.type(0);
    c.from = d.type(1);
    c.ftz = d.has("ftz");
    c.saturates = d.has("sat");
    c.finite = d.has("satfinite") || c.to == Type::e4m3x2 || c.to == Type::e5m2x2;
    c.relu = d.has("relu");
    struct Mode {
        std::string_view name;
        Rounding rounding;
        bool to_whole;
    };
    static constexpr Mode kModes[] = {
        {"rn", Rounding::nearest_even, false},
        {"rz", Rounding::zero, false},
        {"rm", Rounding::down, false},
        {"rp", Rounding::up, false},
        {"rna", Rounding::nearest_away, false},
        {"rni", Rounding::nearest_even, true},
        {"rzi", Rounding::zero, true},
        {"rmi", Rounding::down, true},
        {"rpi", Rounding::up, true},
    };
    for (const Mode& mode : kModes) {
        if (!d.has(mode.name)) continue;
        c.rounding = mode.rounding;
        c.to_whole = mode.to_whole;
    }
    return c;
}

}  // namespace

bool decode_convert(Decoder& d) {
    if (d.opcode() != "cvt") return false;
    Inst& inst = d.inst;
    if (d.has("pack")) {
        const Type type = d.type(0);
        if (!is_integer(type) || size_of(type) > 2) d.unsupported();
        inst.a = d.source(1, Type::s32);
        inst.b = d.source(2, Type::s32);
        if (d.operands() > 3) inst.c = d.source(3, Type::b32);
        inst.d = d.dest(0, Type::b32);
        inst.imm = static_cast<std::int64_t>(type);
        inst.run = &pack_saturating;
        return true;
    }
    const Conversion c = conversion_of(d);
    if (c.to == Type::pred || c.from == Type::pred) d.unsupported();
    inst.imm = encode(c);
    const bool fp8 = c.to == Type::e4m3x2 || c.to == Type::e5m2x2;
    if (fp8 || c.to == Type::f16x2 || c.to == Type::bf16x2) {
        const bool from_fp8 = c.from == Type::e4m3x2 || c.from == Type::e5m2x2;
        const bool packed = from_fp8 || c.from == Type::f16x2;
        d.need(packed ? 2 : 3);
        inst.a = d.source(1, c.from);
        if (!packed) inst.b = d.source(2, c.from);
        inst.d = d.dest(0, fp8 ? Type::b16 : Type::b32);
        const bool plain = c.rounding == Rounding::nearest_even && !c.relu && !c.finite;
        if (from_fp8)
            inst.run = &convert_from_fp8;
        else if (plain && c.from == Type::f32 && c.to == Type::f16x2)
            inst.run = map2<std::uint32_t, float, float, NarrowPair<Float16>>();
        else if (plain && c.from == Type::f32 && c.to == Type::bf16x2)
            inst.run = map2<std::uint32_t, float, float, NarrowPair<BFloat16>>();
        else
            inst.run = &convert_to_pair;
        return true;
    }
    d.need(2);
    inst.a = d.source(1, c.from);
    inst.d = d.dest(0, c.to);
    inst.run = fast_handler(c);
    if (inst.run == nullptr) inst.run = &convert;
    return true;
}

}  // namespace carrel::softgpu::ptx
