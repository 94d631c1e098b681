// Loops over the lanes of a warp, from which most handlers are made. An operation is a struct with
// a static `apply`; `handler<map2<…>>`-like helpers give the loop for this machine: each loop
// exists twice, for any x86-64 and for one with AVX2, FMA and F16C, and the choice is made once,
// when code is decoded.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "softgpu/ptx/warp.hpp"

#if defined(__clang__)
#define CARREL_INDEPENDENT_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define CARREL_INDEPENDENT_LANES _Pragma("GCC ivdep")
#endif

#if defined(__x86_64__)
#define CARREL_WIDE [[gnu::target("avx2,fma,f16c,bmi,bmi2")]]
#else
#define CARREL_WIDE
#endif
#define CARREL_INLINE [[gnu::always_inline]] static inline

namespace carrel::softgpu::ptx {

inline bool machine_is_wide() {
#if defined(__x86_64__)
    static const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    return wide;
#else
    return false;
#endif
}

/// Calls `body(lane)` for every lane in the mask; with all lanes the compiler may vectorise.
template <class Body>
[[gnu::always_inline]] inline void each_lane(std::uint32_t mask, Body body) {
    if (mask == kAllLanes) {
        CARREL_INDEPENDENT_LANES
        for (unsigned lane = 0; lane < kLanes; ++lane) body(lane);
        return;
    }
    for (std::uint32_t left = mask; left != 0; left &= left - 1)
        body(static_cast<unsigned>(std::countr_zero(left)));
}

template <class D, class A, class Op>
[[gnu::always_inline]] inline void map1_body(Warp& w, const Inst& in, std::uint32_t mask) {
    D* d = lanes_of<D>(w, in.d);
    const A* a = lanes_of<A>(w, in.a);
    each_lane(mask, [=](unsigned l) __attribute__((always_inline)) { d[l] = Op::apply(a[l]); });
}
template <class D, class A, class B, class Op>
[[gnu::always_inline]] inline void map2_body(Warp& w, const Inst& in, std::uint32_t mask) {
    D* d = lanes_of<D>(w, in.d);
    const A* a = lanes_of<A>(w, in.a);
    const B* b = lanes_of<B>(w, in.b);
    each_lane(mask,
              [=](unsigned l) __attribute__((always_inline)) { d[l] = Op::apply(a[l], b[l]); });
}
template <class D, class A, class B, class C, class Op>
[[gnu::always_inline]] inline void map3_body(Warp& w, const Inst& in, std::uint32_t mask) {
    D* d = lanes_of<D>(w, in.d);
    const A* a = lanes_of<A>(w, in.a);
    const B* b = lanes_of<B>(w, in.b);
    const C* c = lanes_of<C>(w, in.c);
    each_lane(mask, [=](unsigned l)
                        __attribute__((always_inline)) { d[l] = Op::apply(a[l], b[l], c[l]); });
}

template <class D, class A, class Op>
void map1_any(Warp& w, const Inst& in, std::uint32_t mask) {
    map1_body<D, A, Op>(w, in, mask);
}
template <class D, class A, class Op>
CARREL_WIDE void map1_wide(Warp& w, const Inst& in, std::uint32_t mask) {
    map1_body<D, A, Op>(w, in, mask);
}
template <class D, class A, class B, class Op>
void map2_any(Warp& w, const Inst& in, std::uint32_t mask) {
    map2_body<D, A, B, Op>(w, in, mask);
}
template <class D, class A, class B, class Op>
CARREL_WIDE void map2_wide(Warp& w, const Inst& in, std::uint32_t mask) {
    map2_body<D, A, B, Op>(w, in, mask);
}
template <class D, class A, class B, class C, class Op>
void map3_any(Warp& w, const Inst& in, std::uint32_t mask) {
    map3_body<D, A, B, C, Op>(w, in, mask);
}
template <class D, class A, class B, class C, class Op>
CARREL_WIDE void map3_wide(Warp& w, const Inst& in, std::uint32_t mask) {
    map3_body<D, A, B, C, Op>(w, in, mask);
}

/// Handlers d = op(a), d = op(a, b), d = op(a, b, c). Names: destination type first, then sources.
template <class D, class A, class Op>
Handler map1() {
    return machine_is_wide() ? &map1_wide<D, A, Op> : &map1_any<D, A, Op>;
}
template <class D, class A, class B, class Op>
Handler map2() {
    return machine_is_wide() ? &map2_wide<D, A, B, Op> : &map2_any<D, A, B, Op>;
}
template <class D, class A, class B, class C, class Op>
Handler map3() {
    return machine_is_wide() ? &map3_wide<D, A, B, C, Op> : &map3_any<D, A, B, C, Op>;
}

/// Bits of the lanes in `mask` for which `test(lane)` is true. `test` is called for all lanes and
/// must not mind.
template <class Test>
[[gnu::always_inline]] inline std::uint32_t lanes_where(std::uint32_t mask, Test test) {
    alignas(32) std::uint8_t flags[kLanes];
    CARREL_INDEPENDENT_LANES
    for (unsigned lane = 0; lane < kLanes; ++lane) flags[lane] = test(lane) ? 1 : 0;
    std::uint32_t result = 0;
    for (unsigned group = 0; group < kLanes / 8; ++group) {
        std::uint64_t eight;
        std::memcpy(&eight, flags + group * 8, 8);
        // Gathers the low bits of eight bytes into one byte.
        result |= static_cast<std::uint32_t>((eight * 0x0102040810204080ULL) >> 56) << (group * 8);
    }
    return result & mask;
}

/// Writes the bits of the lanes in `mask`, leaving the others as they are.
inline void set_predicate(std::uint32_t& predicate, std::uint32_t mask, std::uint32_t value) {
    predicate = (predicate & ~mask) | (value & mask);
}

}  // namespace carrel::softgpu::ptx
