// From the arguments of a launch call to a grid queued in a stream.
#pragma once

#include <cstddef>
#include <memory>

#include "softgpu/module.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

struct LaunchRequest {
    ptx::LaunchConfig config;
    void** parameters = nullptr;  // one pointer per parameter …
    void** extra = nullptr;       // … or one buffer with all
};

/// Checks the request as CUDA does and queues it. Throws Failure.
void launch(const std::shared_ptr<Function>& function, Stream& stream,
            const LaunchRequest& request);

/// Blocks of a kernel that fit on one multiprocessor at once.
[[nodiscard]] unsigned resident_blocks(const Function& function, unsigned block_threads,
                                       std::size_t dynamic_shared_bytes);

}  // namespace carrel::softgpu
