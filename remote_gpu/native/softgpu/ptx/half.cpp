// Arithmetic of f16, bf16 and their pairs. Sums and products are exact enough in float or double
// that rounding once more gives what rounding once would: fma goes through double with its
// inexactness kept in the last bit.
#include "softgpu/ptx/half.hpp"

#include <cmath>
#include <limits>
#include <unordered_map>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/float.hpp"
#include "softgpu/ptx/lanes.hpp"
#include "softgpu/ptx/number.hpp"

namespace carrel::softgpu::ptx {
namespace {

// a × b + c in double, rounded to odd: exact in all that a later rounding to fewer places looks at.
CARREL_INLINE double fma_odd(float a, float b, float c) {
    const double product = double{a} * b;  // exact: at most 22 bits
    const double sum = product + c;
    if (!std::isfinite(sum)) return sum;
    const double high = sum - product;
    const double error = (product - (sum - high)) + (double{c} - high);
    if (error == 0) return sum;
    auto bits = std::bit_cast<std::uint64_t>(sum);
    if ((bits & 1) == 0) {
        const bool away = (error > 0) == (sum > 0);
        bits = away ? bits + 1 : bits - 1;
    }
    return std::bit_cast<double>(bits);
}

// From double to 16 bits in one rounding.
template <class Format>
CARREL_INLINE std::uint16_t narrow_double(double value) {
    // Round to odd on the way through float keeps the second rounding right.
    const auto near = static_cast<float>(value);
    if (static_cast<double>(near) == value || value != value || std::isinf(near))
        return Format::narrow(near);
    auto bits = std::bit_cast<std::uint32_t>(near);
    if ((bits & 1) == 0) {
        const bool away = (value > near) == (near >= 0 && !std::signbit(near));
        if (near == 0)
            bits = (std::signbit(value) ? 0x80000000U : 0) | 1;
        else
            bits = away ? bits + 1 : bits - 1;
    }
    return Format::narrow(std::bit_cast<float>(bits));
}

struct Add {
    CARREL_INLINE float apply(float a, float b) { return a + b; }
};
struct Sub {
    CARREL_INLINE float apply(float a, float b) { return a - b; }
};
struct Mul {
    CARREL_INLINE float apply(float a, float b) { return a * b; }
};
struct Min {
    CARREL_INLINE float apply(float a, float b) {
        if (a != a) return b;
        if (b != b) return a;
        if (a == b) return std::signbit(a) ? a : b;
        return a < b ? a : b;
    }
};
struct Max {
    CARREL_INLINE float apply(float a, float b) {
        if (a != a) return b;
        if (b != b) return a;
        if (a == b) return std::signbit(a) ? b : a;
        return a > b ? a : b;
    }
};
template <class Op>
struct NanWins {
    CARREL_INLINE float apply(float a, float b) {
        if (a != a || b != b) return std::numeric_limits<float>::quiet_NaN();
        return Op::apply(a, b);
    }
};
struct Tanh {
    CARREL_INLINE float apply(float a) { return std::tanh(a); }
};
struct Ex2 {
    CARREL_INLINE float apply(float a) { return std::exp2(a); }
};

enum class After : std::uint8_t { nothing, saturate, relu };

template <class Format>
CARREL_INLINE std::uint16_t limit(std::uint16_t bits, After after, bool ftz) {
    const float value = Format::widen(bits);
    if (after == After::saturate) {
        if (!(value > 0)) return 0;
        if (value > 1) return Format::narrow(1.0F);
    }
    if (after == After::relu && (bits & 0x8000U) != 0 && value == value) return 0;
    if (ftz && std::abs(value) < 0x1p-14F) return bits & 0x8000U;
    return bits;
}

struct Form {
    After after = After::nothing;
    bool ftz = false;
    bool xorsign = false;
};

Form form_of(const Inst& in) {
    return {static_cast<After>(in.imm & 3), (in.imm & 4) != 0, (in.imm & 8) != 0};
}

template <class Format>
CARREL_INLINE float read(std::uint16_t bits, const Form& form) {
    const float value = Format::widen(bits);
    if (form.ftz && std::abs(value) < 0x1p-14F) return std::copysign(0.0F, value);
    return value;
}

template <class Format, class Op>
struct TwoSources {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t b, std::uint16_t,
                                      const Form& form) {
        float x = read<Format>(a, form);
        float y = read<Format>(b, form);
        if (form.xorsign) {
            const bool negative = std::signbit(x) != std::signbit(y);
            x = std::abs(Op::apply(std::abs(x), std::abs(y)));
            return Format::narrow(negative ? -x : x);
        }
        return Format::narrow(Op::apply(x, y));
    }
};
template <class Format>
struct Fma {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t b, std::uint16_t c,
                                      const Form& form) {
        return narrow_double<Format>(
            fma_odd(read<Format>(a, form), read<Format>(b, form), read<Format>(c, form)));
    }
};
template <class Format, class Op>
struct OneSource {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t, std::uint16_t,
                                      const Form& form) {
        return Format::narrow(Op::apply(read<Format>(a, form)));
    }
};
template <class Format>
struct Neg {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t, std::uint16_t, const Form&) {
        return a ^ 0x8000U;
    }
};
template <class Format>
struct Abs {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t, std::uint16_t, const Form&) {
        return a & 0x7fffU;
    }
};

// Register of one value, or of two: the same operation on each half.
template <class Format, class Op, bool Packed>
void half_op(Warp& w, const Inst& in, std::uint32_t mask) {
    const Form form = form_of(in);
    if constexpr (Packed) {
        const std::uint32_t* a = lanes_of<std::uint32_t>(w, in.a);
        const std::uint32_t* b = in.b == kNoOperand ? a : lanes_of<std::uint32_t>(w, in.b);
        const std::uint32_t* c = in.c == kNoOperand ? a : lanes_of<std::uint32_t>(w, in.c);
        std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
        each_lane(mask, [&](unsigned l) {
            std::uint32_t result = 0;
            for (unsigned shift = 0; shift < 32; shift += 16) {
                const auto bits = Op::apply(static_cast<std::uint16_t>(a[l] >> shift),
                                            static_cast<std::uint16_t>(b[l] >> shift),
                                            static_cast<std::uint16_t>(c[l] >> shift), form);
                result |= std::uint32_t{limit<Format>(bits, form.after, form.ftz)} << shift;
            }
            d[l] = result;
        });
    } else {
        const std::uint16_t* a = lanes_of<std::uint16_t>(w, in.a);
        const std::uint16_t* b = in.b == kNoOperand ? a : lanes_of<std::uint16_t>(w, in.b);
        const std::uint16_t* c = in.c == kNoOperand ? a : lanes_of<std::uint16_t>(w, in.c);
        std::uint16_t* d = lanes_of<std::uint16_t>(w, in.d);
        each_lane(mask, [&](unsigned l) {
            d[l] = limit<Format>(Op::apply(a[l], b[l], c[l], form), form.after, form.ftz);
        });
    }
}

template <class Format, bool Packed>
Handler choose(const Decoder& d) {
    const std::string_view op = d.opcode();
    const bool nan = d.has("NaN");
    if (op == "add") return &half_op<Format, TwoSources<Format, Add>, Packed>;
    if (op == "sub") return &half_op<Format, TwoSources<Format, Sub>, Packed>;
    if (op == "mul") return &half_op<Format, TwoSources<Format, Mul>, Packed>;
    if (op == "fma") return &half_op<Format, Fma<Format>, Packed>;
    if (op == "min")
        return nan ? &half_op<Format, TwoSources<Format, NanWins<Min>>, Packed>
                   : &half_op<Format, TwoSources<Format, Min>, Packed>;
    if (op == "max")
        return nan ? &half_op<Format, TwoSources<Format, NanWins<Max>>, Packed>
                   : &half_op<Format, TwoSources<Format, Max>, Packed>;
    if (op == "neg") return &half_op<Format, Neg<Format>, Packed>;
    if (op == "abs") return &half_op<Format, Abs<Format>, Packed>;
    if (op == "tanh") return &half_op<Format, OneSource<Format, Tanh>, Packed>;
    if (op == "ex2") return &half_op<Format, OneSource<Format, Ex2>, Packed>;
    return nullptr;
}

const std::unordered_map<std::string_view, unsigned>& source_counts() {
    static const std::unordered_map<std::string_view, unsigned> table{
        {"add", 2}, {"sub", 2}, {"mul", 2}, {"fma", 3},  {"min", 2},
        {"max", 2}, {"neg", 1}, {"abs", 1}, {"tanh", 1}, {"ex2", 1},
    };
    return table;
}

}  // namespace

bool decode_half(Decoder& d) {
    const auto found = source_counts().find(d.opcode());
    if (found == source_counts().end() || d.types() == 0) return false;
    const Type type = d.type();
    if (!is_half(type) || d.types() != 1) return false;
    const unsigned sources = found->second;
    d.need(sources + 1);
    Inst& inst = d.inst;
    inst.a = d.source(1, type);
    if (sources > 1) inst.b = d.source(2, type);
    if (sources > 2) inst.c = d.source(3, type);
    inst.d = d.dest(0, type);
    const After after = d.has("sat")    ? After::saturate
                        : d.has("relu") ? After::relu
                                        : After::nothing;
    inst.imm =
        static_cast<std::int64_t>(after) | (d.has("ftz") ? 4 : 0) | (d.has("xorsign") ? 8 : 0);
    switch (type) {
        case Type::f16:
            inst.run = choose<Float16, false>(d);
            break;
        case Type::f16x2:
            inst.run = choose<Float16, true>(d);
            break;
        case Type::bf16:
            inst.run = choose<BFloat16, false>(d);
            break;
        default:
            inst.run = choose<BFloat16, true>(d);
            break;
    }
    if (inst.run == nullptr) d.unsupported();
    return true;
}

}  // namespace carrel::softgpu::ptx
