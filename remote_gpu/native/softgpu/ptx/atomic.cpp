// Atomic operations: host atomics on the checked place, lane by lane.
#include <mutex>

#include "softgpu/ptx/access.hpp"
#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/half.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;
using u128 = unsigned __int128;

namespace {

StateSpace space_of(const Inst& in) {
    return static_cast<StateSpace>(in.count);
}

// T: unsigned integer of the operand's width; Op computes the new value from the old one and b, in
// bits.
template <class T, class Op>
void atomic(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    const T* b = lanes_of<T>(w, in.b);
    T* d = in.d == kNoOperand ? nullptr : lanes_of<T>(w, in.d);
    for (std::uint32_t left = mask; left != 0; left &= left - 1) {
        const auto l = static_cast<unsigned>(std::countr_zero(left));
        auto* place =
            reinterpret_cast<T*>(place_in(w, space_of(in), address[l], sizeof(T), l, true));
        T old = __atomic_load_n(place, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(place, &old, Op::apply(old, b[l]), true,
                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        }
        if (d != nullptr) d[l] = old;
    }
    w.spin_hint();
}

template <class T>
void compare_and_swap(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    const T* b = lanes_of<T>(w, in.b);
    const T* c = lanes_of<T>(w, in.c);
    T* d = in.d == kNoOperand ? nullptr : lanes_of<T>(w, in.d);
    for (std::uint32_t left = mask; left != 0; left &= left - 1) {
        const auto l = static_cast<unsigned>(std::countr_zero(left));
        auto* place =
            reinterpret_cast<T*>(place_in(w, space_of(in), address[l], sizeof(T), l, true));
        T expected = b[l];
        __atomic_compare_exchange_n(place, &expected, c[l], false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
        if (d != nullptr) d[l] = expected;
    }
    w.spin_hint();
}

// 16-byte atomics exclude each other; not every x86-64 can do better.
void wide_atomic(Warp& w, const Inst& in, std::uint32_t mask) {
    static std::mutex mutex;
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    const bool compares = in.c != kNoOperand;
    const u128* b = lanes_of<u128>(w, in.b);
    const u128* c = compares ? lanes_of<u128>(w, in.c) : nullptr;
    u128* d = in.d == kNoOperand ? nullptr : lanes_of<u128>(w, in.d);
    for (std::uint32_t left = mask; left != 0; left &= left - 1) {
        const auto l = static_cast<unsigned>(std::countr_zero(left));
        std::byte* place = place_in(w, space_of(in), address[l], 16, l, true);
        const std::lock_guard<std::mutex> lock(mutex);
        u128 old;
        std::memcpy(&old, place, 16);
        if (!compares || old == b[l]) std::memcpy(place, compares ? &c[l] : &b[l], 16);
        if (d != nullptr) d[l] = old;
    }
    w.spin_hint();
}

template <class U>
struct Add {
    CARREL_INLINE U apply(U a, U b) { return static_cast<U>(a + b); }
};
template <class U>
struct And {
    CARREL_INLINE U apply(U a, U b) { return a & b; }
};
template <class U>
struct Or {
    CARREL_INLINE U apply(U a, U b) { return a | b; }
};
template <class U>
struct Xor {
    CARREL_INLINE U apply(U a, U b) { return a ^ b; }
};
template <class U>
struct Exchange {
    CARREL_INLINE U apply(U, U b) { return b; }
};
template <class U, class V>
struct Min {
    CARREL_INLINE U apply(U a, U b) { return static_cast<V>(b) < static_cast<V>(a) ? b : a; }
};
template <class U, class V>
struct Max {
    CARREL_INLINE U apply(U a, U b) { return static_cast<V>(a) < static_cast<V>(b) ? b : a; }
};
struct Inc {
    CARREL_INLINE std::uint32_t apply(std::uint32_t a, std::uint32_t b) {
        return a >= b ? 0 : a + 1;
    }
};
struct Dec {
    CARREL_INLINE std::uint32_t apply(std::uint32_t a, std::uint32_t b) {
        return a == 0 || a > b ? b : a - 1;
    }
};
template <class U, class F>
struct FloatAdd {
    CARREL_INLINE U apply(U a, U b) {
        return std::bit_cast<U>(static_cast<F>(std::bit_cast<F>(a) + std::bit_cast<F>(b)));
    }
};

enum class HalfOp : std::uint8_t { add, min, max };

template <class Format, HalfOp Op>
struct Half {
    CARREL_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t b) {
        const float x = Format::widen(a);
        const float y = Format::widen(b);
        if constexpr (Op == HalfOp::add) return Format::narrow(x + y);
        if (x != x) return b;
        if (y != y) return a;
        if constexpr (Op == HalfOp::min) return y < x ? b : a;
        return x < y ? b : a;
    }
};
template <class Format, HalfOp Op>
struct HalfPair {
    CARREL_INLINE std::uint32_t apply(std::uint32_t a, std::uint32_t b) {
        const auto low =
            Half<Format, Op>::apply(static_cast<std::uint16_t>(a), static_cast<std::uint16_t>(b));
        const auto high = Half<Format, Op>::apply(static_cast<std::uint16_t>(a >> 16),
                                                  static_cast<std::uint16_t>(b >> 16));
        return low | std::uint32_t{high} << 16;
    }
};

template <HalfOp Op>
Handler half_handler(Type type) {
    switch (type) {
        case Type::f16:
            return &atomic<std::uint16_t, Half<Float16, Op>>;
        case Type::bf16:
            return &atomic<std::uint16_t, Half<BFloat16, Op>>;
        case Type::f16x2:
            return &atomic<std::uint32_t, HalfPair<Float16, Op>>;
        case Type::bf16x2:
            return &atomic<std::uint32_t, HalfPair<BFloat16, Op>>;
        default:
            return nullptr;
    }
}

template <template <class> class Op>
Handler by_width(Type type) {
    switch (width_of(type)) {
        case 2:
            return &atomic<std::uint16_t, Op<std::uint16_t>>;
        case 4:
            return &atomic<std::uint32_t, Op<std::uint32_t>>;
        case 8:
            return &atomic<std::uint64_t, Op<std::uint64_t>>;
        default:
            return nullptr;
    }
}

template <template <class, class> class Op>
Handler by_sign(Type type) {
    switch (type) {
        case Type::u32:
            return &atomic<std::uint32_t, Op<std::uint32_t, std::uint32_t>>;
        case Type::s32:
            return &atomic<std::uint32_t, Op<std::uint32_t, std::int32_t>>;
        case Type::u64:
            return &atomic<std::uint64_t, Op<std::uint64_t, std::uint64_t>>;
        case Type::s64:
            return &atomic<std::uint64_t, Op<std::uint64_t, std::int64_t>>;
        default:
            return nullptr;
    }
}

Handler choose(const Decoder& d, Type type) {
    if (d.has("add")) {
        if (type == Type::f32) return &atomic<std::uint32_t, FloatAdd<std::uint32_t, float>>;
        if (type == Type::f64) return &atomic<std::uint64_t, FloatAdd<std::uint64_t, double>>;
        if (is_half(type)) return half_handler<HalfOp::add>(type);
        return by_width<Add>(type);
    }
    if (d.has("min")) return is_half(type) ? half_handler<HalfOp::min>(type) : by_sign<Min>(type);
    if (d.has("max")) return is_half(type) ? half_handler<HalfOp::max>(type) : by_sign<Max>(type);
    if (d.has("and")) return by_width<And>(type);
    if (d.has("or")) return by_width<Or>(type);
    if (d.has("xor")) return by_width<Xor>(type);
    if (d.has("exch")) return type == Type::b128 ? &wide_atomic : by_width<Exchange>(type);
    if (d.has("inc")) return width_of(type) == 4 ? &atomic<std::uint32_t, Inc> : nullptr;
    if (d.has("dec")) return width_of(type) == 4 ? &atomic<std::uint32_t, Dec> : nullptr;
    if (!d.has("cas")) return nullptr;
    switch (width_of(type)) {
        case 2:
            return &compare_and_swap<std::uint16_t>;
        case 4:
            return &compare_and_swap<std::uint32_t>;
        case 8:
            return &compare_and_swap<std::uint64_t>;
        default:
            return &wide_atomic;
    }
}

StateSpace named_space(const Decoder& d) {
    for (const std::string_view modifier : d.in().modifiers) {
        if (modifier == "global") return StateSpace::global;
        if (modifier.starts_with("shared")) return StateSpace::shared;
    }
    return StateSpace::generic;
}

}  // namespace

bool decode_atomic(Decoder& d) {
    const bool returns = d.opcode() == "atom";
    if (!returns && d.opcode() != "red") return false;
    Inst& inst = d.inst;
    const Type type = d.type(d.types() - 1);
    if (d.has("v2") || d.has("v4") || d.has("v8") || d.has("async")) d.unsupported();
    std::size_t at = 0;
    if (returns) inst.d = d.dest(at++, type);
    inst.count = static_cast<std::uint8_t>(d.address(d.operand(at++), named_space(d)));
    inst.b = d.source(at++, type);
    if (d.has("cas")) inst.c = d.source(at, type);
    inst.run = choose(d, type);
    if (inst.run == nullptr) d.unsupported();
    return true;
}

}  // namespace carrel::softgpu::ptx
