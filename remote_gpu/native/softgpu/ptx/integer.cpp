// Integer arithmetic and bitwise logic.
#include <limits>
#include <type_traits>
#include <unordered_map>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

// Wraps round in every width; narrow types are promoted by the language, so the result is cut.
template <class T>
struct Add {
    CARREL_INLINE T apply(T a, T b) {
        return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
    }
};
template <class T>
struct Sub {
    CARREL_INLINE T apply(T a, T b) {
        return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
    }
};
struct AddSaturating {
    CARREL_INLINE std::int32_t apply(std::int32_t a, std::int32_t b) {
        const std::int64_t sum = std::int64_t{a} + b;
        return static_cast<std::int32_t>(sum > INT32_MAX   ? INT32_MAX
                                         : sum < INT32_MIN ? INT32_MIN
                                                           : sum);
    }
};
struct SubSaturating {
    CARREL_INLINE std::int32_t apply(std::int32_t a, std::int32_t b) {
        const std::int64_t sum = std::int64_t{a} - b;
        return static_cast<std::int32_t>(sum > INT32_MAX   ? INT32_MAX
                                         : sum < INT32_MIN ? INT32_MIN
                                                           : sum);
    }
};

template <class T>
using Double = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
    std::conditional_t<sizeof(T) == 4,
                       std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

template <class T>
CARREL_INLINE T low_product(T a, T b) {
    // 16-bit factors would be promoted to int, whose product may overflow.
    using Wide = std::conditional_t<sizeof(T) == 2, std::uint32_t, Unsigned<T>>;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b));
}
template <class T>
struct MulLow {
    CARREL_INLINE T apply(T a, T b) { return low_product(a, b); }
};
template <class T>
struct MulHigh {
    CARREL_INLINE T apply(T a, T b) {
        return static_cast<T>((static_cast<Double<T>>(a) * static_cast<Double<T>>(b)) >>
                              (sizeof(T) * 8));
    }
};
template <class T>
struct MulWide {
    CARREL_INLINE Double<T> apply(T a, T b) {
        if constexpr (sizeof(T) == 2)
            return static_cast<Double<T>>(static_cast<std::int64_t>(a) * b);
        else
            return static_cast<Double<T>>(a) * static_cast<Double<T>>(b);
    }
};
template <class T>
struct MadLow {
    CARREL_INLINE T apply(T a, T b, T c) { return Add<T>::apply(low_product(a, b), c); }
};
template <class T>
struct MadHigh {
    CARREL_INLINE T apply(T a, T b, T c) { return Add<T>::apply(MulHigh<T>::apply(a, b), c); }
};
struct MadHighSaturating {
    CARREL_INLINE std::int32_t apply(std::int32_t a, std::int32_t b, std::int32_t c) {
        return AddSaturating::apply(MulHigh<std::int32_t>::apply(a, b), c);
    }
};
template <class T>
struct MadWide {
    CARREL_INLINE Double<T> apply(T a, T b, Double<T> c) {
        return Add<Double<T>>::apply(MulWide<T>::apply(a, b), c);
    }
};
template <class T>
CARREL_INLINE T cut24(T a) {
    return static_cast<T>(static_cast<T>(static_cast<std::uint32_t>(a) << 8) >> 8);
}
template <class T>
struct Mul24Low {
    CARREL_INLINE T apply(T a, T b) {
        return static_cast<T>(static_cast<std::int64_t>(cut24(a)) * cut24(b));
    }
};
template <class T>
struct Mul24High {
    CARREL_INLINE T apply(T a, T b) {
        return static_cast<T>((static_cast<std::int64_t>(cut24(a)) * cut24(b)) >> 16);
    }
};
template <class T>
struct Mad24Low {
    CARREL_INLINE T apply(T a, T b, T c) { return Add<T>::apply(Mul24Low<T>::apply(a, b), c); }
};
template <class T>
struct Mad24High {
    CARREL_INLINE T apply(T a, T b, T c) { return Add<T>::apply(Mul24High<T>::apply(a, b), c); }
};
template <class T>
struct Sad {
    CARREL_INLINE T apply(T a, T b, T c) {
        return Add<T>::apply(c, a < b ? Sub<T>::apply(b, a) : Sub<T>::apply(a, b));
    }
};
// Division by zero gives all ones, as on the hardware; it never traps here.
template <class T>
struct Div {
    CARREL_INLINE T apply(T a, T b) {
        if (b == 0) return static_cast<T>(~T{0});
        if constexpr (std::is_signed_v<T>)
            if (b == -1) return Sub<T>::apply(0, a);
        return static_cast<T>(a / b);
    }
};
template <class T>
struct Rem {
    CARREL_INLINE T apply(T a, T b) {
        if (b == 0) return a;
        if constexpr (std::is_signed_v<T>)
            if (b == -1) return 0;
        return static_cast<T>(a % b);
    }
};
template <class T>
struct Abs {
    CARREL_INLINE T apply(T a) { return a < 0 ? Sub<T>::apply(0, a) : a; }
};
template <class T>
struct Neg {
    CARREL_INLINE T apply(T a) { return Sub<T>::apply(0, a); }
};
template <class T>
struct Min {
    CARREL_INLINE T apply(T a, T b) { return b < a ? b : a; }
};
template <class T>
struct Max {
    CARREL_INLINE T apply(T a, T b) { return a < b ? b : a; }
};
template <class Op>
struct Relu {
    CARREL_INLINE std::int32_t apply(std::int32_t a, std::int32_t b) {
        const std::int32_t value = Op::apply(a, b);
        return value < 0 ? 0 : value;
    }
};
template <class T, template <class> class Op>
struct Pair {
    CARREL_INLINE std::uint32_t apply(std::uint32_t a, std::uint32_t b) {
        const auto low =
            static_cast<std::uint16_t>(Op<T>::apply(static_cast<T>(a), static_cast<T>(b)));
        const auto high = static_cast<std::uint16_t>(
            Op<T>::apply(static_cast<T>(a >> 16), static_cast<T>(b >> 16)));
        return low | std::uint32_t{high} << 16;
    }
};
template <class T>
struct And {
    CARREL_INLINE T apply(T a, T b) { return static_cast<T>(a & b); }
};
template <class T>
struct Or {
    CARREL_INLINE T apply(T a, T b) { return static_cast<T>(a | b); }
};
template <class T>
struct Xor {
    CARREL_INLINE T apply(T a, T b) { return static_cast<T>(a ^ b); }
};
template <class T>
struct Not {
    CARREL_INLINE T apply(T a) { return static_cast<T>(~a); }
};
template <class T>
struct LogicalNot {
    CARREL_INLINE T apply(T a) { return a == 0; }
};

template <template <class> class Op>
Handler one(Type type) {
    switch (type) {
        case Type::s16:
            return map1<std::int16_t, std::int16_t, Op<std::int16_t>>();
        case Type::s32:
            return map1<std::int32_t, std::int32_t, Op<std::int32_t>>();
        case Type::s64:
            return map1<std::int64_t, std::int64_t, Op<std::int64_t>>();
        default:
            return nullptr;
    }
}
template <template <class> class Op>
Handler one_bits(Type type) {
    switch (width_of(type)) {
        case 2:
            return map1<std::uint16_t, std::uint16_t, Op<std::uint16_t>>();
        case 4:
            return map1<std::uint32_t, std::uint32_t, Op<std::uint32_t>>();
        case 8:
            return map1<std::uint64_t, std::uint64_t, Op<std::uint64_t>>();
        default:
            return nullptr;
    }
}
template <template <class> class Op>
Handler two_bits(Type type) {
    switch (width_of(type)) {
        case 2:
            return map2<std::uint16_t, std::uint16_t, std::uint16_t, Op<std::uint16_t>>();
        case 4:
            return map2<std::uint32_t, std::uint32_t, std::uint32_t, Op<std::uint32_t>>();
        case 8:
            return map2<std::uint64_t, std::uint64_t, std::uint64_t, Op<std::uint64_t>>();
        default:
            return nullptr;
    }
}
template <template <class> class Op>
Handler two(Type type) {
    switch (type) {
        case Type::u16:
            return map2<std::uint16_t, std::uint16_t, std::uint16_t, Op<std::uint16_t>>();
        case Type::s16:
            return map2<std::int16_t, std::int16_t, std::int16_t, Op<std::int16_t>>();
        case Type::u32:
            return map2<std::uint32_t, std::uint32_t, std::uint32_t, Op<std::uint32_t>>();
        case Type::s32:
            return map2<std::int32_t, std::int32_t, std::int32_t, Op<std::int32_t>>();
        case Type::u64:
            return map2<std::uint64_t, std::uint64_t, std::uint64_t, Op<std::uint64_t>>();
        case Type::s64:
            return map2<std::int64_t, std::int64_t, std::int64_t, Op<std::int64_t>>();
        default:
            return nullptr;
    }
}
template <template <class> class Op>
Handler three(Type type) {
    switch (type) {
        case Type::u16:
            return map3<std::uint16_t, std::uint16_t, std::uint16_t, std::uint16_t,
                        Op<std::uint16_t>>();
        case Type::s16:
            return map3<std::int16_t, std::int16_t, std::int16_t, std::int16_t, Op<std::int16_t>>();
        case Type::u32:
            return map3<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t,
                        Op<std::uint32_t>>();
        case Type::s32:
            return map3<std::int32_t, std::int32_t, std::int32_t, std::int32_t, Op<std::int32_t>>();
        case Type::u64:
            return map3<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                        Op<std::uint64_t>>();
        case Type::s64:
            return map3<std::int64_t, std::int64_t, std::int64_t, std::int64_t, Op<std::int64_t>>();
        default:
            return nullptr;
    }
}

template <class T>
Handler wide2() {
    return map2<Double<T>, T, T, MulWide<T>>();
}
template <class T>
Handler wide3() {
    return map3<Double<T>, T, T, Double<T>, MadWide<T>>();
}

Handler wide(Type type, bool adds) {
    switch (type) {
        case Type::u16:
            return adds ? wide3<std::uint16_t>() : wide2<std::uint16_t>();
        case Type::s16:
            return adds ? wide3<std::int16_t>() : wide2<std::int16_t>();
        case Type::u32:
            return adds ? wide3<std::uint32_t>() : wide2<std::uint32_t>();
        case Type::s32:
            return adds ? wide3<std::int32_t>() : wide2<std::int32_t>();
        default:
            return nullptr;
    }
}

Type doubled(Type type) {
    return width_of(type) == 2   ? (is_signed(type) ? Type::s32 : Type::u32)
           : width_of(type) == 4 ? (is_signed(type) ? Type::s64 : Type::u64)
                                 : Type::b128;
}

// Extended precision: the carry flag has one bit per lane.
template <class T, bool Subtract, bool CarryIn, bool CarryOut>
void with_carry(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    const T* b = lanes_of<T>(w, in.b);
    T* d = lanes_of<T>(w, in.d);
    std::uint32_t out = 0;
    each_lane(mask, [&](unsigned l) {
        const T x = a[l];
        const T carry = CarryIn ? (w.carry >> l) & 1 : T{0};
        T result;
        bool overflow;
        if constexpr (Subtract) {
            // CC.CF holds the borrow.
            result = static_cast<T>(x - b[l] - carry);
            overflow = x < b[l] || (x == b[l] && carry != 0);
        } else {
            const T sum = static_cast<T>(x + b[l]);
            result = static_cast<T>(sum + carry);
            overflow = sum < x || result < sum;
        }
        d[l] = result;
        out |= std::uint32_t{overflow} << l;
    });
    if constexpr (CarryOut) set_predicate(w.carry, mask, out);
}

template <class T, bool High, bool CarryIn, bool CarryOut>
void mad_with_carry(Warp& w, const Inst& in, std::uint32_t mask) {
    using U = Unsigned<T>;
    const T* a = lanes_of<T>(w, in.a);
    const T* b = lanes_of<T>(w, in.b);
    const U* c = lanes_of<U>(w, in.c);
    U* d = lanes_of<U>(w, in.d);
    std::uint32_t out = 0;
    each_lane(mask, [&](unsigned l) {
        const auto product =
            static_cast<U>(High ? MulHigh<T>::apply(a[l], b[l]) : low_product(a[l], b[l]));
        const U carry = CarryIn ? (w.carry >> l) & 1 : U{0};
        const U sum = product + c[l];
        const U result = sum + carry;
        out |= std::uint32_t{sum < product || result < sum} << l;
        d[l] = result;
    });
    if constexpr (CarryOut) set_predicate(w.carry, mask, out);
}

template <class T, bool Subtract>
Handler carry_handler(bool in, bool out) {
    if (in)
        return out ? &with_carry<T, Subtract, true, true> : &with_carry<T, Subtract, true, false>;
    return &with_carry<T, Subtract, false, true>;
}
template <class T, bool High>
Handler mad_carry_handler(bool in, bool out) {
    if (in)
        return out ? &mad_with_carry<T, High, true, true> : &mad_with_carry<T, High, true, false>;
    return &mad_with_carry<T, High, false, true>;
}
template <class T>
Handler mad_carry(bool high, bool in, bool out) {
    return high ? mad_carry_handler<T, true>(in, out) : mad_carry_handler<T, false>(in, out);
}

bool decode_carry(Decoder& d) {
    const std::string_view op = d.opcode();
    const bool in = op == "addc" || op == "subc" || op == "madc";
    const bool out = d.has("cc");
    Inst& inst = d.inst;
    const Type type = d.type();
    inst.a = d.source(1, type);
    inst.b = d.source(2, type);
    if (op == "mad" || op == "madc") {
        inst.c = d.source(3, type);
        const bool high = d.has("hi");
        switch (type) {
            case Type::u32:
                inst.run = mad_carry<std::uint32_t>(high, in, out);
                break;
            case Type::s32:
                inst.run = mad_carry<std::int32_t>(high, in, out);
                break;
            case Type::u64:
                inst.run = mad_carry<std::uint64_t>(high, in, out);
                break;
            case Type::s64:
                inst.run = mad_carry<std::int64_t>(high, in, out);
                break;
            default:
                d.unsupported();
        }
    } else {
        const bool subtract = op.starts_with("sub");
        if (width_of(type) == 4)
            inst.run = subtract ? carry_handler<std::uint32_t, true>(in, out)
                                : carry_handler<std::uint32_t, false>(in, out);
        else if (width_of(type) == 8)
            inst.run = subtract ? carry_handler<std::uint64_t, true>(in, out)
                                : carry_handler<std::uint64_t, false>(in, out);
        else
            d.unsupported();
    }
    inst.d = d.dest(0, type);
    return true;
}

Handler choose_two(const Decoder& d, Type type) {
    const std::string_view op = d.opcode();
    if (op == "add" || op == "sub" || op == "min" || op == "max") {
        if (d.has("sat") && type == Type::s32) {
            using S = std::int32_t;
            return op == "add" ? map2<S, S, S, AddSaturating>() : map2<S, S, S, SubSaturating>();
        }
        using U = std::uint32_t;
        if (type == Type::u16x2 || type == Type::s16x2) {
            if (d.has("relu")) return nullptr;
            if (op == "add") return map2<U, U, U, Pair<std::uint16_t, Add>>();
            if (op == "sub") return map2<U, U, U, Pair<std::uint16_t, Sub>>();
            if (op == "min")
                return type == Type::u16x2 ? map2<U, U, U, Pair<std::uint16_t, Min>>()
                                           : map2<U, U, U, Pair<std::int16_t, Min>>();
            return type == Type::u16x2 ? map2<U, U, U, Pair<std::uint16_t, Max>>()
                                       : map2<U, U, U, Pair<std::int16_t, Max>>();
        }
        if (d.has("relu")) {
            using S = std::int32_t;
            if (type != Type::s32) return nullptr;
            return op == "min" ? map2<S, S, S, Relu<Min<S>>>() : map2<S, S, S, Relu<Max<S>>>();
        }
        if (op == "add") return two<Add>(type);
        if (op == "sub") return two<Sub>(type);
        return op == "min" ? two<Min>(type) : two<Max>(type);
    }
    if (op == "mul") {
        if (d.has("hi")) return two<MulHigh>(type);
        return two<MulLow>(type);
    }
    if (op == "div") return two<Div>(type);
    if (op == "rem") return two<Rem>(type);
    if (op == "and") return two_bits<And>(type);
    if (op == "or") return two_bits<Or>(type);
    if (op == "xor") return two_bits<Xor>(type);
    if (op == "mul24" && width_of(type) == 4) {
        using S = std::int32_t;
        using U = std::uint32_t;
        if (type == Type::s32)
            return d.has("hi") ? map2<S, S, S, Mul24High<S>>() : map2<S, S, S, Mul24Low<S>>();
        return d.has("hi") ? map2<U, U, U, Mul24High<U>>() : map2<U, U, U, Mul24Low<U>>();
    }
    return nullptr;
}

Handler choose_three(const Decoder& d, Type type) {
    using S = std::int32_t;
    using U = std::uint32_t;
    if (d.opcode() == "sad") return three<Sad>(type);
    if (d.opcode() == "mad24") {
        if (width_of(type) != 4) return nullptr;
        if (type == Type::s32)
            return d.has("hi") ? map3<S, S, S, S, Mad24High<S>>() : map3<S, S, S, S, Mad24Low<S>>();
        return d.has("hi") ? map3<U, U, U, U, Mad24High<U>>() : map3<U, U, U, U, Mad24Low<U>>();
    }
    if (d.has("hi")) {
        if (d.has("sat"))
            return type == Type::s32 ? map3<S, S, S, S, MadHighSaturating>() : nullptr;
        return three<MadHigh>(type);
    }
    return three<MadLow>(type);
}

Handler choose_one(const Decoder& d, Type type) {
    const std::string_view op = d.opcode();
    if (op == "abs") return one<Abs>(type);
    if (op == "neg") return one<Neg>(type);
    if (op == "not") return one_bits<Not>(type);
    return one_bits<LogicalNot>(type);
}

void logic_predicate(Warp& w, const Inst& in, std::uint32_t mask) {
    const auto read = [&](std::uint32_t operand, std::uint8_t flag) {
        const std::uint32_t value = predicate_of(w, operand);
        return (in.flags & flag) != 0 ? ~value : value;
    };
    const std::uint32_t a = read(in.a, kNegateA);
    std::uint32_t result = ~a;
    if (in.imm != '!') {
        const std::uint32_t b = read(in.b, kNegateB);
        result = in.imm == '&' ? a & b : in.imm == '|' ? a | b : a ^ b;
    }
    set_predicate(predicate_of(w, in.d), mask, result);
}

bool decode_predicate_logic(Decoder& d) {
    const std::string_view op = d.opcode();
    Inst& inst = d.inst;
    d.need(op == "not" ? 2 : 3);
    inst.a = d.predicate_source(1, kNegateA);
    if (op != "not") inst.b = d.predicate_source(2, kNegateB);
    inst.d = d.predicate_dest(d.operand(0));
    inst.imm = op == "and" ? '&' : op == "or" ? '|' : op == "xor" ? '^' : '!';
    inst.run = &logic_predicate;
    return true;
}

enum class Shape : std::uint8_t { one, two, three };

const std::unordered_map<std::string_view, Shape>& shapes() {
    static const std::unordered_map<std::string_view, Shape> table{
        {"abs", Shape::one},     {"neg", Shape::one},   {"not", Shape::one},  {"cnot", Shape::one},
        {"add", Shape::two},     {"sub", Shape::two},   {"mul", Shape::two},  {"mul24", Shape::two},
        {"div", Shape::two},     {"rem", Shape::two},   {"min", Shape::two},  {"max", Shape::two},
        {"and", Shape::two},     {"or", Shape::two},    {"xor", Shape::two},  {"mad", Shape::three},
        {"mad24", Shape::three}, {"sad", Shape::three}, {"addc", Shape::two}, {"subc", Shape::two},
        {"madc", Shape::three},
    };
    return table;
}

}  // namespace

bool decode_integer(Decoder& d) {
    const auto found = shapes().find(d.opcode());
    if (found == shapes().end()) return false;
    const Type type = d.type();
    if (type == Type::pred) return decode_predicate_logic(d);
    if (!is_integer(type) && type != Type::u16x2 && type != Type::s16x2) return false;
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (d.has("cc") || op == "addc" || op == "subc" || op == "madc") return decode_carry(d);
    const std::size_t sources = found->second == Shape::one   ? 1
                                : found->second == Shape::two ? 2
                                                              : 3;
    d.need(sources + 1);
    inst.a = d.source(1, type);
    if (sources > 1) inst.b = d.source(2, type);
    if (d.has("wide") && (op == "mul" || op == "mad")) {
        if (sources > 2) inst.c = d.source(3, doubled(type));
        inst.d = d.dest(0, doubled(type));
        inst.run = wide(type, sources > 2);
    } else {
        if (sources > 2) inst.c = d.source(3, type);
        inst.d = d.dest(0, type);
        inst.run = sources == 1   ? choose_one(d, type)
                   : sources == 2 ? choose_two(d, type)
                                  : choose_three(d, type);
    }
    if (inst.run == nullptr) d.unsupported();
    return true;
}

}  // namespace carrel::softgpu::ptx
