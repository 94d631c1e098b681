// The arena on this side: the client's address range, reserved, and what is mapped in it. All of it
// is charged to the lease's account.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "worker/ledger.hpp"

namespace carrel::worker {

class Memory {
  public:
    Memory(const DriverTable& driver, CUdevice device, Ledger& ledger)
        : driver_(driver), device_(device), ledger_(ledger) {}
    ~Memory() { clear(true); }

    // Reserves the client's range. Any error means: propose another one.
    CUresult reserve(uint64_t base, uint64_t bytes);
    // Creates and maps memory. CUDA_ERROR_NOT_READY: memory that waits to be unmapped is in the
    // way, call reap() when the device is idle and try again.
    CUresult grow(uint64_t base, uint64_t bytes);
    // Marks what one grow mapped as garbage; reap() gives it back.
    bool discard(uint64_t base, uint64_t bytes);
    // Unmaps garbage. Only when no work is running.
    void reap();
    bool has_garbage();
    // Whether the bytes lie in mapped memory.
    bool mapped(uint64_t address, uint64_t bytes);
    // Unmaps everything, and gives the address range back if asked.
    void clear(bool release_range);

  private:
    struct Extent {
        uint64_t bytes;
        CUmemGenericAllocationHandle handle;
        bool garbage;
    };
    void unmap(uint64_t base, const Extent& extent);
    CUresult map(uint64_t base, uint64_t bytes, CUmemGenericAllocationHandle* handle);

    const DriverTable& driver_;
    CUdevice device_;
    Ledger& ledger_;
    std::mutex mutex_;
    uint64_t base_ = 0;
    uint64_t bytes_ = 0;
    uint64_t garbage_ = 0;  // extents
    std::map<uint64_t, Extent> extents_;
};

}  // namespace carrel::worker
