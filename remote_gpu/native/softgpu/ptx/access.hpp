// From an address in some state space to host memory, or a Fault: the only way handlers reach
// memory.
#pragma once

#include <cstring>

#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {

[[noreturn]] void misaligned(std::uint64_t address, unsigned bytes, unsigned lane);
[[noreturn]] void illegal(const char* space, std::uint64_t address, unsigned bytes, unsigned lane);

[[gnu::always_inline]] inline std::byte* global_place(Warp& w, std::uint64_t address,
                                                      unsigned bytes, unsigned lane) {
    if (address % bytes != 0) [[unlikely]]
        misaligned(address, bytes, lane);
    if (!w.memory->mapped(address)) [[unlikely]]
        illegal("global", address, bytes, lane);
    return reinterpret_cast<std::byte*>(address);
}

[[gnu::always_inline]] inline std::byte* shared_place(Warp& w, std::uint64_t address,
                                                      unsigned bytes, unsigned lane) {
    if (address % bytes != 0) [[unlikely]]
        misaligned(address, bytes, lane);
    if (address > w.shared_bytes || w.shared_bytes - address < bytes) [[unlikely]]
        illegal("shared", address, bytes, lane);
    return w.shared + address;
}

[[gnu::always_inline]] inline std::byte* local_place(Warp& w, std::uint64_t address, unsigned bytes,
                                                     unsigned lane) {
    if (address % bytes != 0) [[unlikely]]
        misaligned(address, bytes, lane);
    if (address > w.local_stride || w.local_stride - address < bytes) [[unlikely]]
        illegal("local", address, bytes, lane);
    return w.local.data() + std::size_t{lane} * w.local_stride + address;
}

/// Any address as `ld` without a state space sees it.
std::byte* generic_place_elsewhere(Warp& w, std::uint64_t address, unsigned bytes, unsigned lane,
                                   bool write);

[[gnu::always_inline]] inline std::byte* generic_place(Warp& w, std::uint64_t address,
                                                       unsigned bytes, unsigned lane, bool write) {
    if (address >> kWindowShift == 0) return global_place(w, address, bytes, lane);
    return generic_place_elsewhere(w, address, bytes, lane, write);
}

template <StateSpace S>
[[gnu::always_inline]] inline std::byte* place(Warp& w, std::uint64_t address, unsigned bytes,
                                               unsigned lane, bool write) {
    if constexpr (S == StateSpace::global)
        return global_place(w, address, bytes, lane);
    else if constexpr (S == StateSpace::shared)
        return shared_place(w, address, bytes, lane);
    else if constexpr (S == StateSpace::local)
        return local_place(w, address, bytes, lane);
    else
        return generic_place(w, address, bytes, lane, write);
}

/// The same with the space as a value.
inline std::byte* place_in(Warp& w, StateSpace space, std::uint64_t address, unsigned bytes,
                           unsigned lane, bool write) {
    switch (space) {
        case StateSpace::shared:
            return shared_place(w, address, bytes, lane);
        case StateSpace::local:
            return local_place(w, address, bytes, lane);
        case StateSpace::global:
            return global_place(w, address, bytes, lane);
        default:
            return generic_place(w, address, bytes, lane, write);
    }
}

/// The addresses of all 32 lanes: register plus offset.
[[gnu::always_inline]] inline void lane_addresses(Warp& w, const Inst& in, std::uint64_t* out) {
    const auto offset = static_cast<std::uint64_t>(in.imm);
    if ((in.flags & kAddress32) != 0) {
        const std::uint32_t* base = lanes_of<std::uint32_t>(w, in.a);
        const auto offset32 = static_cast<std::uint32_t>(offset);
        for (unsigned l = 0; l < kLanes; ++l)
            out[l] = static_cast<std::uint32_t>(base[l] + offset32);
    } else {
        const std::uint64_t* base = lanes_of<std::uint64_t>(w, in.a);
        for (unsigned l = 0; l < kLanes; ++l) out[l] = base[l] + offset;
    }
}

}  // namespace carrel::softgpu::ptx
