// Device memory of this process: what is allocated where. Addresses are the same in the worker.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

#include "cuda_abi.hpp"

namespace carrel::client {

struct DeviceRange {
    CUdeviceptr base;
    uint64_t size;
    bool global = false;  // of a module, not allocated
};

// What a pointer points into. Nothing for host memory and freed memory.
std::optional<DeviceRange> find_device(CUdeviceptr pointer);
// Whether the address lies in the arena, allocated or not.
bool in_arena(CUdeviceptr pointer);
CUresult allocate_device(uint64_t bytes, CUdeviceptr* out);
CUresult free_device(CUdeviceptr pointer);
// Bytes that are mapped for this process and not allocated.
uint64_t idle_device_bytes();
// Bytes allocated now.
uint64_t used_device_bytes();
// Gives unused memory back to the slice.
void trim_device(uint64_t keep);

// Globals of modules lie outside the arena.
void add_global(CUdeviceptr base, uint64_t size);

// The primary context is gone, and every allocation with it.
void memory_forget_all();

}  // namespace carrel::client
