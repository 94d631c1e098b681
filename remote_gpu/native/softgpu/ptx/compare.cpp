// setp, set, selp and slct.
#include <cstring>
#include <unordered_map>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/float.hpp"
#include "softgpu/ptx/half.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;

namespace {

enum class Test : std::uint8_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

template <Test T, class V>
CARREL_INLINE bool holds(V a, V b) {
    const bool unordered = a != a || b != b;
    switch (T) {
        case Test::eq:
            return a == b;
        case Test::ne:
            return a != b && !unordered;
        case Test::lt:
            return a < b;
        case Test::le:
            return a <= b;
        case Test::gt:
            return a > b;
        case Test::ge:
            return a >= b;
        case Test::equ:
            return a == b || unordered;
        case Test::neu:
            return a != b;
        case Test::ltu:
            return !(a >= b);
        case Test::leu:
            return !(a > b);
        case Test::gtu:
            return !(a <= b);
        case Test::geu:
            return !(a < b);
        case Test::num:
            return !unordered;
        default:
            return unordered;
    }
}

// How a register's lanes become comparable values.
template <class T>
struct Plain {
    using Raw = T;
    CARREL_INLINE T read(T raw) { return raw; }
};
struct FlushedF32 {
    using Raw = float;
    CARREL_INLINE float read(float raw) { return flush(raw); }
};
template <class Format>
struct HalfValue {
    using Raw = std::uint16_t;
    CARREL_INLINE float read(std::uint16_t raw) { return Format::widen(raw); }
};
template <class Format, unsigned Part>
struct HalfPart {
    using Raw = std::uint32_t;
    CARREL_INLINE float read(std::uint32_t raw) {
        return Format::widen(static_cast<std::uint16_t>(raw >> (16 * Part)));
    }
};

using Compare = std::uint32_t (*)(Warp&, const Inst&, std::uint32_t mask);

template <Test T, class Value>
[[gnu::always_inline]] inline std::uint32_t compare_body(Warp& w, const Inst& in,
                                                         std::uint32_t mask) {
    using Raw = typename Value::Raw;
    const Raw* a = lanes_of<Raw>(w, in.a);
    const Raw* b = lanes_of<Raw>(w, in.b);
    return lanes_where(mask, [=](unsigned l) __attribute__((always_inline)) {
        return holds<T>(Value::read(a[l]), Value::read(b[l]));
    });
}

// The comparison first, then p = test op c and q = !test op c.
void combine(Warp& w, const Inst& in, std::uint32_t mask, std::uint32_t test) {
    std::uint32_t p = test;
    std::uint32_t q = ~test;
    if (in.c != kNoOperand) {
        std::uint32_t c = predicate_of(w, in.c);
        if ((in.flags & kNegateC) != 0) c = ~c;
        switch (in.imm) {
            case '&':
                p &= c;
                q &= c;
                break;
            case '|':
                p |= c;
                q |= c;
                break;
            default:
                p ^= c;
                q ^= c;
                break;
        }
    }
    set_predicate(predicate_of(w, in.d), mask, p);
    if (in.aux != 0) set_predicate(predicate_of(w, in.aux - 1), mask, q);
}

template <Test T, class Value>
void setp_any(Warp& w, const Inst& in, std::uint32_t mask) {
    combine(w, in, mask, compare_body<T, Value>(w, in, mask));
}
template <Test T, class Value>
CARREL_WIDE void setp_wide(Warp& w, const Inst& in, std::uint32_t mask) {
    combine(w, in, mask, compare_body<T, Value>(w, in, mask));
}

template <class Value, bool Float>
Handler setp_handler(Test test) {
    const bool wide = machine_is_wide();
#define CARREL_CASE(T) \
    case Test::T:      \
        return wide ? &setp_wide<Test::T, Value> : &setp_any<Test::T, Value>
    switch (test) {
        CARREL_CASE(eq);
        CARREL_CASE(lt);
        CARREL_CASE(le);
        CARREL_CASE(gt);
        CARREL_CASE(ge);
        CARREL_CASE(ne);
        default:
            break;
    }
    if constexpr (Float) {
        switch (test) {
            CARREL_CASE(equ);
            CARREL_CASE(neu);
            CARREL_CASE(ltu);
            CARREL_CASE(leu);
            CARREL_CASE(gtu);
            CARREL_CASE(geu);
            CARREL_CASE(num);
            CARREL_CASE(nan);
            default:
                break;
        }
    }
#undef CARREL_CASE
    return nullptr;
}

Handler setp_for(Type type, Test test, bool ftz, unsigned part) {
    switch (type) {
        case Type::u16:
        case Type::b16:
            return setp_handler<Plain<std::uint16_t>, false>(test);
        case Type::s16:
            return setp_handler<Plain<std::int16_t>, false>(test);
        case Type::u32:
        case Type::b32:
            return setp_handler<Plain<std::uint32_t>, false>(test);
        case Type::s32:
            return setp_handler<Plain<std::int32_t>, false>(test);
        case Type::u64:
        case Type::b64:
            return setp_handler<Plain<std::uint64_t>, false>(test);
        case Type::s64:
            return setp_handler<Plain<std::int64_t>, false>(test);
        case Type::f32:
            return ftz ? setp_handler<FlushedF32, true>(test)
                       : setp_handler<Plain<float>, true>(test);
        case Type::f64:
            return setp_handler<Plain<double>, true>(test);
        case Type::f16:
            return setp_handler<HalfValue<Float16>, true>(test);
        case Type::bf16:
            return setp_handler<HalfValue<BFloat16>, true>(test);
        case Type::f16x2:
            return part == 0 ? setp_handler<HalfPart<Float16, 0>, true>(test)
                             : setp_handler<HalfPart<Float16, 1>, true>(test);
        case Type::bf16x2:
            return part == 0 ? setp_handler<HalfPart<BFloat16, 0>, true>(test)
                             : setp_handler<HalfPart<BFloat16, 1>, true>(test);
        default:
            return nullptr;
    }
}

struct Comparison {
    Test test = Test::eq;
    char combine = 0;
};

Comparison comparison_of(const Decoder& d) {
    static const std::unordered_map<std::string_view, Test> kTests{
        {"eq", Test::eq},   {"ne", Test::ne},   {"lt", Test::lt},   {"le", Test::le},
        {"gt", Test::gt},   {"ge", Test::ge},   {"lo", Test::lt},   {"ls", Test::le},
        {"hi", Test::gt},   {"hs", Test::ge},   {"equ", Test::equ}, {"neu", Test::neu},
        {"ltu", Test::ltu}, {"leu", Test::leu}, {"gtu", Test::gtu}, {"geu", Test::geu},
        {"num", Test::num}, {"nan", Test::nan},
    };
    Comparison result;
    if (d.in().modifiers.empty()) d.unsupported();
    const auto found = kTests.find(d.in().modifiers[0]);
    if (found == kTests.end()) d.unsupported();
    result.test = found->second;
    if (d.has("and")) result.combine = '&';
    if (d.has("or")) result.combine = '|';
    if (d.has("xor")) result.combine = '^';
    return result;
}

bool decode_setp(Decoder& d) {
    Inst& inst = d.inst;
    const Comparison comparison = comparison_of(d);
    const Type type = d.type(d.types() - 1);
    d.need(comparison.combine != 0 ? 4 : 3);
    inst.a = d.source(1, type);
    inst.b = d.source(2, type);
    if (comparison.combine != 0) {
        inst.c = d.predicate_source(3, kNegateC);
        inst.imm = comparison.combine;
    }
    const Operand& target = d.operand(0);
    const bool pair = target.kind == Operand::Kind::pair;
    const bool packed = type == Type::f16x2 || type == Type::bf16x2;
    if (packed && pair) {
        // p and q are the tests of the two halves: two instructions
        Inst high = inst;
        high.run = setp_for(type, comparison.test, d.has("ftz"), 1);
        high.d = d.predicate_dest(target.elements[1]);
        d.emit_after(high);
        inst.d = d.predicate_dest(target.elements[0]);
    } else if (pair) {
        inst.d = d.predicate_dest(target.elements[0]);
        inst.aux = d.predicate_dest(target.elements[1]) + 1;
    } else {
        inst.d = d.predicate_dest(target);
    }
    inst.run = setp_for(type, comparison.test, d.has("ftz"), 0);
    if (inst.run == nullptr) d.unsupported();
    return true;
}

// set writes the predicate into a scratch place (count lanes of bits) and then turns it into a
// number.
template <class T>
void select_constant(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t p = predicate_of(w, in.a);
    const auto value = static_cast<T>(in.imm);
    T* d = lanes_of<T>(w, in.d);
    each_lane(mask, [=](unsigned l) { d[l] = (p >> l & 1) != 0 ? value : T{0}; });
}
void select_pair(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t low = predicate_of(w, in.a);
    const std::uint32_t high = predicate_of(w, in.b);
    const auto value = static_cast<std::uint32_t>(in.imm);
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    each_lane(mask, [=](unsigned l) {
        d[l] = ((low >> l & 1) != 0 ? value & 0xffffU : 0) |
               ((high >> l & 1) != 0 ? value & 0xffff0000U : 0);
    });
}

bool decode_set(Decoder& d) {
    const Comparison comparison = comparison_of(d);
    const Type to = d.type(0);
    const Type from = d.type(1);
    d.need(comparison.combine != 0 ? 4 : 3);
    Inst test = d.inst;
    Operand nowhere;
    const auto build = [&](unsigned part) {
        d.inst.flags = 0;
        Inst each;
        each.a = d.source(1, from);
        each.b = d.source(2, from);
        if (comparison.combine != 0) {
            each.c = d.predicate_source(3, kNegateC);
            each.imm = comparison.combine;
        }
        each.flags = d.inst.flags;
        each.d = d.predicate_dest(nowhere);
        each.run = setp_for(from, comparison.test, d.has("ftz"), part);
        if (each.run == nullptr) d.unsupported();
        d.emit_before(each);
        return each.d;
    };
    Inst& inst = d.inst;
    const std::uint32_t low = build(0);
    const bool packed = from == Type::f16x2 || from == Type::bf16x2;
    const std::uint32_t high = packed ? build(1) : kNoOperand;
    inst = test;
    inst.a = low;
    inst.b = high;
    inst.d = d.dest(0, to);
    const std::uint32_t one = to == Type::f16    ? 0x3c00U
                              : to == Type::bf16 ? 0x3f80U
                              : to == Type::f32  ? 0x3f800000U
                                                 : 0xffffffffU;
    if (packed) {
        inst.imm = to == Type::f16x2 ? 0x3c003c00 : to == Type::bf16x2 ? 0x3f803f80 : 0xffffffff;
        inst.run = &select_pair;
        if (width_of(to) != 4) d.unsupported();
    } else {
        inst.imm = one;
        inst.run = width_of(to) == 2   ? &select_constant<std::uint16_t>
                   : width_of(to) == 4 ? &select_constant<std::uint32_t>
                                       : nullptr;
        if (inst.run == nullptr) d.unsupported();
    }
    return true;
}

template <class T>
void select(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    const T* b = lanes_of<T>(w, in.b);
    T* d = lanes_of<T>(w, in.d);
    std::uint32_t p = predicate_of(w, in.c);
    if ((in.flags & kNegateC) != 0) p = ~p;
    each_lane(mask, [=](unsigned l) { d[l] = (p >> l & 1) != 0 ? a[l] : b[l]; });
}
void select_predicate(Warp& w, const Inst& in, std::uint32_t mask) {
    const auto read = [&](std::uint32_t operand, std::uint8_t flag) {
        const std::uint32_t value = predicate_of(w, operand);
        return (in.flags & flag) != 0 ? ~value : value;
    };
    const std::uint32_t c = read(in.c, kNegateC);
    set_predicate(predicate_of(w, in.d), mask,
                  (read(in.a, kNegateA) & c) | (read(in.b, kNegateB) & ~c));
}

template <class T, class C>
void select_by_sign(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    const T* b = lanes_of<T>(w, in.b);
    const C* c = lanes_of<C>(w, in.c);
    T* d = lanes_of<T>(w, in.d);
    const bool ftz = (in.flags & kUserFlag) != 0;
    each_lane(mask, [=](unsigned l) {
        C value = c[l];
        if constexpr (sizeof(C) == 4 && !std::is_integral_v<C>)
            if (ftz) value = flush(value);
        d[l] = value >= 0 ? a[l] : b[l];  // NaN selects b
    });
    (void)ftz;
}

template <class C>
Handler by_sign(unsigned width) {
    switch (width) {
        case 2:
            return &select_by_sign<std::uint16_t, C>;
        case 4:
            return &select_by_sign<std::uint32_t, C>;
        case 8:
            return &select_by_sign<std::uint64_t, C>;
        default:
            return nullptr;
    }
}

}  // namespace

bool decode_compare(Decoder& d) {
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (op == "setp") return decode_setp(d);
    if (op == "set") return decode_set(d);
    if (op == "selp") {
        d.need(4);
        const Type type = d.type();
        inst.c = d.predicate_source(3, kNegateC);
        if (type == Type::pred) {
            inst.a = d.predicate_source(1, kNegateA);
            inst.b = d.predicate_source(2, kNegateB);
            inst.d = d.predicate_dest(d.operand(0));
            inst.run = &select_predicate;
            return true;
        }
        inst.a = d.source(1, type);
        inst.b = d.source(2, type);
        inst.d = d.dest(0, type);
        switch (width_of(type)) {
            case 2:
                inst.run = &select<std::uint16_t>;
                break;
            case 4:
                inst.run = &select<std::uint32_t>;
                break;
            case 8:
                inst.run = &select<std::uint64_t>;
                break;
            default:
                d.unsupported();
        }
        return true;
    }
    if (op == "slct") {
        d.need(4);
        const Type type = d.type(0);
        const Type by = d.type(1);
        if (by != Type::f32 && by != Type::s32) d.unsupported();
        inst.a = d.source(1, type);
        inst.b = d.source(2, type);
        inst.c = d.source(3, by);
        inst.d = d.dest(0, type);
        if (d.has("ftz")) inst.flags |= kUserFlag;
        inst.run = by == Type::f32 ? by_sign<float>(width_of(type))
                                   : by_sign<std::int32_t>(width_of(type));
        if (inst.run == nullptr) d.unsupported();
        return true;
    }
    return false;
}

}  // namespace carrel::softgpu::ptx
