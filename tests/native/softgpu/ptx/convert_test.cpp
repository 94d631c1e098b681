// Conversions between all types, and the 16-bit formats' arithmetic, against references that work
// digit by digit.
#include "table.hpp"

using namespace carrel::softgpu::ptx::test;
using S8 = std::int8_t;
using U8 = std::uint8_t;
using S16 = std::int16_t;
using U16 = std::uint16_t;
using S32 = std::int32_t;
using U32 = std::uint32_t;
using S64 = std::int64_t;
using U64 = std::uint64_t;

namespace {

template <class T>
std::string suffix() {
    if (std::is_same_v<T, float>) return ".f32";
    if (std::is_same_v<T, double>) return ".f64";
    return (std::is_signed_v<T> ? ".s" : ".u") + std::to_string(sizeof(T) * 8);
}

long double apply_mode(const std::string& mode, long double v) {
    if (mode.starts_with(".rn")) return std::nearbyint(v);
    if (mode.starts_with(".rz")) return std::trunc(v);
    if (mode.starts_with(".rm")) return std::floor(v);
    return std::ceil(v);
}

// Float to integer: round, clamp, NaN is 0.
template <class D, class S>
void float_to_integer() {
    for (const std::string mode : {".rni", ".rzi", ".rmi", ".rpi"})
        check1<D, S>("cvt" + mode + suffix<D>() + suffix<S>() + " %d, %a;", [=](S a) -> D {
            if (std::isnan(a)) return 0;
            const long double v = apply_mode(mode, a);
            if (v <= static_cast<long double>(std::numeric_limits<D>::min()))
                return std::numeric_limits<D>::min();
            if (v >= static_cast<long double>(std::numeric_limits<D>::max()))
                return std::numeric_limits<D>::max();
            return static_cast<D>(v);
        });
}

template <class D, class S>
void integer_to_integer() {
    check1<D, S>("cvt" + suffix<D>() + suffix<S>() + " %d, %a;",
                 [](S a) { return static_cast<D>(a); });
    check1<D, S>("cvt.sat" + suffix<D>() + suffix<S>() + " %d, %a;", [](S a) {
        const __int128 v = a;
        const __int128 low = std::numeric_limits<D>::min();
        const __int128 high = std::numeric_limits<D>::max();
        return static_cast<D>(v < low ? low : v > high ? high : v);
    });
}

template <class S>
void integer_to_all() {
    integer_to_integer<S8, S>();
    integer_to_integer<U8, S>();
    integer_to_integer<S16, S>();
    integer_to_integer<U16, S>();
    integer_to_integer<S32, S>();
    integer_to_integer<U32, S>();
    integer_to_integer<S64, S>();
    integer_to_integer<U64, S>();
    check1<float, S>("cvt.rn.f32" + suffix<S>() + " %d, %a;",
                     [](S a) { return static_cast<float>(a); });
    check1<double, S>("cvt.rn.f64" + suffix<S>() + " %d, %a;",
                      [](S a) { return static_cast<double>(a); });
}

// Reference for small formats: the nearest of all finite values, by search.
struct Format {
    int fraction;
    int exponent;
    double value(unsigned bits) const {
        const int bias = (1 << (exponent - 1)) - 1;
        const unsigned f = bits & ((1U << fraction) - 1);
        const int e = static_cast<int>(bits >> fraction) & ((1 << exponent) - 1);
        const double m = e == 0 ? std::ldexp(f, 1 - bias - fraction)
                                : std::ldexp(f + (1U << fraction), e - bias - fraction);
        return (bits >> (fraction + exponent) & 1) != 0 ? -m : m;
    }
    unsigned infinity() const { return ((1U << exponent) - 1) << fraction; }
    bool nan(unsigned bits) const { return (bits & 0x7fff) > infinity(); }
    double read(unsigned bits) const {
        if (nan(bits)) return NAN;
        if ((bits & 0x7fff) == infinity()) return (bits & 0x8000) != 0 ? -INFINITY : INFINITY;
        return value(bits);
    }
    // Nearest even by bisection over the magnitudes.
    U16 write(long double v) const {
        if (std::isnan(v)) return 0x7fff;
        const auto sign = static_cast<U16>(std::signbit(v) ? 0x8000 : 0);
        const long double m = std::fabs(v);
        unsigned low = 0;
        unsigned high = infinity();
        while (high - low > 1) {
            const unsigned middle = (low + high) / 2;
            (static_cast<long double>(value(middle)) <= m ? low : high) = middle;
        }
        const long double below = value(low);
        const long double above = high == infinity() ? std::ldexp(2.0L, (1 << (exponent - 1)) - 1)
                                                     : static_cast<long double>(value(high));
        if (m >= above) return sign | static_cast<U16>(high);
        const long double middle = (below + above) / 2;
        const bool up = m > middle || (m == middle && (low & 1) != 0);
        return sign | static_cast<U16>(up ? high : low);
    }
};
constexpr Format kF16{10, 5};
constexpr Format kBf16{7, 8};

bool same_f16(Half a, Half b) {
    return a.bits == b.bits || (kF16.nan(a.bits) && kF16.nan(b.bits));
}
bool same_bf16(Half a, Half b) {
    return a.bits == b.bits || (kBf16.nan(a.bits) && kBf16.nan(b.bits));
}

template <class Reference>
void half2(const std::string& instruction, const Format& f, Reference reference) {
    const std::vector<U32> one{0};
    check_all<Half, Half, Half, U32>(
        instruction, edges<Half>(), edges<Half>(), one,
        [&](Half a, Half b, U32) {
            return Half{f.write(reference(f.read(a.bits), f.read(b.bits)))};
        },
        &f == &kF16 ? same_f16 : same_bf16);
}

void arithmetic(const std::string& t, const Format& f) {
    using L = long double;
    half2("add" + t + " %d, %a, %b;", f, [](L a, L b) { return a + b; });
    half2("sub" + t + " %d, %a, %b;", f, [](L a, L b) { return a - b; });
    half2("mul" + t + " %d, %a, %b;", f, [](L a, L b) { return a * b; });
    check_all<Half, Half, Half, Half>(
        "fma.rn" + t + " %d, %a, %b, %c;", edges<Half>(), edges<Half>(), edges<Half>(),
        [&](Half a, Half b, Half c) {
            // The product is exact; the sum of such different magnitudes is kept exact with a
            // sticky last place.
            const L product = static_cast<L>(f.read(a.bits)) * f.read(b.bits);
            const L addend = f.read(c.bits);
            const L sum = product + addend;
            if (!std::isfinite(sum) || sum == 0) return Half{f.write(sum)};
            const L error = std::fabs(product) > std::fabs(addend) ? addend - (sum - product)
                                                                   : product - (sum - addend);
            if (error == 0) return Half{f.write(sum)};
            return Half{f.write(std::nextafter(sum, error > 0 ? L{INFINITY} : -L{INFINITY}))};
        },
        &f == &kF16 ? same_f16 : same_bf16);
    half2("min" + t + " %d, %a, %b;", f, [](L a, L b) {
        if (a == 0 && b == 0) return std::signbit(a) ? a : b;
        return std::fmin(a, b);
    });
    half2("max.NaN" + t + " %d, %a, %b;", f, [](L a, L b) {
        if (std::isnan(a) || std::isnan(b)) return L{NAN};
        if (a == 0 && b == 0) return std::signbit(a) ? b : a;
        return std::fmax(a, b);
    });
}

}  // namespace

TEST(convert_integers) {
    integer_to_all<S8>();
    integer_to_all<U8>();
    integer_to_all<S16>();
    integer_to_all<U16>();
    integer_to_all<S32>();
    integer_to_all<U32>();
    integer_to_all<S64>();
    integer_to_all<U64>();
}

TEST(convert_floats_to_integers) {
    float_to_integer<S8, float>();
    float_to_integer<U16, float>();
    float_to_integer<S32, float>();
    float_to_integer<U32, float>();
    float_to_integer<S64, float>();
    float_to_integer<U64, float>();
    float_to_integer<S32, double>();
    float_to_integer<U32, double>();
    float_to_integer<S64, double>();
    float_to_integer<U64, double>();
}

TEST(convert_between_floats) {
    check1<double, float>("cvt.f64.f32 %d, %a;", [](float a) { return double{a}; });
    check1<float, double>("cvt.rn.f32.f64 %d, %a;", [](double a) { return static_cast<float>(a); });
    check1<float, double>("cvt.rz.f32.f64 %d, %a;", [](double a) {
        const auto near = static_cast<float>(a);
        return std::fabs(double{near}) > std::fabs(a) ? std::nextafter(near, 0.0F) : near;
    });
    check1<float, double>("cvt.rp.f32.f64 %d, %a;", [](double a) {
        const auto near = static_cast<float>(a);
        return double{near} < a ? std::nextafter(near, INFINITY) : near;
    });
    for (const std::string mode : {".rni", ".rzi", ".rmi", ".rpi"}) {
        check1<float, float>("cvt" + mode + ".f32.f32 %d, %a;",
                             [=](float a) { return static_cast<float>(apply_mode(mode, a)); });
        check1<double, double>("cvt" + mode + ".f64.f64 %d, %a;",
                               [=](double a) { return static_cast<double>(apply_mode(mode, a)); });
    }
    check1<float, float>("cvt.sat.f32.f32 %d, %a;",
                         [](float a) { return a > 0 ? std::min(a, 1.0F) : 0.0F; });
    check1<float, float>("cvt.ftz.f32.f32 %d, %a;", [](float a) {
        return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0F, a) : a;
    });
    // tf32 keeps ten bits of the fraction; ties go away from zero.
    check1<U32, float>("cvt.rna.tf32.f32 %d, %a;", [](float a) {
        if (std::isnan(a)) return 0x7fffffffU;
        const auto bits = std::bit_cast<U32>(a);
        return std::isinf(a) ? bits : (bits + 0x1000U) & ~0x1fffU;
    });
}

TEST(convert_halves) {
    const std::vector<U32> one{0};
    const auto from_float = [&](const std::string& instruction, const Format& f) {
        std::vector<float> values = edges<float>();
        for (const float v : {1.00048828125F, 1.0009765625F, 65519.9F, 65520.0F, 6e-8F, 2.98e-8F,
                              2.99e-8F, 1e-7F, 6.1e-5F, 1.0039063F, 1.01171875F})
            values.insert(values.end(), {v, -v});
        check_all<Half, float, U32, U32>(
            instruction, values, one, one, [&](float a, U32, U32) { return Half{f.write(a)}; },
            &f == &kF16 ? same_f16 : same_bf16);
    };
    from_float("cvt.rn.f16.f32 %d, %a;", kF16);
    from_float("cvt.rn.bf16.f32 %d, %a;", kBf16);
    check_all<Half, double, U32, U32>(
        "cvt.rn.f16.f64 %d, %a;", edges<double>(), one, one,
        [](double a, U32, U32) { return Half{kF16.write(a)}; }, same_f16);
    check_all<float, Half, U32, U32>(
        "cvt.f32.f16 %d, %a;", edges<Half>(), one, one,
        [](Half a, U32, U32) { return static_cast<float>(kF16.read(a.bits)); });
    check_all<float, Half, U32, U32>(
        "cvt.f32.bf16 %d, %a;", edges<Half>(), one, one,
        [](Half a, U32, U32) { return static_cast<float>(kBf16.read(a.bits)); });
    check_all<double, Half, U32, U32>("cvt.f64.f16 %d, %a;", edges<Half>(), one, one,
                                      [](Half a, U32, U32) { return kF16.read(a.bits); });
    check_all<Half, int, U32, U32>(
        "cvt.rn.f16.s32 %d, %a;", edges<int>(), one, one,
        [](int a, U32, U32) { return Half{kF16.write(a)}; }, same_f16);
    check_all<int, Half, U32, U32>("cvt.rzi.s32.f16 %d, %a;", edges<Half>(), one, one,
                                   [](Half a, U32, U32) {
                                       const double v = kF16.read(a.bits);
                                       if (std::isnan(v)) return 0;
                                       if (std::isinf(v)) return v > 0 ? INT32_MAX : INT32_MIN;
                                       return static_cast<int>(v);
                                   });
    check2<U32, float, float>("cvt.rn.f16x2.f32 %d, %a, %b;", [](float a, float b) {
        return U32{kF16.write(a)} << 16 | kF16.write(b);
    });
    check2<U32, float, float>("cvt.rn.bf16x2.f32 %d, %a, %b;", [](float a, float b) {
        return U32{kBf16.write(a)} << 16 | kBf16.write(b);
    });
}

TEST(half_arithmetic) {
    arithmetic(".f16", kF16);
    arithmetic(".bf16", kBf16);
}

TEST(half_pairs) {
    const std::vector<U32> one{0};
    const auto pairwise = [&](const std::string& op, auto reference) {
        check_all<Pair, Pair, Pair, U32>(
            op + ".f16x2 %d, %a, %b;", edges<Pair>(), edges<Pair>(), one,
            [&](Pair a, Pair b, U32) {
                U32 bits = 0;
                for (int i = 0; i < 32; i += 16)
                    bits |= U32{kF16.write(reference(kF16.read(a.bits >> i & 0xffff),
                                                     kF16.read(b.bits >> i & 0xffff)))}
                            << i;
                return Pair{bits};
            },
            [](Pair a, Pair b) {
                return same_f16({static_cast<U16>(a.bits)}, {static_cast<U16>(b.bits)}) &&
                       same_f16({static_cast<U16>(a.bits >> 16)}, {static_cast<U16>(b.bits >> 16)});
            });
    };
    pairwise("add", [](double a, double b) { return a + b; });
    pairwise("mul", [](double a, double b) { return a * b; });
    check_all<U32, Pair, Pair, U32>(
        "{ .reg .pred %lo, %hi; setp.lt.f16x2 %lo|%hi, %a, %b; selp.u32 %d, 1, 0, %lo; @%hi "
        "add.u32 %d, %d, 2; }",
        edges<Pair>(), edges<Pair>(), one, [](Pair a, Pair b, U32) {
            return static_cast<U32>(kF16.read(a.bits & 0xffff) < kF16.read(b.bits & 0xffff)) +
                   2 * static_cast<U32>(kF16.read(a.bits >> 16) < kF16.read(b.bits >> 16));
        });
    check_all<Half, Half, U32, U32>(
        "neg.f16 %d, %a;", edges<Half>(), one, one,
        [](Half a, U32, U32) { return Half{static_cast<U16>(a.bits ^ 0x8000)}; });
}

CARREL_TEST_MAIN
