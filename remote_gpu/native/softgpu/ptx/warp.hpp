// The state of running code: a grid's blocks, a block's warps, a warp's fragments and frames.
//
// A warp is 32 lanes. Lanes that are at the same instruction of the same frame form a fragment and
// run in lockstep; when a branch divides them, the fragment splits, and the one with the lowest
// program counter goes first so that the others are met again where the paths join. Register r of
// lane l of a frame stands at r + l × width: each instruction is a loop over 32 neighbouring
// values.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "softgpu/ptx/code.hpp"
#include "softgpu/ptx/ptx.hpp"

namespace carrel::softgpu::ptx {

/// Generic addresses of memory that is not global: above the 47-bit space in which device memory
/// lies.
inline constexpr unsigned kWindowShift = 48;
inline constexpr std::uint64_t kSharedWindow = std::uint64_t{1} << kWindowShift;
inline constexpr std::uint64_t kLocalWindow = std::uint64_t{2} << kWindowShift;
inline constexpr std::uint64_t kParamWindow = std::uint64_t{3} << kWindowShift;
inline constexpr std::uint64_t kCodeWindow = std::uint64_t{4} << kWindowShift;
inline constexpr std::uint64_t kFrameParamWindow = std::uint64_t{5} << kWindowShift;
inline constexpr std::uint64_t kWindowMask = (std::uint64_t{1} << kWindowShift) - 1;

/// What stops a grid; caught by the executor, which adds where it happened.
class Fault : public std::runtime_error {
  public:
    Fault(Status status, const std::string& message, std::uint64_t address = 0,
          unsigned lane = kLanes)
        : std::runtime_error(message), status_(status), address_(address), lane_(lane) {}
    /// The lane at fault; kLanes: the first of the running fragment.
    [[nodiscard]] unsigned lane() const { return lane_; }
    [[nodiscard]] Status status() const { return status_; }
    [[nodiscard]] std::uint64_t address() const { return address_; }

  private:
    Status status_;
    std::uint64_t address_;
    unsigned lane_;
};

/// Places in a warp's special registers, in units of 32 lanes of 4 bytes; 64-bit ones take two.
enum SpecialPlace : std::uint32_t {
    kTidX,
    kTidY,
    kTidZ,
    kTidW,
    kNtidX,
    kNtidY,
    kNtidZ,
    kNtidW,
    kCtaidX,
    kCtaidY,
    kCtaidZ,
    kCtaidW,
    kNctaidX,
    kNctaidY,
    kNctaidZ,
    kNctaidW,
    kLaneId,
    kWarpId,
    kNWarpId,
    kSmId,
    kNSmId,
    kLanemaskEq,
    kLanemaskLe,
    kLanemaskLt,
    kLanemaskGe,
    kLanemaskGt,
    kDynamicSharedSize,
    kTotalSharedSize,
    kZero,
    kOne,
    kEnvreg1,
    kEnvreg2,
    kDynamicShared32,                         // offset of dynamic shared memory
    kDynamicShared64 = kDynamicShared32 + 2,  // aligned to a pair
    kGridId64 = kDynamicShared64 + 2,
    kSpecialPlaces = kGridId64 + 2,
};
inline constexpr std::uint32_t special_operand(std::uint32_t place) {
    return place * kLanes * 4 | kSpecial;
}

struct Frame {
    const FunctionCode* function = nullptr;
    std::byte* registers = nullptr;
    std::byte* parameters = nullptr;  // function->param_bytes per lane
    std::uint32_t local_base = 0;     // where this frame's local memory starts, per lane
    std::uint32_t lanes = 0;          // still inside
    std::uint32_t return_pc = 0;      // in the parent
    std::uint32_t depth = 0;
    const CallSite* call = nullptr;
    Frame* parent = nullptr;
    AlignedBytes storage;
};

struct Fragment {
    enum class State : std::uint8_t { ready, at_barrier, at_warp_sync, at_grid_sync };
    State state = State::ready;
    std::uint8_t barrier = 0;
    std::uint32_t mask = 0;
    std::uint32_t pc = 0;
    std::uint32_t members = 0;     // at_warp_sync: who must come
    std::uint64_t generation = 0;  // at_grid_sync: which one is waited for
    std::uint64_t stamp = 0;       // when it last ran, in turns of the warp
    Frame* frame = nullptr;
};

struct Block;
struct Grid;

struct Warp {
    // What handlers need, first.
    std::array<std::byte*, 4> base{};  // by OperandBase
    std::uint32_t mask = 0;            // lanes of the running fragment
    std::uint32_t pc = 0;
    std::uint32_t carry = 0;  // CC.CF, one bit per lane
    std::uint32_t live = 0;   // lanes that have not exited
    Frame* frame = nullptr;
    const Inst* code = nullptr;
    std::byte* shared = nullptr;
    std::uint64_t shared_bytes = 0;
    const PageTable* memory = nullptr;
    Block* block = nullptr;
    Grid* grid = nullptr;

    std::uint32_t index = 0;  // in the block
    std::uint32_t spins = 0;
    std::uint64_t turn = 0;
    std::uint64_t executed = 0;  // per thread, since the last report to the grid
    AlignedBytes local;          // local_stride per lane
    std::uint32_t local_stride = 0;
    AlignedBytes special;

    /// Starts the warp at the kernel's first instruction.
    void start(Block& owner, std::uint32_t warp_index);
    /// Runs until about `quantum` instructions are done or nothing can go on. Throws Fault.
    void run(std::uint64_t quantum);
    [[nodiscard]] bool finished() const { return live == 0; }
    /// Whether some fragment can go on.
    [[nodiscard]] bool runnable() const;
    [[nodiscard]] bool waits_for_grid() const;
    /// Lets fragments that wait for lanes of their warp go on without them. False if there are
    /// none.
    bool force_warp_sync();
    /// Frees the fragments at a barrier, writing the results of bar.red.
    void release_barrier(unsigned barrier, std::uint32_t popc, bool all, bool any);

    // For handlers of control flow: each must leave the running fragment by `suspend` and put its
    // lanes elsewhere.
    /// Ends the running fragment; those of its lanes that are not in `lanes` go on behind the
    /// instruction.
    void suspend(std::uint32_t lanes);
    void add_fragment(std::uint32_t lanes, std::uint32_t at, Frame* in);
    void wait_at_barrier(std::uint32_t lanes, std::uint32_t at, Frame* in, std::uint32_t barrier);
    void wait_for_grid(std::uint32_t lanes, std::uint32_t at, Frame* in);
    void enter(const FunctionCode& callee, const CallSite& call, std::uint32_t lanes);
    void leave(std::uint32_t lanes);
    void exit_lanes(std::uint32_t lanes);
    /// Lets other fragments run first next time (nanosleep).
    void yield() { spins = UINT32_MAX / 2; }
    void spin_hint() { spins += 64; }

  private:
    bool pick();
    void execute(std::uint64_t& quantum);
    bool warp_sync_ready(const Inst& inst, std::uint32_t lanes);
    void branch(const Inst& inst, std::uint32_t lanes);
    void merge(Fragment fragment);
    void reserve_local(std::uint32_t bytes);
    void use_frame(Frame* next);

    std::uint32_t limit_ = UINT32_MAX;  // program counter at which another fragment is met
    std::uint32_t forced_ = 0;          // lanes that need not wait at the next warp_sync
    bool rotate_ = false;
    std::vector<Fragment> waiting_;  // all fragments but the running one
};

struct Barrier {
    std::vector<std::uint32_t> arrived;  // lanes per warp
    std::uint32_t expected = 0;          // threads; 0: all that live
    std::uint32_t votes = 0;             // threads whose predicate was true (bar.red)
    std::uint32_t voters = 0;
    bool open = false;  // some thread has arrived
};

/// Frames of one host thread, kept for the next call or block.
class FramePool {
  public:
    Frame* take(const FunctionCode& function);
    void give(Frame* frame);
    /// Takes all frames back, after a fault has left some in use.
    void recycle();

  private:
    std::vector<std::unique_ptr<Frame>> all_;
    std::vector<std::pair<const FunctionCode*, std::vector<Frame*>>> free_;
};

struct Block {
    Grid* grid = nullptr;
    Dim3 id;
    AlignedBytes shared_storage;
    std::byte* shared = nullptr;
    std::vector<Warp> warps;
    std::array<Barrier, 16> barriers;
    FramePool* frames = nullptr;
    std::uint32_t live_threads = 0;
    std::uint32_t smid = 0;
    Warp* running = nullptr;  // for messages

    void start(Grid& owner, std::uint64_t linear_index, FramePool& pool, std::uint32_t sm);
    enum class Progress : std::uint8_t { running, waiting_for_grid, finished };
    /// Gives every warp one turn. Throws Fault.
    Progress run_slice(std::uint64_t quantum);
    /// Called after arrivals and exits; frees the threads of the barrier if all have come.
    void check_barrier(unsigned barrier);
};

/// One run of a kernel.
struct Grid {
    const ProgramImpl* program = nullptr;
    const FunctionCode* entry = nullptr;
    LaunchConfig launch;
    const Environment* environment = nullptr;
    std::vector<std::byte> params;
    std::uint64_t shared_bytes = 0;         // static and dynamic
    std::uint64_t dynamic_shared_base = 0;  // offset
    std::uint32_t threads_per_block = 0;
    std::uint64_t blocks = 0;
    std::atomic<std::uint64_t> next_block{0};
    std::atomic<std::uint64_t> executed{0};
    std::atomic<bool> stop{false};
    std::mutex callback_mutex;
    std::mutex result_mutex;
    RunResult result;

    /// Grid barrier of cooperative launches that call the engine's own cudaCGSynchronize: arrivals
    /// and generation.
    std::atomic<std::uint64_t> grid_arrived{0};
    std::atomic<std::uint64_t> grid_generation{0};
};

template <class T>
inline T* lanes_of(Warp& warp, std::uint32_t operand) {
    return static_cast<T*>(
        __builtin_assume_aligned(warp.base[operand & 3] + (operand & ~std::uint32_t{3}), 64));
}

inline std::uint32_t& predicate_of(Warp& warp, std::uint32_t operand) {
    return *reinterpret_cast<std::uint32_t*>(warp.base[operand & 3] +
                                             (operand & ~std::uint32_t{3}));
}

}  // namespace carrel::softgpu::ptx
