// Table-driven checks: an instruction on all combinations of edge values against a C++ function.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "device.hpp"

namespace carrel::softgpu::ptx::test {

/// Bits of an f16, bf16 or pair, which C++ has no type for.
struct Half {
    std::uint16_t bits;
};
struct Pair {
    std::uint32_t bits;
};

template <class T>
std::vector<T> edges() {
    if constexpr (std::is_same_v<T, float>) {
        return {0.0F,
                -0.0F,
                1.0F,
                -1.0F,
                0.5F,
                -2.5F,
                3.0F,
                1e-40F,
                -1e-42F,
                0x1p-126F,
                1e10F,
                -3e9F,
                16777217.0F,
                3.4e38F,
                -3.4e38F,
                65504.0F,
                1.1754942e-38F,
                0.1F,
                std::numeric_limits<float>::infinity(),
                -std::numeric_limits<float>::infinity(),
                std::numeric_limits<float>::quiet_NaN()};
    } else if constexpr (std::is_same_v<T, double>) {
        return {0.0,
                -0.0,
                1.0,
                -1.0,
                0.5,
                -2.5,
                3.0,
                5e-324,
                -1e-310,
                0x1p-1022,
                1e18,
                -9.3e18,
                1.9e19,
                2147483648.0,
                1e308,
                -1e308,
                0.1,
                1e-45,
                3.5e38,
                4294967296.5,
                std::numeric_limits<double>::infinity(),
                -std::numeric_limits<double>::infinity(),
                std::numeric_limits<double>::quiet_NaN()};
    } else if constexpr (std::is_same_v<T, Half>) {
        return {{0},      {0x8000}, {0x3c00}, {0xbc00}, {0x0001}, {0x8001}, {0x03ff},
                {0x0400}, {0x7bff}, {0xfbff}, {0x7c00}, {0xfc00}, {0x7e00}, {0x3555},
                {0x4248}, {0xc500}, {0x3f80}, {0x1234}, {0x7f7f}};
    } else if constexpr (std::is_same_v<T, Pair>) {
        return {{0},          {0x3c008000}, {0xbc003c00}, {0x00017bff},
                {0x7c00fc00}, {0x35554248}, {0x7e003c00}};
    } else {
        using L = std::numeric_limits<T>;
        std::vector<T> values{0,
                              1,
                              2,
                              3,
                              5,
                              7,
                              31,
                              32,
                              33,
                              63,
                              64,
                              100,
                              L::max(),
                              L::min(),
                              static_cast<T>(L::max() - 1),
                              static_cast<T>(L::min() + 1),
                              static_cast<T>(L::max() / 2 + 1),
                              static_cast<T>(-1),
                              static_cast<T>(-7),
                              static_cast<T>(0x5a5a5a5a5a5a5a5aULL),
                              static_cast<T>(0x8001800180018001ULL)};
        return values;
    }
}

template <class T>
bool same(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    }
    return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
std::string show(T value) {
    if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Pair>) {
        char text[16];
        std::snprintf(text, sizeof text, "0x%x", static_cast<unsigned>(value.bits));
        return text;
    } else if constexpr (std::is_floating_point_v<T>) {
        char text[40];
        std::snprintf(text, sizeof text, "%.17g (%a)", static_cast<double>(value),
                      static_cast<double>(value));
        return text;
    } else {
        return std::to_string(value);
    }
}

template <class T>
std::string register_type() {
    return ".b" + std::to_string(sizeof(T) == 1 ? 16 : sizeof(T) * 8);
}
template <class T>
std::string memory_type() {
    return ".b" + std::to_string(sizeof(T) * 8);
}

/// Runs `instruction` (which writes %d from %a, %b and %c) over all combinations and compares with
/// `reference`. Half of the runs have gaps in the active mask.
template <class D, class A, class B, class C, class Reference>
void check_all(const std::string& instruction, const std::vector<A>& as, const std::vector<B>& bs,
               const std::vector<C>& cs, Reference reference, bool (*equal)(D, D) = &same<D>) {
    std::vector<A> a;
    std::vector<B> b;
    std::vector<C> c;
    for (const A& x : as)
        for (const B& y : bs)
            for (const C& z : cs) {
                a.push_back(x);
                b.push_back(y);
                c.push_back(z);
            }
    const std::size_t count = a.size();
    std::string body = "{\n.reg .b64 %at;\n.reg .b32 %odd;\n.reg .pred %skip, %gap;\n";
    body += ".reg " + register_type<D>() + " %d;\n.reg " + register_type<A>() + " %a;\n.reg " +
            register_type<B>() + " %b;\n.reg " + register_type<C>() + " %c;\n";
    body += "setp.ge.u32 %skip, %i, " + std::to_string(count) + ";\n@%skip bra END;\n";
    const auto load = [&](const char* name, const char* from, std::size_t size,
                          const std::string& type) {
        body += "mad.lo.u64 %at, %i64, " + std::to_string(size) + ", " + from + ";\nld.global" +
                type + " " + name + ", [%at];\n";
    };
    load("%a", "%p0", sizeof(A), memory_type<A>());
    load("%b", "%p1", sizeof(B), memory_type<B>());
    load("%c", "%p2", sizeof(C), memory_type<C>());
    // The same instruction twice: for even and for odd lanes, so that it runs under a partial mask
    // as well.
    body += "and.b32 %odd, %b32block, 1;\nsetp.eq.u32 %gap, %odd, 1;\n@%gap bra PARTIAL;\n";
    body +=
        instruction + "\nbra STORE;\nPARTIAL:\nand.b32 %odd, %i, 1;\nsetp.eq.u32 %gap, %odd, 1;\n";
    body += "@%gap bra ODD;\n" + instruction + "\nbra STORE;\nODD:\n" + instruction + "\nSTORE:\n";
    body += "mad.lo.u64 %at, %i64, " + std::to_string(sizeof(D)) + ", %p3;\nst.global" +
            memory_type<D>() + " [%at], %d;\nEND:\n}\n";
    body = "{\n.reg .b32 %b32block;\nmov.u32 %b32block, %ctaid.x;\n" + body + "}\n";
    try {
        Device device;
        const std::uint64_t out = device.put(std::vector<D>(count));
        const unsigned blocks = static_cast<unsigned>((count + 63) / 64);
        device.run(kernel(4, body), threads(64, blocks),
                   {device.put(a), device.put(b), device.put(c), out});
        const std::vector<D> got = device.get<D>(out, count);
        unsigned wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const D want = reference(a[i], b[i], c[i]);
            if (equal(got[i], want)) continue;
            if (++wrong > 3) break;
            carrel::test::fail(__FILE__, __LINE__, instruction.c_str());
            std::cerr << "    a = " << show(a[i]) << ", b = " << show(b[i])
                      << ", c = " << show(c[i]) << "\n    got " << show(got[i]) << ", want "
                      << show(want) << '\n';
        }
    } catch (const std::exception& error) {
        carrel::test::fail(__FILE__, __LINE__, instruction.c_str());
        std::cerr << "    " << error.what() << '\n';
    }
}

template <class D, class A, class Reference>
void check1(const std::string& instruction, Reference reference) {
    const std::vector<std::uint32_t> one{0};
    check_all<D, A, std::uint32_t, std::uint32_t>(
        instruction, edges<A>(), one, one,
        [&](A a, std::uint32_t, std::uint32_t) -> D { return static_cast<D>(reference(a)); });
}
template <class D, class A, class B, class Reference>
void check2(const std::string& instruction, Reference reference) {
    const std::vector<std::uint32_t> one{0};
    check_all<D, A, B, std::uint32_t>(
        instruction, edges<A>(), edges<B>(), one,
        [&](A a, B b, std::uint32_t) -> D { return static_cast<D>(reference(a, b)); });
}
template <class D, class A, class B, class C, class Reference>
void check3(const std::string& instruction, Reference reference) {
    check_all<D, A, B, C>(instruction, edges<A>(), edges<B>(), edges<C>(),
                          [&](A a, B b, C c) -> D { return static_cast<D>(reference(a, b, c)); });
}

}  // namespace carrel::softgpu::ptx::test
