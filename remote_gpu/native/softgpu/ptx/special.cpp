// Registers that change by themselves, and places known only when a frame runs.
#include <chrono>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {
namespace {

std::uint64_t nanoseconds() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::steady_clock::now().time_since_epoch())
                                          .count());
}

std::uint64_t wall_nanoseconds() {
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                          std::chrono::system_clock::now().time_since_epoch())
                                          .count());
}

template <class T>
void broadcast(Warp& w, const Inst& in, std::uint32_t mask, std::uint64_t value) {
    T* d = lanes_of<T>(w, in.d);
    each_lane(mask, [=](unsigned lane) { d[lane] = static_cast<T>(value); });
    w.spin_hint();  // loops that read clocks usually wait for something
}

}  // namespace

// The clock counts nanoseconds: a clock of 1 GHz.
void read_clock32(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint32_t>(w, in, mask, nanoseconds());
}
void read_clock_hi(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint32_t>(w, in, mask, nanoseconds() >> 32);
}
void read_clock64(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint64_t>(w, in, mask, nanoseconds());
}
void read_globaltimer(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint64_t>(w, in, mask, wall_nanoseconds());
}
void read_globaltimer_lo(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint32_t>(w, in, mask, wall_nanoseconds());
}
void read_globaltimer_hi(Warp& w, const Inst& in, std::uint32_t mask) {
    broadcast<std::uint32_t>(w, in, mask, wall_nanoseconds() >> 32);
}

void local_address32(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    const std::uint32_t value = w.frame->local_base + static_cast<std::uint32_t>(in.imm);
    each_lane(mask, [=](unsigned lane) { d[lane] = value; });
}

void local_address64(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t* d = lanes_of<std::uint64_t>(w, in.d);
    const std::uint64_t value = w.frame->local_base + static_cast<std::uint64_t>(in.imm);
    each_lane(mask, [=](unsigned lane) { d[lane] = value; });
}

}  // namespace carrel::softgpu::ptx
