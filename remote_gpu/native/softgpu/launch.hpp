// From the arguments of a launch call to a grid queued in a stream.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "softgpu/module.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

struct LaunchRequest {
    ptx::LaunchConfig config;
    void** parameters = nullptr;  // one pointer per parameter …
    void** extra = nullptr;       // … or one buffer with all
};

/// A checked launch, parameters packed: what a stream or a graph runs.
struct KernelLaunch {
    std::shared_ptr<Function> function;
    ptx::LaunchConfig config;
    std::vector<std::byte> parameters;

    [[nodiscard]] Task task() const;
};

/// Checks the request as CUDA does. Throws Failure.
[[nodiscard]] KernelLaunch prepare(const std::shared_ptr<Function>& function,
                                   const LaunchRequest& request);

/// Checks the request and queues it, or adds it to the graph that the stream captures into. Throws
/// Failure.
void launch(const std::shared_ptr<Function>& function, Stream& stream,
            const LaunchRequest& request);

/// Blocks of a kernel that fit on one multiprocessor at once.
[[nodiscard]] unsigned resident_blocks(const Function& function, unsigned block_threads,
                                       std::size_t dynamic_shared_bytes);

}  // namespace carrel::softgpu
