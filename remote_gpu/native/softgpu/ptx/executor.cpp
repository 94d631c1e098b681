// Runs a grid: launch checks, blocks on host threads, what to say when something went wrong.
#include <algorithm>
#include <bit>
#include <thread>

#include "softgpu/ptx/program.hpp"
#include "softgpu/ptx/warp.hpp"

namespace carrel::softgpu::ptx {
namespace {

constexpr std::uint64_t kSliceInstructions = 4096;  // of one warp, before others get their turn
constexpr unsigned kMaxThreadsPerBlock = 1024;
constexpr std::uint64_t kMaxSharedBytes = std::uint64_t{1} << 20;

std::string triple(unsigned x, unsigned y, unsigned z) {
    return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

void finish(Grid& grid, RunResult result) {
    const std::lock_guard<std::mutex> lock(grid.result_mutex);
    if (grid.result.status == Status::ok) grid.result = std::move(result);
    grid.stop.store(true, std::memory_order_relaxed);
}

void report(Grid& grid, const Block& block, const Fault& fault) {
    RunResult result;
    result.status = fault.status();
    result.address = fault.address();
    std::string where = "kernel '" + grid.entry->name + "'";
    if (block.running != nullptr && block.running->frame != nullptr) {
        const Warp& warp = *block.running;
        const FunctionCode& function = *warp.frame->function;
        if (warp.pc < function.code.size()) {
            if (&function != grid.entry) where += ", function '" + function.name + "'";
            where += ", line " + std::to_string(function.code[warp.pc].line) + " of its PTX";
        }
        const unsigned lane = fault.lane() < kLanes ? fault.lane()
                              : warp.mask != 0 ? static_cast<unsigned>(std::countr_zero(warp.mask))
                                               : 0;
        const unsigned thread = warp.index * kLanes + lane;
        const Dim3& dims = grid.launch.block;
        where += ", block " + triple(block.id.x, block.id.y, block.id.z) + ", thread " +
                 triple(thread % dims.x, thread / dims.x % dims.y, thread / dims.x / dims.y);
    }
    result.message = where + ": " + fault.what();
    finish(grid, std::move(result));
}

// Between slices: counts, and whether to go on.
bool account(Grid& grid, Block& block) {
    std::uint64_t executed = 0;
    for (Warp& warp : block.warps) {
        executed += warp.executed;
        warp.executed = 0;
    }
    const std::uint64_t total =
        grid.executed.fetch_add(executed, std::memory_order_relaxed) + executed;
    const Environment& environment = *grid.environment;
    if (environment.abort != nullptr && environment.abort->load(std::memory_order_relaxed))
        finish(grid, {Status::aborted, 0, "kernel '" + grid.entry->name + "' was aborted", 0});
    else if (total > environment.instruction_budget)
        finish(grid, {Status::out_of_budget, 0,
                      "kernel '" + grid.entry->name + "' was stopped after " +
                          std::to_string(total) + " instructions, more than its budget of " +
                          std::to_string(environment.instruction_budget),
                      0});
    return !grid.stop.load(std::memory_order_relaxed);
}

void run_blocks_one_by_one(Grid& grid) {
    FramePool frames;
    Block block;
    try {
        for (;;) {
            const std::uint64_t index = grid.next_block.fetch_add(1, std::memory_order_relaxed);
            if (index >= grid.blocks) return;
            block.start(grid, index, frames,
                        static_cast<std::uint32_t>(index % grid.environment->multiprocessors));
            Block::Progress progress = Block::Progress::running;
            while (progress != Block::Progress::finished) {
                progress = block.run_slice(kSliceInstructions);
                if (!account(grid, block)) return;
                if (progress == Block::Progress::waiting_for_grid)
                    throw Fault(Status::trap, "grid synchronisation needs a cooperative launch");
            }
        }
    } catch (const Fault& fault) {
        account(grid, block);
        report(grid, block, fault);
    }
}

void run_blocks_interleaved(Grid& grid, std::uint32_t first, std::uint32_t step) {
    FramePool frames;
    std::vector<Block> blocks;
    for (std::uint64_t i = first; i < grid.blocks; i += step) blocks.emplace_back();
    Block* running = nullptr;
    try {
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            running = &blocks[i];
            const std::uint64_t index = first + i * std::uint64_t{step};
            blocks[i].start(grid, index, frames,
                            static_cast<std::uint32_t>(index % grid.environment->multiprocessors));
        }
        for (bool left = true; left;) {
            left = false;
            bool ran = false;
            for (Block& block : blocks) {
                if (block.live_threads == 0) continue;
                running = &block;
                const Block::Progress progress = block.run_slice(kSliceInstructions);
                if (!account(grid, block)) return;
                left |= progress != Block::Progress::finished;
                ran |= progress == Block::Progress::running;
            }
            if (left && !ran) std::this_thread::yield();  // all wait for blocks of other threads
        }
    } catch (const Fault& fault) {
        account(grid, *running);
        report(grid, *running, fault);
    }
}

std::string launch_problem(const Kernel& kernel, const LaunchConfig& launch,
                           std::span<const std::byte> params) {
    const Dim3& grid = launch.grid;
    const Dim3& block = launch.block;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0)
        return "a dimension of the launch is zero";
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return "the grid " + triple(grid.x, grid.y, grid.z) + " is too large";
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    if (threads > kMaxThreadsPerBlock || threads > kernel.max_threads)
        return "a block of " + triple(block.x, block.y, block.z) + " has " +
               std::to_string(threads) + " threads, more than the kernel's limit of " +
               std::to_string(std::min(kernel.max_threads, kMaxThreadsPerBlock));
    if (params.size() < kernel.param_bytes)
        return "the kernel needs " + std::to_string(kernel.param_bytes) +
               " bytes of parameters and got " + std::to_string(params.size());
    if (kernel.static_shared_bytes + launch.dynamic_shared_bytes > kMaxSharedBytes)
        return "the block needs " +
               std::to_string(kernel.static_shared_bytes + launch.dynamic_shared_bytes) +
               " bytes of shared memory";
    return {};
}

}  // namespace

RunResult run_grid(const ProgramImpl& program, const Kernel& kernel, const LaunchConfig& launch,
                   std::span<const std::byte> params, const Environment& environment) {
    if (const std::string problem = launch_problem(kernel, launch, params); !problem.empty())
        return {Status::invalid, 0, "kernel '" + kernel.name + "': " + problem, 0};
    Grid grid;
    grid.program = &program;
    grid.entry = &program.functions[program.kernel_functions.at(kernel.index)];
    grid.launch = launch;
    grid.environment = &environment;
    grid.params.assign(params.begin(),
                       params.begin() + static_cast<std::ptrdiff_t>(kernel.param_bytes));
    grid.dynamic_shared_base = (kernel.static_shared_bytes + 15) / 16 * 16;
    grid.shared_bytes = grid.dynamic_shared_base + launch.dynamic_shared_bytes;
    grid.threads_per_block = launch.block.x * launch.block.y * launch.block.z;
    grid.blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    const auto threads = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(std::max(environment.host_threads, 1U), grid.blocks));
    const auto work = [&](std::uint32_t thread) {
        if (launch.cooperative)
            run_blocks_interleaved(grid, thread, threads);
        else
            run_blocks_one_by_one(grid);
    };
    std::vector<std::jthread> helpers;
    for (std::uint32_t thread = 1; thread < threads; ++thread) helpers.emplace_back(work, thread);
    work(0);
    helpers.clear();  // joins
    grid.result.instructions = grid.executed.load();
    return grid.result;
}

}  // namespace carrel::softgpu::ptx
