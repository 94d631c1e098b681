// Memory pools (cuMemPool*): attributes and counts; the memory itself comes from the context's
// heap.
#pragma once

#include <atomic>
#include <cstdint>

#include "cuda_abi.hpp"

namespace carrel::softgpu {

class Device;

struct MemoryPool {
    explicit MemoryPool(Device& owner) : device(owner) {}

    Device& device;
    std::uint64_t max_bytes = 0;  // 0: no bound of its own
    std::atomic<int> reuse_follow_event_dependencies{1};
    std::atomic<int> reuse_allow_opportunistic{1};
    std::atomic<int> reuse_allow_internal_dependencies{1};
    std::atomic<std::uint64_t> release_threshold{
        0};  // kept, without effect: freed memory goes back at once
    std::atomic<std::uint64_t> used{0}, used_high{0};
    std::atomic<std::uint64_t> reserved_high{0};
};

}  // namespace carrel::softgpu
