// A block: its warps' turns, its barriers, and the frames it runs in.
#include <algorithm>
#include <bit>
#include <cstring>

#include "softgpu/ptx/warp.hpp"

namespace carrel::softgpu::ptx {

Frame* FramePool::take(const FunctionCode& function) {
    auto known = std::find_if(free_.begin(), free_.end(),
                              [&](const auto& each) { return each.first == &function; });
    if (known == free_.end()) {
        free_.emplace_back(&function, std::vector<Frame*>());
        known = free_.end() - 1;
    }
    Frame* frame = nullptr;
    if (known->second.empty()) {
        all_.push_back(std::make_unique<Frame>());
        frame = all_.back().get();
        frame->function = &function;
        frame->storage.resize(function.frame_bytes + std::size_t{function.param_bytes} * kLanes);
        frame->registers = frame->storage.data();
        frame->parameters = frame->storage.data() + function.frame_bytes;
    } else {
        frame = known->second.back();
        known->second.pop_back();
        std::memset(frame->storage.data(), 0, frame->storage.size());
    }
    return frame;
}

void FramePool::give(Frame* frame) {
    const auto known = std::find_if(free_.begin(), free_.end(), [&](const auto& each) {
        return each.first == frame->function;
    });
    known->second.push_back(frame);
}

void FramePool::recycle() {
    for (auto& each : free_) each.second.clear();
    for (const auto& frame : all_) give(frame.get());
}

void Block::start(Grid& owner, std::uint64_t linear_index, FramePool& pool, std::uint32_t sm) {
    grid = &owner;
    frames = &pool;
    smid = sm;
    const Dim3& dims = owner.launch.grid;
    id.x = static_cast<unsigned>(linear_index % dims.x);
    id.y = static_cast<unsigned>(linear_index / dims.x % dims.y);
    id.z = static_cast<unsigned>(linear_index / dims.x / dims.y);
    shared_storage.assign(owner.shared_bytes, std::byte{0});
    shared = shared_storage.data();
    live_threads = owner.threads_per_block;
    const std::size_t count = (owner.threads_per_block + kLanes - 1) / kLanes;
    warps.resize(count);
    for (Barrier& barrier : barriers) barrier = Barrier{};
    for (std::size_t i = 0; i < count; ++i) {
        running = &warps[i];
        warps[i].start(*this, static_cast<std::uint32_t>(i));
    }
}

Block::Progress Block::run_slice(std::uint64_t quantum) {
    bool ran = false;
    bool left = false;
    bool for_grid = false;
    for (Warp& warp : warps) {
        if (warp.finished()) continue;
        left = true;
        if (!warp.runnable()) {
            for_grid |= warp.waits_for_grid();
            continue;
        }
        running = &warp;
        warp.run(quantum);
        ran = true;
    }
    if (!left) return Progress::finished;
    if (ran) return Progress::running;
    if (for_grid) return Progress::waiting_for_grid;
    bool forced = false;
    for (Warp& warp : warps) forced |= warp.force_warp_sync();
    if (!forced)
        throw Fault(
            Status::trap,
            "deadlock: all threads of the block wait at barriers that not all of them reach");
    return Progress::running;
}

void Block::check_barrier(unsigned index) {
    Barrier& barrier = barriers[index];
    std::uint64_t arrived = 0;
    for (std::size_t i = 0; i < warps.size(); ++i) {
        const std::uint32_t here = barrier.arrived[i] & warps[i].live;
        if (barrier.arrived[i] == 0) continue;
        // With a thread count, warps count whole: their missing lanes have exited or never were.
        const bool whole = barrier.expected != 0 && here == warps[i].live;
        arrived += whole ? kLanes : static_cast<unsigned>(std::popcount(here));
    }
    if (arrived < (barrier.expected != 0 ? barrier.expected : live_threads)) return;
    const std::uint32_t popc = barrier.votes;
    const bool all = barrier.votes == barrier.voters;
    const bool any = barrier.votes != 0;
    barrier = Barrier{};
    for (Warp& warp : warps) warp.release_barrier(index, popc, all, any);
}

}  // namespace carrel::softgpu::ptx
