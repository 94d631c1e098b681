// Integer arithmetic, logic, shifts, bit fields and permutations against plain C++.
#include "table.hpp"

using namespace carrel::softgpu::ptx::test;
using S16 = std::int16_t;
using U16 = std::uint16_t;
using S32 = std::int32_t;
using U32 = std::uint32_t;
using S64 = std::int64_t;
using U64 = std::uint64_t;
using S128 = __int128;
using U128 = unsigned __int128;

namespace {

// PTX's name of T, and a type in which T's sums and products do not overflow.
template <class T>
std::string suffix() {
    return (std::is_signed_v<T> ? ".s" : ".u") + std::to_string(sizeof(T) * 8);
}
template <class T>
std::string bits_suffix() {
    return ".b" + std::to_string(sizeof(T) * 8);
}

template <class T>
void arithmetic() {
    const std::string t = suffix<T>();
    const auto two = [&](const std::string& op, auto reference) {
        check2<T, T, T>(op + t + " %d, %a, %b;",
                        [=](T a, T b) { return static_cast<T>(reference(S128{a}, S128{b})); });
    };
    two("add", [](S128 a, S128 b) { return a + b; });
    two("sub", [](S128 a, S128 b) { return a - b; });
    two("mul.lo", [](S128 a, S128 b) {
        return static_cast<S128>(static_cast<U128>(a) * static_cast<U128>(b));
    });
    two("min", [](S128 a, S128 b) { return a < b ? a : b; });
    two("max", [](S128 a, S128 b) { return a < b ? b : a; });
    two("div", [](S128 a, S128 b) { return b == 0 ? S128{-1} : a / b; });
    two("rem", [](S128 a, S128 b) { return b == 0 ? a : a % b; });
    check2<T, T, T>("mul.hi" + t + " %d, %a, %b;", [](T a, T b) {
        if constexpr (std::is_signed_v<T>) return static_cast<T>(S128{a} * b >> (sizeof(T) * 8));
        return static_cast<T>(U128{static_cast<std::make_unsigned_t<T>>(a)} *
                                  static_cast<std::make_unsigned_t<T>>(b) >>
                              (sizeof(T) * 8));
    });
    check3<T, T, T, T>("mad.lo" + t + " %d, %a, %b, %c;", [](T a, T b, T c) {
        return static_cast<T>(static_cast<U64>(a) * static_cast<U64>(b) + static_cast<U64>(c));
    });
    check3<T, T, T, T>("sad" + t + " %d, %a, %b, %c;", [](T a, T b, T c) {
        const S128 gap = a < b ? S128{b} - a : S128{a} - b;
        return static_cast<T>(c + gap);
    });
    if constexpr (std::is_signed_v<T>) {
        check1<T, T>("neg" + t + " %d, %a;", [](T a) { return static_cast<T>(-S128{a}); });
        check1<T, T>("abs" + t + " %d, %a;",
                     [](T a) { return static_cast<T>(a < 0 ? -S128{a} : S128{a}); });
    }
    check2<T, T, U32>("shr" + t + " %d, %a, %b;", [](T a, U32 b) {
        return static_cast<T>(b >= sizeof(T) * 8 ? (a < 0 ? -1 : 0) : a >> b);
    });
}

template <class T>
void logic() {
    const std::string t = bits_suffix<T>();
    check2<T, T, T>("and" + t + " %d, %a, %b;", [](T a, T b) { return a & b; });
    check2<T, T, T>("or" + t + " %d, %a, %b;", [](T a, T b) { return a | b; });
    check2<T, T, T>("xor" + t + " %d, %a, %b;", [](T a, T b) { return a ^ b; });
    check1<T, T>("not" + t + " %d, %a;", [](T a) { return ~a; });
    check1<T, T>("cnot" + t + " %d, %a;", [](T a) { return a == 0; });
    check2<T, T, U32>("shl" + t + " %d, %a, %b;",
                      [](T a, U32 b) { return static_cast<T>(b >= sizeof(T) * 8 ? 0 : a << b); });
}

template <class T>
U32 count_leading(T a) {
    U32 n = 0;
    for (int bit = static_cast<int>(sizeof(T) * 8) - 1; bit >= 0 && !(a >> bit & 1); --bit) ++n;
    return n;
}
template <class T>
U32 count_ones(T a) {
    U32 n = 0;
    for (unsigned bit = 0; bit < sizeof(T) * 8; ++bit) n += a >> bit & 1;
    return n;
}
template <class T>
T reversed(T a) {
    T result = 0;
    for (unsigned bit = 0; bit < sizeof(T) * 8; ++bit)
        result |= (a >> bit & 1) << (sizeof(T) * 8 - 1 - bit);
    return result;
}

// Bit by bit, as the manual defines it.
template <class T>
T extract(T a, U32 b, U32 c) {
    const U32 top = sizeof(T) * 8 - 1;
    const U32 pos = b & 0xff;
    const U32 len = c & 0xff;
    bool sign = false;
    if (std::is_signed_v<T> && len != 0) sign = a >> std::min(pos + len - 1, top) & 1;
    std::make_unsigned_t<T> d = 0;
    for (U32 i = 0; i <= top; ++i) {
        const bool bit = i < len && pos + i <= top ? a >> (pos + i) & 1 : sign;
        d |= static_cast<std::make_unsigned_t<T>>(bit) << i;
    }
    return static_cast<T>(d);
}

}  // namespace

TEST(integer_arithmetic) {
    arithmetic<S16>();
    arithmetic<U16>();
    arithmetic<S32>();
    arithmetic<U32>();
    arithmetic<S64>();
    arithmetic<U64>();
}

TEST(integer_logic) {
    logic<U16>();
    logic<U32>();
    logic<U64>();
}

TEST(integer_wide_products) {
    check2<S32, S16, S16>("mul.wide.s16 %d, %a, %b;", [](S16 a, S16 b) { return S32{a} * b; });
    check2<U32, U16, U16>("mul.wide.u16 %d, %a, %b;", [](U16 a, U16 b) { return U32{a} * b; });
    check2<S64, S32, S32>("mul.wide.s32 %d, %a, %b;", [](S32 a, S32 b) { return S64{a} * b; });
    check2<U64, U32, U32>("mul.wide.u32 %d, %a, %b;", [](U32 a, U32 b) { return U64{a} * b; });
    check3<S64, S32, S32, S64>("mad.wide.s32 %d, %a, %b, %c;", [](S32 a, S32 b, S64 c) {
        return static_cast<S64>(static_cast<U64>(S64{a} * b) + static_cast<U64>(c));
    });
    check3<U64, U32, U32, U64>("mad.wide.u32 %d, %a, %b, %c;",
                               [](U32 a, U32 b, U64 c) { return U64{a} * b + c; });
    const auto cut = [](U32 a) { return a & 0xffffff; };
    const auto cut_signed = [](S32 a) { return static_cast<S32>(static_cast<U32>(a) << 8) >> 8; };
    check2<U32, U32, U32>("mul24.lo.u32 %d, %a, %b;",
                          [=](U32 a, U32 b) { return cut(a) * cut(b); });
    check2<U32, U32, U32>("mul24.hi.u32 %d, %a, %b;",
                          [=](U32 a, U32 b) { return U64{cut(a)} * cut(b) >> 16; });
    check2<S32, S32, S32>("mul24.lo.s32 %d, %a, %b;",
                          [=](S32 a, S32 b) { return S64{cut_signed(a)} * cut_signed(b); });
    check3<S32, S32, S32, S32>("mad24.lo.s32 %d, %a, %b, %c;", [=](S32 a, S32 b, S32 c) {
        return S64{cut_signed(a)} * cut_signed(b) + c;
    });
}

TEST(integer_saturation_and_high) {
    const auto clamp = [](S64 v) { return std::min<S64>(std::max<S64>(v, INT32_MIN), INT32_MAX); };
    check2<S32, S32, S32>("add.sat.s32 %d, %a, %b;",
                          [=](S32 a, S32 b) { return clamp(S64{a} + b); });
    check2<S32, S32, S32>("sub.sat.s32 %d, %a, %b;",
                          [=](S32 a, S32 b) { return clamp(S64{a} - b); });
    check3<S32, S32, S32, S32>("mad.hi.s32 %d, %a, %b, %c;", [](S32 a, S32 b, S32 c) {
        return static_cast<U32>(S64{a} * b >> 32) + static_cast<U32>(c);
    });
    check3<S32, S32, S32, S32>("mad.hi.sat.s32 %d, %a, %b, %c;",
                               [=](S32 a, S32 b, S32 c) { return clamp((S64{a} * b >> 32) + c); });
    check2<S32, S32, S32>("min.relu.s32 %d, %a, %b;",
                          [](S32 a, S32 b) { return std::max(std::min(a, b), 0); });
}

TEST(integer_carry_chains) {
    check3<U64, U64, U64, U64>(
        "{ .reg .b32 %l<4>, %h<4>; mov.b64 {%l0, %h0}, %a; mov.b64 {%l1, %h1}, %b; add.cc.u32 %l2, "
        "%l0, %l1;"
        " addc.u32 %h2, %h0, %h1; mov.b64 %d, {%l2, %h2}; }",
        [](U64 a, U64 b, U64) { return a + b; });
    check3<U64, U64, U64, U64>(
        "{ .reg .b32 %l<4>, %h<4>; mov.b64 {%l0, %h0}, %a; mov.b64 {%l1, %h1}, %b; sub.cc.u32 %l2, "
        "%l0, %l1;"
        " subc.u32 %h2, %h0, %h1; mov.b64 %d, {%l2, %h2}; }",
        [](U64 a, U64 b, U64) { return a - b; });
    // The high word of a 64 × 64 bit product plus c, from 32-bit pieces.
    check3<U64, U32, U32, U64>(
        "{ .reg .b32 %l, %h, %cl, %ch; mov.b64 {%cl, %ch}, %c; mad.lo.cc.u32 %l, %a, %b, %cl;"
        " madc.hi.u32 %h, %a, %b, %ch; mov.b64 %d, {%l, %h}; }",
        [](U32 a, U32 b, U64 c) { return U64{a} * b + c; });
    check3<U32, U64, U64, U32>("{ .reg .b64 %t; add.cc.u64 %t, %a, %b; addc.u32 %d, %c, 0; }",
                               [](U64 a, U64 b, U32 c) { return c + (a + b < a); });
    check3<U32, U64, U64, U32>("{ .reg .b64 %t; sub.cc.u64 %t, %a, %b; subc.u32 %d, %c, 0; }",
                               [](U64 a, U64 b, U32 c) { return c - (a < b); });
}

TEST(bits_counting) {
    check1<U32, U32>("popc.b32 %d, %a;", [](U32 a) { return count_ones(a); });
    check1<U32, U64>("popc.b64 %d, %a;", [](U64 a) { return count_ones(a); });
    check1<U32, U32>("clz.b32 %d, %a;", [](U32 a) { return count_leading(a); });
    check1<U32, U64>("clz.b64 %d, %a;", [](U64 a) { return count_leading(a); });
    check1<U32, U32>("brev.b32 %d, %a;", [](U32 a) { return reversed(a); });
    check1<U64, U64>("brev.b64 %d, %a;", [](U64 a) { return reversed(a); });
    check1<U32, U32>("bfind.u32 %d, %a;", [](U32 a) { return 31 - count_leading(a); });
    check1<U32, S32>("bfind.s32 %d, %a;",
                     [](S32 a) { return 31 - count_leading(static_cast<U32>(a < 0 ? ~a : a)); });
    check1<U32, U64>("bfind.u64 %d, %a;", [](U64 a) { return 63 - count_leading(a); });
    check1<U32, U32>("bfind.shiftamt.u32 %d, %a;",
                     [](U32 a) { return a == 0 ? ~0U : count_leading(a); });
    check3<U32, U32, U32, S32>("fns.b32 %d, %a, %b, %c;", [](U32 a, U32 b, S32 c) {
        if (b > 31) return ~0U;
        if (c == 0) return a >> b & 1 ? b : ~0U;
        S32 left = std::abs(static_cast<S64>(c)) > 64 ? 64 : std::abs(c);
        for (S32 at = static_cast<S32>(b); at >= 0 && at < 32; at += c > 0 ? 1 : -1)
            if ((a >> at & 1) != 0 && --left == 0) return static_cast<U32>(at);
        return ~0U;
    });
}

TEST(bits_fields) {
    check3<U32, U32, U32, U32>("bfe.u32 %d, %a, %b, %c;", extract<U32>);
    check3<S32, S32, U32, U32>("bfe.s32 %d, %a, %b, %c;", extract<S32>);
    check3<U64, U64, U32, U32>("bfe.u64 %d, %a, %b, %c;", extract<U64>);
    check3<S64, S64, U32, U32>("bfe.s64 %d, %a, %b, %c;", extract<S64>);
    for (const U32 length : {0U, 1U, 8U, 31U, 32U, 64U, 255U}) {
        const std::string n = std::to_string(length);
        const auto insert = [=](auto a, auto b, U32 c) {
            for (U32 i = 0; i < length && (c & 0xff) + i < sizeof(a) * 8; ++i) {
                const auto bit = decltype(a){1} << ((c & 0xff) + i);
                b = (b & ~bit) | ((a >> i & 1) != 0 ? bit : 0);
            }
            return b;
        };
        check3<U32, U32, U32, U32>("bfi.b32 %d, %a, %b, %c, " + n + ";",
                                   [=](U32 a, U32 b, U32 c) { return insert(a, b, c); });
        check3<U64, U64, U64, U32>("bfi.b64 %d, %a, %b, %c, " + n + ";",
                                   [=](U64 a, U64 b, U32 c) { return insert(a, b, c); });
    }
    check2<U32, U32, U32>("bmsk.clamp.b32 %d, %a, %b;", [](U32 a, U32 b) {
        a = std::min(a, 32U);
        b = std::min(b, 32U);
        return static_cast<U32>(((U64{1} << b) - 1) << a);
    });
    check2<S32, S32, U32>("szext.clamp.s32 %d, %a, %b;", [](S32 a, U32 b) {
        b = std::min(b, 32U);
        if (b == 0) return S64{0};
        return S64{a} << (64 - b) >> (64 - b);
    });
}

TEST(bits_funnel_permute_lop3) {
    const auto both = [](U32 a, U32 b) { return U64{b} << 32 | a; };
    check3<U32, U32, U32, U32>("shf.l.wrap.b32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return static_cast<U32>(both(a, b) << (c & 31) >> 32);
    });
    check3<U32, U32, U32, U32>("shf.r.wrap.b32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return static_cast<U32>(both(a, b) >> (c & 31));
    });
    check3<U32, U32, U32, U32>("shf.l.clamp.b32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return c >= 32 ? a : static_cast<U32>(both(a, b) << c >> 32);
    });
    check3<U32, U32, U32, U32>("shf.r.clamp.b32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return c >= 32 ? b : static_cast<U32>(both(a, b) >> c);
    });
    const auto pick = [](U32 a, U32 b, U32 selector) {
        const U64 bytes = U64{b} << 32 | a;
        U32 d = 0;
        for (int i = 0; i < 4; ++i) {
            const U32 s = selector >> (4 * i) & 15;
            U32 byte = bytes >> (8 * (s & 7)) & 255;
            if ((s & 8) != 0) byte = byte >= 128 ? 255 : 0;
            d |= byte << (8 * i);
        }
        return d;
    };
    check3<U32, U32, U32, U32>("prmt.b32 %d, %a, %b, %c;", pick);
    // Selectors of the modes, for c = 0 … 3, from the manual's table (most significant byte first).
    struct Mode {
        const char* name;
        U32 selectors[4];
    };
    const Mode modes[] = {
        {"f4e", {0x3210, 0x4321, 0x5432, 0x6543}}, {"b4e", {0x5670, 0x6701, 0x7012, 0x0123}},
        {"rc8", {0x0000, 0x1111, 0x2222, 0x3333}}, {"ecl", {0x3210, 0x3211, 0x3222, 0x3333}},
        {"ecr", {0x0000, 0x1110, 0x2210, 0x3210}}, {"rc16", {0x1010, 0x3232, 0x1010, 0x3232}}};
    for (const Mode& mode : modes)
        check3<U32, U32, U32, U32>(
            "prmt.b32." + std::string(mode.name) + " %d, %a, %b, %c;",
            [&](U32 a, U32 b, U32 c) { return pick(a, b, mode.selectors[c & 3]); });
    for (const U32 table : {0x80U, 0xfeU, 0x96U, 0xcaU, 0x1dU, 0U, 0xffU})
        check3<U32, U32, U32, U32>(
            "lop3.b32 %d, %a, %b, %c, " + std::to_string(table) + ";", [=](U32 a, U32 b, U32 c) {
                U32 d = 0;
                for (int i = 0; i < 32; ++i) {
                    const U32 row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                    d |= (table >> row & 1) << i;
                }
                return d;
            });
}

TEST(bits_dot_products) {
    const auto dot4 = [](auto a_type, auto b_type, U32 a, U32 b, U32 c) {
        for (int i = 0; i < 4; ++i)
            c += static_cast<U32>(S32{static_cast<decltype(a_type)>(a >> 8 * i)} *
                                  S32{static_cast<decltype(b_type)>(b >> 8 * i)});
        return c;
    };
    check3<U32, U32, U32, U32>("dp4a.u32.u32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return dot4(std::uint8_t{}, std::uint8_t{}, a, b, c);
    });
    check3<U32, U32, U32, U32>("dp4a.s32.s32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return dot4(std::int8_t{}, std::int8_t{}, a, b, c);
    });
    check3<U32, U32, U32, U32>("dp4a.s32.u32 %d, %a, %b, %c;", [=](U32 a, U32 b, U32 c) {
        return dot4(std::int8_t{}, std::uint8_t{}, a, b, c);
    });
    check3<U32, U32, U32, U32>("dp2a.lo.s32.u32 %d, %a, %b, %c;", [](U32 a, U32 b, U32 c) {
        return c + static_cast<U32>(S32{static_cast<S16>(a)} * static_cast<S32>(b & 255)) +
               static_cast<U32>(S32{static_cast<S16>(a >> 16)} * static_cast<S32>(b >> 8 & 255));
    });
    check3<U32, U32, U32, U32>("dp2a.hi.u32.u32 %d, %a, %b, %c;", [](U32 a, U32 b, U32 c) {
        return c + (a & 0xffff) * (b >> 16 & 255) + (a >> 16) * (b >> 24);
    });
}

CARREL_TEST_MAIN
