// f32 and f64 arithmetic, comparisons and selections against the C library.
#include <cfenv>

#include "table.hpp"

using namespace carrel::softgpu::ptx::test;

namespace {

float flushed(float a) {
    return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0F, a) : a;
}

template <class F>
F minimum(F a, F b) {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    if (a == 0 && b == 0) return std::signbit(a) ? a : b;
    return std::min(a, b);
}
template <class F>
F maximum(F a, F b) {
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    if (a == 0 && b == 0) return std::signbit(a) ? b : a;
    return std::max(a, b);
}

template <class F>
void arithmetic(const std::string& t) {
    check2<F, F, F>("add" + t + " %d, %a, %b;", [](F a, F b) { return a + b; });
    check2<F, F, F>("sub.rn" + t + " %d, %a, %b;", [](F a, F b) { return a - b; });
    check2<F, F, F>("mul" + t + " %d, %a, %b;", [](F a, F b) { return a * b; });
    check2<F, F, F>("div.rn" + t + " %d, %a, %b;", [](F a, F b) { return a / b; });
    check3<F, F, F, F>("fma.rn" + t + " %d, %a, %b, %c;",
                       [](F a, F b, F c) { return std::fma(a, b, c); });
    check2<F, F, F>("min" + t + " %d, %a, %b;", minimum<F>);
    check2<F, F, F>("max" + t + " %d, %a, %b;", maximum<F>);
    check1<F, F>("neg" + t + " %d, %a;", [](F a) { return -a; });
    check1<F, F>("abs" + t + " %d, %a;", [](F a) { return std::fabs(a); });
    check1<F, F>("sqrt.rn" + t + " %d, %a;", [](F a) { return std::sqrt(a); });
    check1<F, F>("rcp.rn" + t + " %d, %a;", [](F a) { return 1 / a; });
    check2<F, F, F>("copysign" + t + " %d, %a, %b;", [](F a, F b) { return std::copysign(b, a); });
}

// Computed away from the optimiser, which does not know of rounding modes.
template <class F>
F rounded(int mode, char op, F x, F y, F z) {
    const int before = std::fegetround();
    std::fesetround(mode);
    const volatile F a = x;
    const volatile F b = y;
    const volatile F c = z;
    volatile F result = 0;
    switch (op) {
        case '+':
            result = a + b;
            break;
        case '-':
            result = a - b;
            break;
        case '*':
            result = a * b;
            break;
        case '/':
            result = a / b;
            break;
        case 'f':
            result = std::fma(a, b, c);
            break;
        default:
            result = std::sqrt(a);
            break;
    }
    std::fesetround(before);
    return result;
}

template <class F>
void rounding(const std::string& t) {
    const std::pair<const char*, int> modes[] = {
        {".rz", FE_TOWARDZERO}, {".rm", FE_DOWNWARD}, {".rp", FE_UPWARD}};
    for (const auto& [name, mode] : modes) {
        const int m = mode;
        check2<F, F, F>("add" + (name + t) + " %d, %a, %b;",
                        [=](F a, F b) { return rounded<F>(m, '+', a, b, 0); });
        check2<F, F, F>("sub" + (name + t) + " %d, %a, %b;",
                        [=](F a, F b) { return rounded<F>(m, '-', a, b, 0); });
        check2<F, F, F>("mul" + (name + t) + " %d, %a, %b;",
                        [=](F a, F b) { return rounded<F>(m, '*', a, b, 0); });
        check2<F, F, F>("div" + (name + t) + " %d, %a, %b;",
                        [=](F a, F b) { return rounded<F>(m, '/', a, b, 0); });
        check1<F, F>("sqrt" + (name + t) + " %d, %a;",
                     [=](F a) { return rounded<F>(m, 's', a, 0, 0); });
        check3<F, F, F, F>("fma" + (name + t) + " %d, %a, %b, %c;",
                           [=](F a, F b, F c) { return rounded<F>(m, 'f', a, b, c); });
    }
}

bool close(float a, float b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    if (a == b) return true;
    return std::fabs(a - b) <= 4e-6F * std::max(std::fabs(a), std::fabs(b)) + 1e-37F;
}

template <class Reference>
void approximate(const std::string& instruction, Reference reference) {
    const std::vector<std::uint32_t> one{0};
    std::vector<float> values = edges<float>();
    for (float x = -9; x < 9; x += 0.37F) values.push_back(x);
    check_all<float, float, std::uint32_t, std::uint32_t>(
        instruction, values, one, one,
        [&](float a, std::uint32_t, std::uint32_t) { return static_cast<float>(reference(a)); },
        close);
}

template <class T>
void comparisons(const std::string& t, bool is_float) {
    struct Case {
        const char* name;
        bool (*holds)(T, T);
        bool only_float;
    };
    const Case cases[] = {
        {"eq", [](T a, T b) { return a == b; }, false},
        {"ne", [](T a, T b) { return a < b || a > b; }, false},
        {"lt", [](T a, T b) { return a < b; }, false},
        {"le", [](T a, T b) { return a <= b; }, false},
        {"gt", [](T a, T b) { return a > b; }, false},
        {"ge", [](T a, T b) { return a >= b; }, false},
        {"equ", [](T a, T b) { return !(a < b || a > b); }, true},
        {"neu", [](T a, T b) { return a != b; }, true},
        {"ltu", [](T a, T b) { return !(a >= b); }, true},
        {"leu", [](T a, T b) { return !(a > b); }, true},
        {"gtu", [](T a, T b) { return !(a <= b); }, true},
        {"geu", [](T a, T b) { return !(a < b); }, true},
        {"num", [](T a, T b) { return a == a && b == b; }, true},
        {"nan", [](T a, T b) { return a != a || b != b; }, true},
    };
    for (const Case& each : cases) {
        if (each.only_float && !is_float) continue;
        const auto holds = each.holds;
        check2<std::uint32_t, T, T>(
            "{ .reg .pred %p1, %p2; setp." + (each.name + t) +
                " %p1|%p2, %a, %b; selp.u32 %d, 1, 0, %p1; @%p2 add.u32 %d, %d, 2; }",
            [=](T a, T b) { return holds(a, b) ? 1U : 2U; });
        check2<std::uint32_t, T, T>("set." + (each.name + std::string(".u32") + t) + " %d, %a, %b;",
                                    [=](T a, T b) { return holds(a, b) ? ~0U : 0U; });
        check2<float, T, T>("set." + (each.name + std::string(".f32") + t) + " %d, %a, %b;",
                            [=](T a, T b) { return holds(a, b) ? 1.0F : 0.0F; });
    }
}

}  // namespace

TEST(float_arithmetic) {
    arithmetic<float>(".f32");
    arithmetic<double>(".f64");
}

TEST(float_rounding_modes) {
    rounding<float>(".f32");
    rounding<double>(".f64");
}

TEST(float_flush_and_saturate) {
    check2<float, float, float>("add.ftz.f32 %d, %a, %b;",
                                [](float a, float b) { return flushed(flushed(a) + flushed(b)); });
    check2<float, float, float>("mul.ftz.f32 %d, %a, %b;",
                                [](float a, float b) { return flushed(flushed(a) * flushed(b)); });
    check1<float, float>("abs.ftz.f32 %d, %a;", [](float a) { return std::fabs(flushed(a)); });
    check2<float, float, float>("min.ftz.f32 %d, %a, %b;",
                                [](float a, float b) { return minimum(flushed(a), flushed(b)); });
    const auto sat = [](float a) { return a > 0 ? std::min(a, 1.0F) : 0.0F; };
    check2<float, float, float>("add.sat.f32 %d, %a, %b;",
                                [=](float a, float b) { return sat(a + b); });
    check3<float, float, float, float>(
        "fma.rn.ftz.sat.f32 %d, %a, %b, %c;", [=](float a, float b, float c) {
            return sat(flushed(std::fma(flushed(a), flushed(b), flushed(c))));
        });
    check2<float, float, float>("min.NaN.f32 %d, %a, %b;", [](float a, float b) {
        return std::isnan(a) || std::isnan(b) ? NAN : minimum(a, b);
    });
    check2<float, float, float>("max.xorsign.abs.f32 %d, %a, %b;", [](float a, float b) {
        const float m = maximum(std::fabs(a), std::fabs(b));
        return std::signbit(a) != std::signbit(b) ? -m : m;
    });
}

TEST(float_nan_is_canonical) {
    Device device;
    const std::uint64_t out = device.put(std::vector<std::uint32_t>(2));
    device.run(
        kernel(1,
               "mov.f32 %f1, 0f7F800000; sub.f32 %f2, %f1, %f1; st.global.f32 [%p0], %f2;"
               "mov.f32 %f1, 0fFFC12345; add.f32 %f2, %f1, %f1; st.global.f32 [%p0+4], %f2;"),
        threads(1), {out});
    const auto got = device.get<std::uint32_t>(out, 2);
    CHECK_EQ(got[0], 0x7fffffffU);
    CHECK_EQ(got[1], 0x7fffffffU);
}

TEST(float_approximations) {
    approximate("sin.approx.f32 %d, %a;", [](float a) { return std::sin(double{a}); });
    approximate("cos.approx.f32 %d, %a;", [](float a) { return std::cos(double{a}); });
    approximate("ex2.approx.f32 %d, %a;", [](float a) { return std::exp2(double{a}); });
    approximate("lg2.approx.f32 %d, %a;", [](float a) { return std::log2(double{a}); });
    approximate("tanh.approx.f32 %d, %a;", [](float a) { return std::tanh(double{a}); });
    approximate("rsqrt.approx.f32 %d, %a;", [](float a) { return 1 / std::sqrt(double{a}); });
    approximate("rcp.approx.ftz.f32 %d, %a;", [](float a) { return flushed(1 / flushed(a)); });
    approximate("sqrt.approx.f32 %d, %a;", [](float a) { return std::sqrt(double{a}); });
}

TEST(float_properties) {
    const auto property = [](const char* name, auto holds) {
        check1<std::uint32_t, float>(
            "{ .reg .pred %t; testp." + std::string(name) + ".f32 %t, %a; selp.u32 %d, 1, 0, %t; }",
            [=](float a) { return holds(a) ? 1U : 0U; });
    };
    property("finite", [](float a) { return std::isfinite(a); });
    property("infinite", [](float a) { return std::isinf(a); });
    property("number", [](float a) { return !std::isnan(a); });
    property("notanumber", [](float a) { return std::isnan(a); });
    property("normal", [](float a) { return std::isnormal(a); });
    property("subnormal", [](float a) { return std::fpclassify(a) == FP_SUBNORMAL; });
}

TEST(comparisons) {
    comparisons<float>(".f32", true);
    comparisons<double>(".f64", true);
    comparisons<std::int32_t>(".s32", false);
    comparisons<std::uint32_t>(".u32", false);
    comparisons<std::int64_t>(".s64", false);
    comparisons<std::uint64_t>(".u64", false);
    comparisons<std::int16_t>(".s16", false);
    comparisons<std::uint16_t>(".u16", false);
    for (const char* op : {"and", "or", "xor"}) {
        const char which = op[0];
        check3<std::uint32_t, int, int, int>(
            "{ .reg .pred %c1, %c2, %c3; setp.gt.s32 %c1, %c, 5; setp.lt." + std::string(op) +
                ".s32 %c2|%c3, %a, %b, !%c1; selp.u32 %d, 1, 0, %c2; @%c3 add.u32 %d, %d, 2; }",
            [=](int a, int b, int c) {
                const bool t = a < b;
                const bool n = !(c > 5);
                const bool p = which == 'a' ? t && n : which == 'o' ? t || n : t != n;
                const bool q = which == 'a' ? !t && n : which == 'o' ? !t || n : !t != n;
                return static_cast<unsigned>(p) + 2 * static_cast<unsigned>(q);
            });
    }
}

TEST(selections) {
    check3<double, double, double, int>("slct.f64.s32 %d, %a, %b, %c;",
                                        [](double a, double b, int c) { return c >= 0 ? a : b; });
    check3<std::uint32_t, std::uint32_t, std::uint32_t, float>(
        "slct.u32.f32 %d, %a, %b, %c;",
        [](std::uint32_t a, std::uint32_t b, float c) { return c >= 0 ? a : b; });
    check3<std::uint64_t, std::uint64_t, std::uint64_t, int>(
        "{ .reg .pred %s; setp.lt.s32 %s, %c, 3; selp.b64 %d, %a, %b, %s; }",
        [](std::uint64_t a, std::uint64_t b, int c) { return c < 3 ? a : b; });
}

CARREL_TEST_MAIN
