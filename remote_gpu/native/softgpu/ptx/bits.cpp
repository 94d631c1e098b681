// Shifts, bit fields, permutations and dot products.
#include <algorithm>
#include <unordered_map>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {
namespace {

using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;
using S16 = std::int16_t;
using S32 = std::int32_t;
using S64 = std::int64_t;

// Amounts beyond the width shift everything out.
template <class T>
struct Shl {
    CARREL_INLINE T apply(T a, U32 b) { return b >= sizeof(T) * 8 ? T{0} : static_cast<T>(a << b); }
};
template <class T>
struct Shr {
    CARREL_INLINE T apply(T a, U32 b) {
        if (b >= sizeof(T) * 8) return a < 0 ? static_cast<T>(-1) : T{0};
        return static_cast<T>(a >> b);
    }
};

template <bool Left, bool Wrap>
struct Funnel {
    CARREL_INLINE U32 apply(U32 low, U32 high, U32 amount) {
        const U32 n = Wrap ? amount & 31 : std::min<U32>(amount, 32);
        const U64 both = U64{high} << 32 | low;
        return static_cast<U32>(Left ? both << n >> 32 : both >> n);
    }
};

struct Popc32 {
    CARREL_INLINE U32 apply(U32 a) { return static_cast<U32>(std::popcount(a)); }
};
struct Popc64 {
    CARREL_INLINE U32 apply(U64 a) { return static_cast<U32>(std::popcount(a)); }
};
struct Clz32 {
    CARREL_INLINE U32 apply(U32 a) { return static_cast<U32>(std::countl_zero(a)); }
};
struct Clz64 {
    CARREL_INLINE U32 apply(U64 a) { return static_cast<U32>(std::countl_zero(a)); }
};

template <class T>
struct Brev {
    CARREL_INLINE T apply(T a) {
        U64 x = a;
        x = (x >> 1 & 0x5555555555555555ULL) | (x & 0x5555555555555555ULL) << 1;
        x = (x >> 2 & 0x3333333333333333ULL) | (x & 0x3333333333333333ULL) << 2;
        x = (x >> 4 & 0x0f0f0f0f0f0f0f0fULL) | (x & 0x0f0f0f0f0f0f0f0fULL) << 4;
        x = __builtin_bswap64(x);
        return static_cast<T>(x >> (64 - sizeof(T) * 8));
    }
};

// The highest bit that differs from the sign; all ones if there is none.
template <class T, bool ShiftAmount>
struct Bfind {
    CARREL_INLINE U32 apply(T a) {
        using U = std::make_unsigned_t<T>;
        const U bits = a < 0 ? static_cast<U>(~a) : static_cast<U>(a);
        if (bits == 0) return ~U32{0};
        const auto at =
            static_cast<U32>(sizeof(T) * 8 - 1) - static_cast<U32>(std::countl_zero(bits));
        return ShiftAmount ? static_cast<U32>(sizeof(T) * 8 - 1) - at : at;
    }
};

template <class T>
struct Bfe {
    CARREL_INLINE T apply(T a, U32 b, U32 c) {
        using U = std::make_unsigned_t<T>;
        constexpr U32 kBits = sizeof(T) * 8;
        const U32 pos = b & 0xff;
        const U32 len = c & 0xff;
        if (len == 0) return 0;
        // Bits beyond the top are the sign's (zero if unsigned).
        const T shifted = Shr<T>::apply(a, pos);
        if (len >= kBits) return shifted;
        const U32 spare = kBits - len;
        if (std::is_signed_v<T> && pos + len <= kBits)
            return static_cast<T>(static_cast<T>(static_cast<U>(shifted) << spare) >> spare);
        if (std::is_signed_v<T>) return static_cast<T>(shifted);
        return static_cast<T>(static_cast<U>(shifted) << spare >> spare);
    }
};

template <class T>
struct Bmsk {
    CARREL_INLINE T mask(U32 pos, U32 len) {
        const T ones =
            len >= sizeof(T) * 8 ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << len) - 1);
        return Shl<T>::apply(ones, pos);
    }
};

template <class T>
void bit_field_insert(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    const T* b = lanes_of<T>(w, in.b);
    const U32* pos = lanes_of<U32>(w, in.c);
    const U32* len = lanes_of<U32>(w, w.frame->function->operands[in.aux]);
    T* d = lanes_of<T>(w, in.d);
    each_lane(mask, [=](unsigned l) {
        const T field = Bmsk<T>::mask(pos[l] & 0xff, len[l] & 0xff);
        d[l] = (b[l] & ~field) | (Shl<T>::apply(a[l], pos[l] & 0xff) & field);
    });
}

template <bool Wrap>
struct BmskOp {
    CARREL_INLINE U32 apply(U32 a, U32 b) {
        if (Wrap) return Bmsk<U32>::mask(a & 31, b & 31);
        return Bmsk<U32>::mask(std::min<U32>(a, 32), std::min<U32>(b, 32));
    }
};

template <class T, bool Wrap>
struct Szext {
    CARREL_INLINE T apply(T a, U32 b) {
        const U32 n = Wrap ? b & 31 : std::min<U32>(b, 32);
        if (n == 0) return 0;
        if (n >= 32) return a;
        const U32 spare = 32 - n;
        return static_cast<T>(static_cast<T>(static_cast<U32>(a) << spare) >> spare);
    }
};

// Any function of three bits, from its truth table.
void lop3(Warp& w, const Inst& in, std::uint32_t mask) {
    const U32* a = lanes_of<U32>(w, in.a);
    const U32* b = lanes_of<U32>(w, in.b);
    const U32* c = lanes_of<U32>(w, in.c);
    U32* d = lanes_of<U32>(w, in.d);
    U32 terms[8];
    for (unsigned i = 0; i < 8; ++i) terms[i] = (in.imm >> i & 1) != 0 ? ~U32{0} : 0;
    U32 result[kLanes];
    for (unsigned l = 0; l < kLanes; ++l) {
        const U32 x = a[l];
        const U32 y = b[l];
        const U32 z = c[l];
        result[l] = (~x & ~y & ~z & terms[0]) | (~x & ~y & z & terms[1]) |
                    (~x & y & ~z & terms[2]) | (~x & y & z & terms[3]) | (x & ~y & ~z & terms[4]) |
                    (x & ~y & z & terms[5]) | (x & y & ~z & terms[6]) | (x & y & z & terms[7]);
    }
    if (in.aux != 0) {  // .BoolOp d|p: p = (d != 0) op q
        std::uint32_t q = predicate_of(w, w.frame->function->operands[in.aux]);
        if ((in.flags & kNegateC) != 0) q = ~q;
        const std::uint32_t set = lanes_where(mask, [&](unsigned l) { return result[l] != 0; });
        const bool is_and = (in.flags & kUserFlag) != 0;
        set_predicate(predicate_of(w, w.frame->function->operands[in.aux + 1]), mask,
                      is_and ? set & q : set | q);
    }
    if (in.d != kNoOperand) each_lane(mask, [&](unsigned l) { d[l] = result[l]; });
}

enum class Permute : std::uint8_t { index, f4e, b4e, rc8, ecl, ecr, rc16 };

U32 permute_selector(Permute mode, U32 c) {
    const U32 n = c & 3;
    switch (mode) {
        case Permute::f4e:
            return 0x3210 + n * 0x1111;
        case Permute::b4e:
            return (n - 0) | ((n - 1) & 7) << 4 | ((n - 2) & 7) << 8 | ((n - 3) & 7) << 12;
        case Permute::rc8:
            return n * 0x1111;
        case Permute::ecl:
            return std::max(n, U32{0}) | std::max(n, U32{1}) << 4 | std::max(n, U32{2}) << 8 |
                   3U << 12;
        case Permute::ecr:
            return 0 | std::min(n, U32{1}) << 4 | std::min(n, U32{2}) << 8 |
                   std::min(n, U32{3}) << 12;
        case Permute::rc16:
            return (n & 1) != 0 ? 0x3232 : 0x1010;
        default:
            return c;
    }
}

template <Permute Mode>
struct Prmt {
    CARREL_INLINE U32 apply(U32 a, U32 b, U32 c) {
        const U64 bytes = U64{b} << 32 | a;
        const U32 selector = Mode == Permute::index ? c : permute_selector(Mode, c);
        U32 result = 0;
        for (unsigned i = 0; i < 4; ++i) {
            const U32 nibble = selector >> (4 * i) & 15;
            U32 byte = static_cast<U32>(bytes >> ((nibble & 7) * 8)) & 0xff;
            if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
            result |= byte << (8 * i);
        }
        return result;
    }
};

template <class A, class B>
struct Dp4a {
    CARREL_INLINE U32 apply(U32 a, U32 b, U32 c) {
        for (unsigned i = 0; i < 4; ++i)
            c += static_cast<U32>(static_cast<S32>(static_cast<A>(a >> (8 * i))) *
                                  static_cast<S32>(static_cast<B>(b >> (8 * i))));
        return c;
    }
};
template <class A, class B, bool High>
struct Dp2a {
    CARREL_INLINE U32 apply(U32 a, U32 b, U32 c) {
        for (unsigned i = 0; i < 2; ++i)
            c += static_cast<U32>(static_cast<S32>(static_cast<A>(a >> (16 * i))) *
                                  static_cast<S32>(static_cast<B>(b >> (8 * i + (High ? 16 : 0)))));
        return c;
    }
};

// The place of the n-th set bit from a base, upwards for positive n, downwards for negative.
struct Fns {
    CARREL_INLINE U32 apply(U32 value, U32 base, S32 offset) {
        if (base > 31) return ~U32{0};
        if (offset == 0) return (value >> base & 1) != 0 ? base : ~U32{0};
        const int step = offset > 0 ? 1 : -1;
        U32 left = offset > 0 ? static_cast<U32>(offset) : 0u - static_cast<U32>(offset);
        for (int at = static_cast<int>(base); at >= 0 && at < 32; at += step)
            if ((value >> at & 1) != 0 && --left == 0) return static_cast<U32>(at);
        return ~U32{0};
    }
};

template <template <class> class Op>
Handler shift(Type type, bool sign) {
    switch (width_of(type)) {
        case 2:
            return sign ? map2<S16, S16, U32, Op<S16>>() : map2<U16, U16, U32, Op<U16>>();
        case 4:
            return sign ? map2<S32, S32, U32, Op<S32>>() : map2<U32, U32, U32, Op<U32>>();
        case 8:
            return sign ? map2<S64, S64, U32, Op<S64>>() : map2<U64, U64, U32, Op<U64>>();
        default:
            return nullptr;
    }
}

Handler permute(const Decoder& d) {
    if (d.has("f4e")) return map3<U32, U32, U32, U32, Prmt<Permute::f4e>>();
    if (d.has("b4e")) return map3<U32, U32, U32, U32, Prmt<Permute::b4e>>();
    if (d.has("rc8")) return map3<U32, U32, U32, U32, Prmt<Permute::rc8>>();
    if (d.has("ecl")) return map3<U32, U32, U32, U32, Prmt<Permute::ecl>>();
    if (d.has("ecr")) return map3<U32, U32, U32, U32, Prmt<Permute::ecr>>();
    if (d.has("rc16")) return map3<U32, U32, U32, U32, Prmt<Permute::rc16>>();
    return map3<U32, U32, U32, U32, Prmt<Permute::index>>();
}

template <class A>
Handler dot(const Decoder& d, bool four, bool b_signed) {
    if (four)
        return b_signed ? map3<U32, U32, U32, U32, Dp4a<A, std::int8_t>>()
                        : map3<U32, U32, U32, U32, Dp4a<A, std::uint8_t>>();
    using Wide = std::conditional_t<std::is_signed_v<A>, S16, U16>;
    if (d.has("hi"))
        return b_signed ? map3<U32, U32, U32, U32, Dp2a<Wide, std::int8_t, true>>()
                        : map3<U32, U32, U32, U32, Dp2a<Wide, std::uint8_t, true>>();
    return b_signed ? map3<U32, U32, U32, U32, Dp2a<Wide, std::int8_t, false>>()
                    : map3<U32, U32, U32, U32, Dp2a<Wide, std::uint8_t, false>>();
}

template <class T>
Handler find(bool amount) {
    return amount ? map1<U32, T, Bfind<T, true>>() : map1<U32, T, Bfind<T, false>>();
}

bool decode_lop3(Decoder& d) {
    Inst& inst = d.inst;
    const bool combines = d.has("or") || d.has("and");
    d.need(combines ? 6 : 5);
    inst.a = d.source(1, Type::b32);
    inst.b = d.source(2, Type::b32);
    inst.c = d.source(3, Type::b32);
    inst.imm = d.operand(4).value;
    const syntax::Operand& target = d.operand(0);
    const bool pair = target.kind == syntax::Operand::Kind::pair;
    inst.d = d.dest(pair ? target.elements[0] : target, Type::b32);
    if (combines) {
        if (!pair) d.unsupported();
        const std::uint32_t q = d.predicate_source(5, kNegateC);
        const std::uint32_t p = d.predicate_dest(target.elements[1]);
        auto& table = d.code().operands;
        if (table.empty()) table.push_back(0);  // aux 0 means none
        inst.aux = static_cast<std::uint32_t>(table.size());
        table.push_back(q);
        table.push_back(p);
        if (d.has("and")) inst.flags |= kUserFlag;
    }
    inst.run = &lop3;
    return true;
}

bool decode_bit_field(Decoder& d) {
    Inst& inst = d.inst;
    const Type type = d.type();
    if (d.opcode() == "bfe") {
        d.need(4);
        inst.a = d.source(1, type);
        inst.b = d.source(2, Type::u32);
        inst.c = d.source(3, Type::u32);
        inst.d = d.dest(0, type);
        const bool sign = is_signed(type);
        if (width_of(type) == 4)
            inst.run =
                sign ? map3<S32, S32, U32, U32, Bfe<S32>>() : map3<U32, U32, U32, U32, Bfe<U32>>();
        else if (width_of(type) == 8)
            inst.run =
                sign ? map3<S64, S64, U32, U32, Bfe<S64>>() : map3<U64, U64, U32, U32, Bfe<U64>>();
        else
            d.unsupported();
        return true;
    }
    d.need(5);
    inst.a = d.source(1, type);
    inst.b = d.source(2, type);
    inst.c = d.source(3, Type::u32);
    const std::uint32_t length = d.source(4, Type::u32);
    inst.d = d.dest(0, type);
    inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
    d.code().operands.push_back(length);
    if (width_of(type) == 4)
        inst.run = &bit_field_insert<U32>;
    else if (width_of(type) == 8)
        inst.run = &bit_field_insert<U64>;
    else
        d.unsupported();
    return true;
}

void sources(Decoder& d, std::initializer_list<Type> types) {
    d.need(types.size() + 1);
    std::uint32_t* places[] = {&d.inst.a, &d.inst.b, &d.inst.c};
    std::size_t i = 0;
    for (const Type type : types) {
        *places[i] = d.source(i + 1, type);
        ++i;
    }
}

}  // namespace

bool decode_bits(Decoder& d) {
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (op == "lop3") return decode_lop3(d);
    if (op == "bfe" || op == "bfi") return decode_bit_field(d);
    Type to = Type::u32;
    if (op == "shl" || op == "shr") {
        to = d.type();
        sources(d, {to, Type::u32});
        inst.run = op == "shl" ? shift<Shl>(to, false) : shift<Shr>(to, is_signed(to));
    } else if (op == "shf") {
        sources(d, {Type::b32, Type::b32, Type::u32});
        const bool wrap = d.has("wrap");
        if (d.has("l"))
            inst.run = wrap ? map3<U32, U32, U32, U32, Funnel<true, true>>()
                            : map3<U32, U32, U32, U32, Funnel<true, false>>();
        else
            inst.run = wrap ? map3<U32, U32, U32, U32, Funnel<false, true>>()
                            : map3<U32, U32, U32, U32, Funnel<false, false>>();
    } else if (op == "popc" || op == "clz") {
        sources(d, {d.type()});
        const bool wide = width_of(d.type()) == 8;
        if (op == "popc")
            inst.run = wide ? map1<U32, U64, Popc64>() : map1<U32, U32, Popc32>();
        else
            inst.run = wide ? map1<U32, U64, Clz64>() : map1<U32, U32, Clz32>();
    } else if (op == "brev") {
        to = d.type();
        sources(d, {to});
        inst.run = width_of(to) == 8 ? map1<U64, U64, Brev<U64>>() : map1<U32, U32, Brev<U32>>();
    } else if (op == "bfind") {
        sources(d, {d.type()});
        const bool amount = d.has("shiftamt");
        switch (d.type()) {
            case Type::u32:
                inst.run = find<U32>(amount);
                break;
            case Type::s32:
                inst.run = find<S32>(amount);
                break;
            case Type::u64:
                inst.run = find<U64>(amount);
                break;
            case Type::s64:
                inst.run = find<S64>(amount);
                break;
            default:
                d.unsupported();
        }
    } else if (op == "prmt") {
        sources(d, {Type::b32, Type::b32, Type::b32});
        inst.run = permute(d);
    } else if (op == "dp4a" || op == "dp2a") {
        sources(d, {Type::b32, Type::b32, Type::b32});
        const bool four = op == "dp4a";
        inst.run = is_signed(d.type(0)) ? dot<std::int8_t>(d, four, is_signed(d.type(1)))
                                        : dot<std::uint8_t>(d, four, is_signed(d.type(1)));
    } else if (op == "fns") {
        sources(d, {Type::b32, Type::u32, Type::s32});
        inst.run = map3<U32, U32, U32, S32, Fns>();
    } else if (op == "bmsk") {
        sources(d, {Type::u32, Type::u32});
        inst.run = d.has("wrap") ? map2<U32, U32, U32, BmskOp<true>>()
                                 : map2<U32, U32, U32, BmskOp<false>>();
    } else if (op == "szext") {
        to = d.type();
        if (width_of(to) != 4) d.unsupported();
        sources(d, {to, Type::u32});
        const bool wrap = d.has("wrap");
        if (is_signed(to))
            inst.run = wrap ? map2<S32, S32, U32, Szext<S32, true>>()
                            : map2<S32, S32, U32, Szext<S32, false>>();
        else
            inst.run = wrap ? map2<U32, U32, U32, Szext<U32, true>>()
                            : map2<U32, U32, U32, Szext<U32, false>>();
    } else {
        return false;
    }
    inst.d = d.dest(0, to);
    const bool any_width = op == "shl" || op == "shr";
    if (inst.run == nullptr || (!any_width && !d.word_or_more())) d.unsupported();
    return true;
}

}  // namespace carrel::softgpu::ptx
