// The rare float forms: rounding toward zero, minus or plus infinity, and saturation to [0, 1].
//
// This file is compiled with -frounding-math: results depend on the mode set while a handler runs.
#include <cfenv>
#include <cmath>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/float.hpp"

namespace carrel::softgpu::ptx {
namespace {

enum class Op : std::uint8_t { add, sub, mul, div, fma, sqrt, rcp, other };

struct Form {
    Op op;
    int mode;
    bool ftz;
    bool sat;
};

std::int64_t encode(const Form& form) {
    return static_cast<std::int64_t>(form.op) | std::int64_t{form.mode} << 8 |
           std::int64_t{form.ftz} << 32 | std::int64_t{form.sat} << 33;
}
Form decode(std::int64_t imm) {
    return {static_cast<Op>(imm & 0xff), static_cast<int>(imm >> 8 & 0xffffff),
            (imm >> 32 & 1) != 0, (imm >> 33 & 1) != 0};
}

class RoundingMode {
  public:
    explicit RoundingMode(int mode) : before_(std::fegetround()) { std::fesetround(mode); }
    ~RoundingMode() { std::fesetround(before_); }
    RoundingMode(const RoundingMode&) = delete;
    RoundingMode& operator=(const RoundingMode&) = delete;

  private:
    int before_;
};

template <class F>
[[gnu::noinline]] F compute(Op op, F a, F b, F c) {
    switch (op) {
        case Op::add:
            return a + b;
        case Op::sub:
            return a - b;
        case Op::mul:
            return a * b;
        case Op::div:
            return a / b;
        case Op::fma:
            return std::fma(a, b, c);
        case Op::sqrt:
            return std::sqrt(a);
        case Op::rcp:
            return F{1} / a;
        default:
            return a;
    }
}

template <class F>
void rounded(Warp& w, const Inst& in, std::uint32_t mask) {
    const Form form = decode(in.imm);
    const F* a = lanes_of<F>(w, in.a);
    const F* b = in.b != kNoOperand ? lanes_of<F>(w, in.b) : a;
    const F* c = in.c != kNoOperand ? lanes_of<F>(w, in.c) : a;
    F* d = lanes_of<F>(w, in.d);
    const RoundingMode mode(form.mode);
    for (std::uint32_t left = mask; left != 0; left &= left - 1) {
        const auto l = static_cast<unsigned>(std::countr_zero(left));
        const auto in_ = [&](F value) { return form.ftz ? flush(value) : value; };
        F value = compute<F>(form.op, in_(a[l]), in_(b[l]), in_(c[l]));
        if (form.ftz) value = flush(value);
        if (form.sat) value = value > F{0} ? (value < F{1} ? value : F{1}) : F{0};  // NaN: 0
        d[l] = finish<F, false>(value);
    }
}

Op op_named(std::string_view name) {
    if (name == "add") return Op::add;
    if (name == "sub") return Op::sub;
    if (name == "mul") return Op::mul;
    if (name == "div") return Op::div;
    if (name == "fma" || name == "mad") return Op::fma;
    if (name == "sqrt") return Op::sqrt;
    if (name == "rcp") return Op::rcp;
    return Op::other;
}

}  // namespace

bool decode_rounded(Decoder& d, Type type) {
    Form form{};
    form.op = op_named(d.opcode());
    if (form.op == Op::other) d.unsupported();
    form.mode = d.has("rz")   ? FE_TOWARDZERO
                : d.has("rm") ? FE_DOWNWARD
                : d.has("rp") ? FE_UPWARD
                              : FE_TONEAREST;
    form.ftz = d.has("ftz");
    form.sat = d.has("sat");
    d.inst.imm = encode(form);
    d.inst.run = type == Type::f32 ? &rounded<float> : &rounded<double>;
    return true;
}

}  // namespace carrel::softgpu::ptx
