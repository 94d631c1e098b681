#include "softgpu/launch.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "softgpu/capture.hpp"
#include "softgpu/failure.hpp"
#include "softgpu/runtime.hpp"
#include "softgpu/watchdog.hpp"

namespace carrel::softgpu {
namespace {

// The interpreter's own memory for the stacks of all threads that run at once.
constexpr std::uint64_t kLargestStacks = std::uint64_t{8} << 30;
constexpr std::size_t kSmallestStack = std::size_t{64} << 10;  // bytes per thread
constexpr std::uint64_t kWorkspaceBytes = 256;                 // of a cooperative launch

std::uint64_t threads_of(const ptx::Dim3& dim) {
    return std::uint64_t{dim.x} * dim.y * dim.z;
}

std::size_t stack_bytes(const Function& function) {
    return std::max({kSmallestStack, function.module->context().limit(CU_LIMIT_STACK_SIZE),
                     function.kernel.local_bytes + kSmallestStack / 2});
}

void check(const Function& function, const ptx::LaunchConfig& config) {
    using namespace limits;
    const ptx::Dim3 &grid = config.grid, &block = config.block;
    require(grid.x > 0 && grid.y > 0 && grid.z > 0 && block.x > 0 && block.y > 0 && block.z > 0);
    require(grid.x <= kGridX && grid.y <= kGridY && grid.z <= kGridZ);
    require(block.x <= kBlockX && block.y <= kBlockY && block.z <= kBlockZ);
    const std::uint64_t threads = threads_of(block);
    require(threads <= kBlockThreads);
    require(threads <= function.max_threads());
    const auto& required = function.kernel.required_block;
    require(required[0] == 0 || (required[0] == block.x && std::max(required[1], 1u) == block.y &&
                                 std::max(required[2], 1u) == block.z));
    require(config.dynamic_shared_bytes <= static_cast<std::size_t>(function.max_dynamic_shared));
    const Device& device = function.module->context().device();
    std::uint64_t running = device.config().host_threads;
    if (config.cooperative) {
        const std::uint64_t fit =
            std::uint64_t{resident_blocks(function, static_cast<unsigned>(threads),
                                          config.dynamic_shared_bytes)} *
            device.config().multiprocessors;
        require(threads_of(grid) <= fit, CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        running = threads_of(grid);
    }
    require(running * threads * function.kernel.local_bytes <= kLargestStacks,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
}

std::vector<std::byte> pack(const ptx::Kernel& kernel, void** parameters, void** extra) {
    std::vector<std::byte> packed(kernel.param_bytes);
    if (kernel.parameters.empty()) return packed;
    if (extra) {
        const void* buffer = nullptr;
        std::size_t size = 0;
        for (void** at = extra; *at; at += 2) {
            switch (reinterpret_cast<std::uintptr_t>(*at)) {
                case 1:
                    buffer = at[1];
                    break;  // CU_LAUNCH_PARAM_BUFFER_POINTER
                case 2:
                    size = *static_cast<const std::size_t*>(at[1]);
                    break;  // …_BUFFER_SIZE
                default:
                    throw Failure(CUDA_ERROR_INVALID_VALUE);
            }
        }
        const ptx::Parameter& last = kernel.parameters.back();
        require(buffer && size >= last.offset + last.size);
        std::memcpy(packed.data(), buffer, std::min(size, packed.size()));
        return packed;
    }
    require(parameters != nullptr);
    for (std::size_t i = 0; i < kernel.parameters.size(); ++i) {
        require(parameters[i] != nullptr);
        std::memcpy(packed.data() + kernel.parameters[i].offset, parameters[i],
                    kernel.parameters[i].size);
    }
    return packed;
}

CUresult code_of(ptx::Status status, bool watchdog) {
    switch (status) {
        case ptx::Status::ok:
            return CUDA_SUCCESS;
        case ptx::Status::illegal_address:
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        case ptx::Status::misaligned_address:
            return CUDA_ERROR_MISALIGNED_ADDRESS;
        case ptx::Status::trap:
            return CUDA_ERROR_LAUNCH_FAILED;
        case ptx::Status::assertion:
            return CUDA_ERROR_ASSERT;
        case ptx::Status::illegal_instruction:
            return CUDA_ERROR_ILLEGAL_INSTRUCTION;
        case ptx::Status::invalid:
            return CUDA_ERROR_INVALID_VALUE;
        case ptx::Status::stack_overflow:
            return CUDA_ERROR_HARDWARE_STACK_ERROR;
        case ptx::Status::out_of_budget:
            return CUDA_ERROR_LAUNCH_TIMEOUT;
        case ptx::Status::aborted:
            return watchdog ? CUDA_ERROR_LAUNCH_TIMEOUT : CUDA_ERROR_LAUNCH_FAILED;
    }
    return CUDA_ERROR_UNKNOWN;
}

std::atomic<std::uint64_t> executed{0};  // thread-instructions, by all launches of this process

void run(const Function& function, const ptx::LaunchConfig& config,
         std::span<const std::byte> parameters, std::uint64_t workspace, std::uint64_t grid_id) {
    Context& context = function.module->context();
    const Config& device = context.device().config();
    const Watchdog::Guard guard(std::chrono::seconds(device.watchdog_seconds));
    const ptx::Environment environment{
        .memory = Runtime::get().pages(),
        .multiprocessors = device.multiprocessors,
        .compute_capability = context.device().compute_capability(),
        .host_threads = device.host_threads,
        .grid_id = grid_id,
        .stack_bytes = stack_bytes(function),
        .abort = guard.flag(),
        .print = [&](std::string_view text) { context.print(text); },
        .allocate = [&](std::uint64_t bytes) { return context.kernel_allocate(bytes); },
        .release = [&](std::uint64_t address) { context.kernel_free(address); },
        .cooperative_workspace = workspace,
    };
    const ptx::RunResult result =
        function.module->program().run(function.kernel, config, parameters, environment);
    executed.fetch_add(result.instructions, std::memory_order_relaxed);
    if (result.status == ptx::Status::ok) return;
    const CUresult code = code_of(result.status, guard.fired());
    std::string explanation = result.message;
    if (result.status != ptx::Status::assertion) explanation = "carrel-softgpu: " + result.message;
    if (guard.fired())
        explanation = "carrel-softgpu: kernel " + function.kernel.name + " ran for more than " +
                      std::to_string(device.watchdog_seconds) + " s and was stopped";
    context.fail(code, explanation);
}

}  // namespace

KernelLaunch prepare(const std::shared_ptr<Function>& function, const LaunchRequest& request) {
    check(*function, request.config);
    return {function, request.config, pack(function->kernel, request.parameters, request.extra)};
}

Task KernelLaunch::task() const {
    if (const Config& device = function->module->context().device().config(); device.null) {
        if (!device.timed) return {};
        return Task(kernel_time(*device.null, threads_of(config.grid) * threads_of(config.block)));
    }
    static std::atomic<std::uint64_t> next_grid{1};
    return [launch = *this, grid = next_grid++] {
        Heap& heap = launch.function->module->context().device_heap();
        const std::uint64_t workspace =
            launch.config.cooperative ? heap.allocate(kWorkspaceBytes) : 0;
        run(*launch.function, launch.config, launch.parameters, workspace, grid);
        if (workspace) heap.free(workspace);
    };
}

void launch(const std::shared_ptr<Function>& function, Stream& stream,
            const LaunchRequest& request) {
    Context& context = stream.context;
    context.require_usable();
    require(&function->module->context() == &context, CUDA_ERROR_INVALID_HANDLE);
    KernelLaunch ready = prepare(function, request);
    if (capturing(stream)) {
        capture(stream, std::move(ready));
    } else {
        context.enqueue(stream, ready.task());
    }
}

unsigned resident_blocks(const Function& function, unsigned block_threads,
                         std::size_t dynamic_shared_bytes) {
    using namespace limits;
    if (block_threads == 0 || block_threads > function.max_threads()) return 0;
    const unsigned warps = (block_threads + kWarp - 1) / kWarp;
    const auto per_warp = static_cast<unsigned>(round_up(function.registers() * kWarp, 256));
    const unsigned by_threads = kThreadsMultiprocessor / (warps * kWarp);
    const unsigned by_registers = kRegisters / (per_warp * warps);
    const std::size_t shared =
        round_up(function.kernel.static_shared_bytes + dynamic_shared_bytes, 128) + kSharedReserved;
    const auto by_shared =
        static_cast<unsigned>(function.module->context().device().shared_multiprocessor() / shared);
    return std::min({kBlocksMultiprocessor, by_threads, by_registers, by_shared});
}

}  // namespace carrel::softgpu

/// Thread-instructions executed so far: what `make bench` divides by time. No part of CUDA's API.
extern "C" __attribute__((visibility("default"))) std::uint64_t carrel_softgpu_instructions() {
    return carrel::softgpu::executed.load(std::memory_order_relaxed);
}
