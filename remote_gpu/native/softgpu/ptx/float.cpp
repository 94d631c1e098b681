// f32 and f64 arithmetic, rounding to nearest even. Other rounding modes and saturation are in
// float_rounded.cpp.
//
// The .approx forms use the exact functions of the C library, which stay within the errors PTX
// allows.
#include "softgpu/ptx/float.hpp"

#include <cmath>
#include <limits>
#include <unordered_map>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {
namespace {

template <class F, bool Ftz, class Op>
struct One {
    CARREL_INLINE F apply(F a) { return finish<F, Ftz>(Op::apply(start<F, Ftz>(a))); }
};
template <class F, bool Ftz, class Op>
struct Two {
    CARREL_INLINE F apply(F a, F b) {
        return finish<F, Ftz>(Op::apply(start<F, Ftz>(a), start<F, Ftz>(b)));
    }
};
template <class F, bool Ftz, class Op>
struct Three {
    CARREL_INLINE F apply(F a, F b, F c) {
        return finish<F, Ftz>(Op::apply(start<F, Ftz>(a), start<F, Ftz>(b), start<F, Ftz>(c)));
    }
};

struct Add {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        return a + b;
    }
};
struct Sub {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        return a - b;
    }
};
struct Mul {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        return a * b;
    }
};
struct Div {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        return a / b;
    }
};
struct Fma {
    CARREL_INLINE float apply(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
    CARREL_INLINE double apply(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Sqrt {
    template <class F>
    CARREL_INLINE F apply(F a) {
        return std::sqrt(a);
    }
};
struct Rcp {
    template <class F>
    CARREL_INLINE F apply(F a) {
        return F{1} / a;
    }
};
struct Rsqrt {
    CARREL_INLINE float apply(float a) { return static_cast<float>(1.0 / std::sqrt(double{a})); }
    CARREL_INLINE double apply(double a) { return 1.0 / std::sqrt(a); }
};
struct Sin {
    CARREL_INLINE float apply(float a) { return std::sin(a); }
};
struct Cos {
    CARREL_INLINE float apply(float a) { return std::cos(a); }
};
struct Ex2 {
    CARREL_INLINE float apply(float a) { return std::exp2(a); }
};
struct Lg2 {
    CARREL_INLINE float apply(float a) { return std::log2(a); }
};
struct Tanh {
    CARREL_INLINE float apply(float a) { return std::tanh(a); }
};
struct Abs {
    template <class F>
    CARREL_INLINE F apply(F a) {
        return std::abs(a);
    }
};
struct Neg {
    template <class F>
    CARREL_INLINE F apply(F a) {
        return -a;
    }
};

// A NaN gives way to a number; -0 is below +0.
struct Min {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        if (a != a) return b;
        if (b != b) return a;
        if (a == b) return std::signbit(a) ? a : b;
        return a < b ? a : b;
    }
};
struct Max {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        if (a != a) return b;
        if (b != b) return a;
        if (a == b) return std::signbit(a) ? b : a;
        return a > b ? a : b;
    }
};
template <class Op>
struct NanWins {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        if (a != a || b != b) return std::numeric_limits<F>::quiet_NaN();
        return Op::apply(a, b);
    }
};
template <class Op>
struct XorSignAbs {
    template <class F>
    CARREL_INLINE F apply(F a, F b) {
        const F value = Op::apply(std::abs(a), std::abs(b));
        return std::signbit(a) != std::signbit(b) ? -std::abs(value) : std::abs(value);
    }
};
// The magnitude of b with the sign of a.
template <class F>
struct CopySign {
    CARREL_INLINE F apply(F a, F b) { return std::copysign(b, a); }
};

template <class Op, class F>
Handler one(bool ftz) {
    return ftz ? map1<F, F, One<F, true, Op>>() : map1<F, F, One<F, false, Op>>();
}
template <class Op>
Handler one(Type type, bool ftz) {
    return type == Type::f32 ? one<Op, float>(ftz) : map1<double, double, One<double, false, Op>>();
}
template <class Op>
Handler single(Type type, bool ftz) {
    return type == Type::f32 ? one<Op, float>(ftz) : nullptr;
}
template <class Op>
Handler two(Type type, bool ftz) {
    if (type == Type::f64) return map2<double, double, double, Two<double, false, Op>>();
    return ftz ? map2<float, float, float, Two<float, true, Op>>()
               : map2<float, float, float, Two<float, false, Op>>();
}
template <class Op>
Handler three(Type type, bool ftz) {
    if (type == Type::f64) return map3<double, double, double, double, Three<double, false, Op>>();
    return ftz ? map3<float, float, float, float, Three<float, true, Op>>()
               : map3<float, float, float, float, Three<float, false, Op>>();
}

template <class Op>
Handler extremum(const Decoder& d, Type type, bool ftz) {
    if (d.has("xorsign")) {
        if (type != Type::f32) return nullptr;
        return d.has("NaN") ? two<XorSignAbs<NanWins<Op>>>(type, ftz)
                            : two<XorSignAbs<Op>>(type, ftz);
    }
    return d.has("NaN") ? two<NanWins<Op>>(type, ftz) : two<Op>(type, ftz);
}

enum class FloatClass : std::uint8_t { finite, infinite, number, nan, normal, subnormal };

template <class F>
void test_property(Warp& w, const Inst& in, std::uint32_t mask) {
    const F* a = lanes_of<F>(w, in.a);
    const auto wanted = static_cast<FloatClass>(in.imm);
    set_predicate(predicate_of(w, in.d), mask, lanes_where(mask, [=](unsigned l) {
                      switch (wanted) {
                          case FloatClass::finite:
                              return std::isfinite(a[l]);
                          case FloatClass::infinite:
                              return std::isinf(a[l]);
                          case FloatClass::number:
                              return !std::isnan(a[l]);
                          case FloatClass::nan:
                              return std::isnan(a[l]);
                          case FloatClass::normal:
                              return std::isnormal(a[l]);
                          default:
                              return std::fpclassify(a[l]) == FP_SUBNORMAL;
                      }
                  }));
}

bool decode_testp(Decoder& d) {
    Inst& inst = d.inst;
    d.need(2);
    static const std::unordered_map<std::string_view, FloatClass> kClasses{
        {"finite", FloatClass::finite}, {"infinite", FloatClass::infinite},
        {"number", FloatClass::number}, {"notanumber", FloatClass::nan},
        {"normal", FloatClass::normal}, {"subnormal", FloatClass::subnormal},
    };
    const auto found = kClasses.find(d.in().modifiers.empty() ? "" : d.in().modifiers[0]);
    const Type type = d.type();
    if (found == kClasses.end() || (type != Type::f32 && type != Type::f64)) d.unsupported();
    inst.imm = static_cast<std::int64_t>(found->second);
    inst.d = d.predicate_dest(d.operand(0));
    inst.a = d.source(1, type);
    inst.run = type == Type::f32 ? &test_property<float> : &test_property<double>;
    return true;
}

Handler choose(const Decoder& d, Type type, bool ftz) {
    const std::string_view op = d.opcode();
    if (op == "add") return two<Add>(type, ftz);
    if (op == "sub") return two<Sub>(type, ftz);
    if (op == "mul") return two<Mul>(type, ftz);
    if (op == "div") return two<Div>(type, ftz);
    if (op == "fma" || op == "mad") return three<Fma>(type, ftz);
    if (op == "min") return extremum<Min>(d, type, ftz);
    if (op == "max") return extremum<Max>(d, type, ftz);
    if (op == "abs") return one<Abs>(type, ftz);
    if (op == "neg") return one<Neg>(type, ftz);
    if (op == "sqrt") return one<Sqrt>(type, ftz);
    if (op == "rcp") return one<Rcp>(type, ftz);
    if (op == "rsqrt") return one<Rsqrt>(type, ftz);
    if (op == "sin") return single<Sin>(type, ftz);
    if (op == "cos") return single<Cos>(type, ftz);
    if (op == "ex2") return single<Ex2>(type, ftz);
    if (op == "lg2") return single<Lg2>(type, ftz);
    if (op == "tanh") return single<Tanh>(type, ftz);
    if (op == "copysign")
        return type == Type::f64 ? map2<double, double, double, CopySign<double>>()
                                 : map2<float, float, float, CopySign<float>>();
    return nullptr;
}

const std::unordered_map<std::string_view, unsigned>& source_counts() {
    static const std::unordered_map<std::string_view, unsigned> table{
        {"add", 2}, {"sub", 2}, {"mul", 2}, {"div", 2},  {"fma", 3},      {"mad", 3},   {"min", 2},
        {"max", 2}, {"abs", 1}, {"neg", 1}, {"sqrt", 1}, {"rcp", 1},      {"rsqrt", 1}, {"sin", 1},
        {"cos", 1}, {"ex2", 1}, {"lg2", 1}, {"tanh", 1}, {"copysign", 2},
    };
    return table;
}

}  // namespace

bool decode_float(Decoder& d) {
    if (d.opcode() == "testp") return decode_testp(d);
    const auto found = source_counts().find(d.opcode());
    if (found == source_counts().end() || d.types() == 0) return false;
    const Type type = d.type();
    if (type != Type::f32 && type != Type::f64) return false;
    if (d.types() > 1) return false;
    const unsigned sources = found->second;
    d.need(sources + 1);
    Inst& inst = d.inst;
    inst.a = d.source(1, type);
    if (sources > 1) inst.b = d.source(2, type);
    if (sources > 2) inst.c = d.source(3, type);
    inst.d = d.dest(0, type);
    if (d.has("sat") || d.has("rz") || d.has("rm") || d.has("rp")) return decode_rounded(d, type);
    inst.run = choose(d, type, d.has("ftz"));
    if (inst.run == nullptr) d.unsupported();
    return true;
}

}  // namespace carrel::softgpu::ptx
