// Special registers, by name; those that change by themselves; and places known only when a frame
// runs.
#include <chrono>
#include <unordered_map>

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

const std::unordered_map<std::string_view, std::uint32_t>& special_places() {
    static const std::unordered_map<std::string_view, std::uint32_t> places{
        {"%tid.x", kTidX},
        {"%tid.y", kTidY},
        {"%tid.z", kTidZ},
        {"%tid.w", kTidW},
        {"%ntid.x", kNtidX},
        {"%ntid.y", kNtidY},
        {"%ntid.z", kNtidZ},
        {"%ntid.w", kNtidW},
        {"%ctaid.x", kCtaidX},
        {"%ctaid.y", kCtaidY},
        {"%ctaid.z", kCtaidZ},
        {"%ctaid.w", kCtaidW},
        {"%nctaid.x", kNctaidX},
        {"%nctaid.y", kNctaidY},
        {"%nctaid.z", kNctaidZ},
        {"%nctaid.w", kNctaidW},
        {"%laneid", kLaneId},
        {"%warpid", kWarpId},
        {"%nwarpid", kNWarpId},
        {"%smid", kSmId},
        {"%nsmid", kNSmId},
        {"%lanemask_eq", kLanemaskEq},
        {"%lanemask_le", kLanemaskLe},
        {"%lanemask_lt", kLanemaskLt},
        {"%lanemask_ge", kLanemaskGe},
        {"%lanemask_gt", kLanemaskGt},
        {"%dynamic_smem_size", kDynamicSharedSize},
        {"%total_smem_size", kTotalSharedSize},
        {"%aggr_smem_size", kTotalSharedSize},
        {"%envreg1", kEnvreg1},
        {"%envreg2", kEnvreg2},
        {"%gridid", kGridId64},
        // A cluster is one block here.
        {"%clusterid.x", kCtaidX},
        {"%clusterid.y", kCtaidY},
        {"%clusterid.z", kCtaidZ},
        {"%nclusterid.x", kNctaidX},
        {"%nclusterid.y", kNctaidY},
        {"%nclusterid.z", kNctaidZ},
        {"%cluster_ctaid.x", kZero},
        {"%cluster_ctaid.y", kZero},
        {"%cluster_ctaid.z", kZero},
        {"%cluster_nctaid.x", kOne},
        {"%cluster_nctaid.y", kOne},
        {"%cluster_nctaid.z", kOne},
        {"%cluster_ctarank", kZero},
        {"%cluster_nctarank", kOne},
    };
    return places;
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

std::uint32_t Decoder::special(std::string_view name, Type type) {
    const unsigned width = width_of(type);
    const auto found = special_places().find(name);
    if (found != special_places().end()) {
        const unsigned own = found->second == kGridId64 ? 8 : 4;
        return resized(special_operand(found->second), own, width, false);
    }
    if (name.starts_with("%envreg") || name.starts_with("%pm") || name == "%is_explicit_cluster" ||
        name.starts_with("%reserved_smem"))
        return resized(special_operand(kZero), 4, width, false);
    Inst read;
    unsigned own = 8;
    if (name == "%clock64") {
        read.run = &read_clock64;
    } else if (name == "%globaltimer") {
        read.run = &read_globaltimer;
    } else {
        own = 4;
        if (name == "%clock" || name == "%clock_lo")
            read.run = &read_clock32;
        else if (name == "%clock_hi")
            read.run = &read_clock_hi;
        else if (name == "%globaltimer_lo")
            read.run = &read_globaltimer_lo;
        else if (name == "%globaltimer_hi")
            read.run = &read_globaltimer_hi;
        else
            fail("Unknown symbol '" + std::string(name) + "'");
    }
    read.d = temporary(own);
    read.flags |= kSpinHint;
    emit_before(read);
    return resized(read.d, own, width, false);
}

}  // namespace carrel::softgpu::ptx
