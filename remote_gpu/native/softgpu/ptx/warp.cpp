// The warp's scheduler: which lanes run, in lockstep, at which instruction.
#include "softgpu/ptx/warp.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {
namespace {

// After so many backward branches (64 times fewer with atomics or volatile loads in the loop) other
// fragments of the warp get a turn: they may hold what the running one waits for.
constexpr std::uint32_t kSpinLimit = 16384;
constexpr std::uint32_t kMaxCallDepth = 4096;

}  // namespace

void Warp::use_frame(Frame* next) {
    frame = next;
    code = next->function->code.data();
    base[kFrame] = next->registers;
    base[kPool] = const_cast<std::byte*>(next->function->pool.data());
}

bool Warp::runnable() const {
    if (mask != 0) return true;
    return std::any_of(waiting_.begin(), waiting_.end(), [this](const Fragment& each) {
        return each.state == Fragment::State::ready ||
               (each.state == Fragment::State::at_grid_sync &&
                each.generation != grid->grid_generation.load(std::memory_order_acquire));
    });
}

bool Warp::waits_for_grid() const {
    return std::any_of(waiting_.begin(), waiting_.end(), [](const Fragment& each) {
        return each.state == Fragment::State::at_grid_sync;
    });
}

void Warp::merge(Fragment fragment) {
    if (fragment.mask == 0) return;
    if (fragment.state == Fragment::State::ready) {
        for (Fragment& other : waiting_) {
            if (other.state == Fragment::State::ready && other.frame == fragment.frame &&
                other.pc == fragment.pc) {
                other.mask |= fragment.mask;
                other.stamp = std::min(other.stamp, fragment.stamp);
                return;
            }
        }
    }
    waiting_.push_back(fragment);
}

void Warp::add_fragment(std::uint32_t lanes, std::uint32_t at, Frame* in) {
    Fragment fragment;
    fragment.mask = lanes;
    fragment.pc = at;
    fragment.frame = in;
    fragment.stamp = turn;
    merge(fragment);
}

void Warp::wait_at_barrier(std::uint32_t lanes, std::uint32_t at, Frame* in,
                           std::uint32_t barrier) {
    Fragment fragment;
    fragment.state = Fragment::State::at_barrier;
    fragment.barrier = static_cast<std::uint8_t>(barrier);
    fragment.mask = lanes;
    fragment.pc = at;
    fragment.frame = in;
    fragment.stamp = turn;
    waiting_.push_back(fragment);
}

void Warp::wait_for_grid(std::uint32_t lanes, std::uint32_t at, Frame* in) {
    Fragment fragment;
    fragment.state = Fragment::State::at_grid_sync;
    fragment.mask = lanes;
    fragment.pc = at;
    fragment.frame = in;
    fragment.stamp = turn;
    fragment.generation = grid->grid_generation.load(std::memory_order_acquire);
    waiting_.push_back(fragment);
    const std::uint64_t threads = grid->blocks * grid->threads_per_block;
    const auto arriving = static_cast<std::uint64_t>(std::popcount(lanes));
    if (grid->grid_arrived.fetch_add(arriving, std::memory_order_acq_rel) + arriving == threads) {
        grid->grid_arrived.store(0, std::memory_order_relaxed);
        grid->grid_generation.fetch_add(1, std::memory_order_release);
    }
}

void Warp::suspend(std::uint32_t lanes) {
    add_fragment(mask & ~lanes, pc + 1, frame);
    mask = 0;
}

// Makes a waiting fragment the running one: the deepest call first, then the lowest program
// counter, so that lanes meet again where their paths join; after long spinning, the one that has
// not run for longest.
bool Warp::pick() {
    std::size_t chosen = waiting_.size();
    bool held_by_barrier = false;
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
        Fragment& each = waiting_[i];
        if (each.state == Fragment::State::at_grid_sync &&
            each.generation != grid->grid_generation.load(std::memory_order_acquire))
            each.state = Fragment::State::ready;
        if (each.state != Fragment::State::ready) {
            held_by_barrier |= each.state != Fragment::State::at_warp_sync;
            continue;
        }
        if (chosen == waiting_.size()) {
            chosen = i;
            continue;
        }
        const Fragment& best = waiting_[chosen];
        const bool better = rotate_ ? each.stamp < best.stamp
                            : each.frame->depth != best.frame->depth
                                ? each.frame->depth > best.frame->depth
                                : each.pc < best.pc;
        if (better) chosen = i;
    }
    rotate_ = false;
    if (chosen == waiting_.size()) {
        if (held_by_barrier || !force_warp_sync()) return false;
        return pick();
    }
    mask = waiting_[chosen].mask;
    pc = waiting_[chosen].pc;
    use_frame(waiting_[chosen].frame);
    limit_ = UINT32_MAX;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
        Fragment& each = waiting_[i];
        if (i == chosen) continue;
        const bool may_join = each.frame == frame && (each.state == Fragment::State::ready ||
                                                      each.state == Fragment::State::at_warp_sync);
        if (may_join && each.pc == pc) {
            mask |= each.mask;
            continue;
        }
        if (may_join && each.pc > pc) limit_ = std::min(limit_, each.pc);
        if (kept != i) waiting_[kept] = each;
        ++kept;
    }
    waiting_.resize(kept);
    return true;
}

void Warp::run(std::uint64_t quantum) {
    ++turn;
    while (quantum > 0) {
        if (mask == 0 && !pick()) return;
        execute(quantum);
    }
}

void Warp::execute(std::uint64_t& quantum) {
    while (quantum > 0) {
        if (pc >= limit_) {
            add_fragment(mask, pc, frame);
            mask = 0;
            return;
        }
        const Inst& inst = code[pc];
        --quantum;
        std::uint32_t active = mask;
        if (inst.guard != kNoOperand) {
            const std::uint32_t predicate = predicate_of(*this, inst.guard);
            active &= inst.guard_negated ? ~predicate : predicate;
            if (active == 0) {
                ++pc;
                continue;
            }
        }
        executed += static_cast<std::uint64_t>(std::popcount(active));
        switch (inst.control) {
            case Control::plain:
                inst.run(*this, inst, active);
                ++pc;
                break;
            case Control::branch:
                branch(inst, active);
                if (mask == 0) return;
                break;
            case Control::warp_sync:
                if (!warp_sync_ready(inst, active)) return;
                inst.run(*this, inst, active);
                ++pc;
                break;
            case Control::flow:
                inst.run(*this, inst, active);
                return;
        }
    }
}

void Warp::branch(const Inst& inst, std::uint32_t lanes) {
    const std::uint32_t target = inst.aux;
    if (target <= pc && !waiting_.empty() && ++spins >= kSpinLimit) {
        spins = 0;
        rotate_ = true;
        ++turn;
        add_fragment(lanes, target, frame);
        suspend(lanes);
        return;
    }
    if (lanes == mask) {
        pc = target;
        return;
    }
    const std::uint32_t low = std::min(target, pc + 1);
    const std::uint32_t high = std::max(target, pc + 1);
    if (low == high) {
        pc = low;
        return;
    }
    const bool taken_is_low = target == low;
    add_fragment(taken_is_low ? mask & ~lanes : lanes, high, frame);
    mask = taken_is_low ? lanes : mask & ~lanes;
    pc = low;
    limit_ = std::min(limit_, high);
}

bool Warp::warp_sync_ready(const Inst& inst, std::uint32_t lanes) {
    if ((forced_ & lanes) == lanes) {
        forced_ &= ~lanes;
        return true;
    }
    std::uint32_t members = kAllLanes;
    if (inst.c != kNoOperand) {
        const std::uint32_t* named = lanes_of<std::uint32_t>(*this, inst.c);
        members = 0;
        each_lane(lanes, [&](unsigned lane) { members |= named[lane]; });
    }
    const std::uint32_t needed = members & live;
    if ((needed & ~lanes) == 0) return true;
    std::uint32_t here = lanes;
    for (const Fragment& each : waiting_)
        if (each.state == Fragment::State::at_warp_sync) here |= each.mask;
    Fragment fragment;
    fragment.mask = lanes;
    fragment.pc = pc;
    fragment.frame = frame;
    fragment.state = Fragment::State::at_warp_sync;
    fragment.members = needed;
    fragment.stamp = turn;
    suspend(lanes);
    waiting_.push_back(fragment);
    // All have come, by different ways: let each go through by itself.
    if ((needed & ~here) == 0) force_warp_sync();
    return false;
}

bool Warp::force_warp_sync() {
    bool any = false;
    for (Fragment& each : waiting_) {
        if (each.state != Fragment::State::at_warp_sync) continue;
        each.state = Fragment::State::ready;
        forced_ |= each.mask;
        any = true;
    }
    return any;
}

void Warp::release_barrier(unsigned barrier, std::uint32_t popc, bool all, bool any) {
    std::vector<Fragment> freed;
    std::size_t kept = 0;
    for (Fragment& each : waiting_) {
        if (each.state == Fragment::State::at_barrier && each.barrier == barrier)
            freed.push_back(each);
        else
            waiting_[kept++] = each;
    }
    waiting_.resize(kept);
    for (Fragment& each : freed) {
        const Inst& inst = each.frame->function->code[each.pc];
        if (inst.d != kNoOperand) {  // bar.red: imm says which
            std::byte* place = each.frame->registers + (inst.d & ~std::uint32_t{3});
            if (inst.imm == 1) {
                auto* values = reinterpret_cast<std::uint32_t*>(place);
                each_lane(each.mask, [=](unsigned lane) { values[lane] = popc; });
            } else {
                const bool value = inst.imm == 2 ? all : any;
                set_predicate(*reinterpret_cast<std::uint32_t*>(place), each.mask,
                              value ? kAllLanes : 0);
            }
        }
        each.state = Fragment::State::ready;
        ++each.pc;
        merge(each);
    }
}

void Warp::reserve_local(std::uint32_t bytes) {
    if (bytes <= local_stride) return;
    const std::uint32_t stride = std::max(bytes, local_stride * 2);
    AlignedBytes grown(std::size_t{stride} * kLanes);
    for (unsigned lane = 0; lane < kLanes && local_stride != 0; ++lane)
        std::memcpy(grown.data() + std::size_t{lane} * stride,
                    local.data() + std::size_t{lane} * local_stride, local_stride);
    local = std::move(grown);
    local_stride = stride;
}

namespace {

std::byte* place_of(const Transfer& transfer, Frame& frame, const std::array<std::byte*, 4>& base,
                    unsigned lane) {
    if (!transfer.from_register)
        return frame.parameters + std::size_t{lane} * frame.function->param_bytes + transfer.place;
    std::byte* start = (transfer.place & 3) == kFrame ? frame.registers : base[transfer.place & 3];
    return start + (transfer.place & ~std::uint32_t{3}) + std::size_t{lane} * transfer.bytes;
}

void copy_values(const std::vector<Transfer>& from, Frame& source,
                 const std::array<std::byte*, 4>& base, const std::vector<Transfer>& to,
                 Frame& target, std::uint32_t lanes) {
    const std::size_t count = std::min(from.size(), to.size());
    for (std::size_t i = 0; i < count; ++i) {
        if (from[i].is_predicate || to[i].is_predicate) {
            if (!from[i].is_predicate || !to[i].is_predicate)
                throw Fault(Status::illegal_instruction, "a call passes a predicate as a number");
            const auto value = *reinterpret_cast<std::uint32_t*>(
                ((from[i].place & 3) == kFrame ? source.registers : base[from[i].place & 3]) +
                (from[i].place & ~std::uint32_t{3}));
            set_predicate(*reinterpret_cast<std::uint32_t*>(target.registers + to[i].place), lanes,
                          value);
            continue;
        }
        const std::size_t bytes = std::min(from[i].bytes, to[i].bytes);
        each_lane(lanes, [&](unsigned lane) {
            std::memcpy(place_of(to[i], target, base, lane), place_of(from[i], source, base, lane),
                        bytes);
        });
    }
}

}  // namespace

void Warp::enter(const FunctionCode& callee, const CallSite& call, std::uint32_t lanes) {
    const std::uint64_t local_end =
        std::uint64_t{frame->local_base} + frame->function->local_bytes + callee.local_bytes;
    if (local_end > grid->environment->stack_bytes || frame->depth >= kMaxCallDepth)
        throw Fault(Status::stack_overflow, "stack overflow: calls are nested too deeply");
    // A result that the callee does not give is left as it is: compilers may declare a C function
    // of another file so, and nothing of theirs checks it.
    if (call.arguments.size() < callee.parameters.size())
        throw Fault(Status::illegal_instruction,
                    "call of '" + callee.name + "' with arguments that do not fit it");
    reserve_local(static_cast<std::uint32_t>(local_end));
    Frame* next = block->frames->take(callee);
    next->parent = frame;
    next->call = &call;
    next->return_pc = pc + 1;
    next->depth = frame->depth + 1;
    next->lanes = lanes;
    next->local_base = frame->local_base + frame->function->local_bytes;
    copy_values(call.arguments, *frame, base, callee.parameters, *next, lanes);
    suspend(lanes);
    add_fragment(lanes, 0, next);
}

void Warp::leave(std::uint32_t lanes) {
    Frame* done = frame;
    if (done->parent == nullptr) return exit_lanes(lanes);
    copy_values(done->function->results, *done, base, done->call->results, *done->parent, lanes);
    suspend(lanes);
    add_fragment(lanes, done->return_pc, done->parent);
    done->lanes &= ~lanes;
    if (done->lanes == 0) block->frames->give(done);
}

void Warp::exit_lanes(std::uint32_t lanes) {
    Frame* inner = frame;
    suspend(lanes);
    live &= ~lanes;
    for (Frame* each = inner; each != nullptr;) {
        Frame* parent = each->parent;
        each->lanes &= ~lanes;
        if (each->lanes == 0) block->frames->give(each);
        each = parent;
    }
    block->live_threads -= static_cast<std::uint32_t>(std::popcount(lanes));
    for (unsigned barrier = 0; barrier < block->barriers.size(); ++barrier)
        if (block->barriers[barrier].open) block->check_barrier(barrier);
}

void Warp::start(Block& owner, std::uint32_t warp_index) {
    block = &owner;
    grid = owner.grid;
    index = warp_index;
    memory = &grid->environment->memory;
    shared = owner.shared;
    shared_bytes = grid->shared_bytes;
    spins = 0;
    turn = 0;
    carry = 0;
    forced_ = 0;
    rotate_ = false;
    waiting_.clear();
    special.resize(std::size_t{kSpecialPlaces} * kLanes * 4);
    base[kSpecial] = special.data();
    const Dim3& dims = grid->launch.block;
    const std::uint32_t first = warp_index * kLanes;
    const std::uint32_t threads = std::min(grid->threads_per_block - first, kLanes);
    live = threads == kLanes ? kAllLanes : (std::uint32_t{1} << threads) - 1;
    const auto fill = [this](std::uint32_t place, std::uint32_t value) {
        std::uint32_t* values = lanes_of<std::uint32_t>(*this, special_operand(place));
        std::fill_n(values, kLanes, value);
    };
    const auto fill64 = [this](std::uint32_t place, std::uint64_t value) {
        std::uint64_t* values = lanes_of<std::uint64_t>(*this, special_operand(place));
        std::fill_n(values, kLanes, value);
    };
    const auto place = [this](std::uint32_t where) {
        return lanes_of<std::uint32_t>(*this, special_operand(where));
    };
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        const std::uint32_t thread = first + lane;
        place(kTidX)[lane] = thread % dims.x;
        place(kTidY)[lane] = thread / dims.x % dims.y;
        place(kTidZ)[lane] = thread / dims.x / dims.y;
        place(kLaneId)[lane] = lane;
        place(kLanemaskEq)[lane] = std::uint32_t{1} << lane;
        place(kLanemaskLt)[lane] = (std::uint32_t{1} << lane) - 1;
        place(kLanemaskLe)[lane] = (std::uint32_t{2} << lane) - 1;
        place(kLanemaskGe)[lane] = ~((std::uint32_t{1} << lane) - 1);
        place(kLanemaskGt)[lane] = ~((std::uint32_t{2} << lane) - 1);
    }
    fill(kNtidX, dims.x);
    fill(kNtidY, dims.y);
    fill(kNtidZ, dims.z);
    fill(kCtaidX, owner.id.x);
    fill(kCtaidY, owner.id.y);
    fill(kCtaidZ, owner.id.z);
    fill(kNctaidX, grid->launch.grid.x);
    fill(kNctaidY, grid->launch.grid.y);
    fill(kNctaidZ, grid->launch.grid.z);
    fill(kWarpId, warp_index);
    fill(kNWarpId, static_cast<std::uint32_t>(owner.warps.size()));
    fill(kSmId, owner.smid);
    fill(kNSmId, grid->environment->multiprocessors);
    fill(kDynamicSharedSize, static_cast<std::uint32_t>(grid->launch.dynamic_shared_bytes));
    fill(kTotalSharedSize, static_cast<std::uint32_t>(grid->shared_bytes));
    fill(kOne, 1);
    const std::uint64_t workspace = grid->environment->cooperative_workspace;
    fill(kEnvreg1, static_cast<std::uint32_t>(workspace >> 32));
    fill(kEnvreg2, static_cast<std::uint32_t>(workspace));
    fill(kDynamicShared32, static_cast<std::uint32_t>(grid->dynamic_shared_base));
    fill64(kDynamicShared64, grid->dynamic_shared_base);
    fill64(kGridId64, grid->environment->grid_id);

    Frame* entry = owner.frames->take(*grid->entry);
    entry->lanes = live;
    entry->parent = nullptr;
    entry->call = nullptr;
    entry->depth = 0;
    entry->local_base = 0;
    if (grid->entry->local_bytes > grid->environment->stack_bytes)
        throw Fault(Status::stack_overflow, "the kernel's local memory exceeds the stack limit");
    reserve_local(grid->entry->local_bytes);
    mask = 0;
    add_fragment(live, 0, entry);
}

}  // namespace carrel::softgpu::ptx
