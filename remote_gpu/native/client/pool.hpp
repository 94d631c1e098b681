// What memory pools must hear of memory that is freed in other ways.
#pragma once
#include <atomic>

#include "cuda_abi.hpp"

namespace carrel::client {

namespace detail {
inline std::atomic<bool> pool_memory{false};  // some was ever allocated from a pool
void forget_pool_memory(CUdeviceptr pointer);
}  // namespace detail

// Before memory is freed by the program.
inline void forget_pool_memory(CUdeviceptr pointer) {
    if (detail::pool_memory.load(std::memory_order_relaxed)) detail::forget_pool_memory(pointer);
}

void forget_pools();  // the context is gone, and all memory with it

}  // namespace carrel::client
