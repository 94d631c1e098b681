// The memory of the software GPUs: regions of whole granules, heaps that cut allocations out of
// them, and the map of what lies where. Knows nothing of streams or copies.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/page_table.hpp"
#include "softgpu/vram_account.hpp"

namespace carrel::softgpu {

class Context;
struct MemoryPool;

inline constexpr std::uint64_t kGranule = PageTable::kGranuleBytes;

[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/// The start of the host's page that holds `address`.
[[nodiscard]] std::uint64_t page_of(std::uint64_t address);

/// Address space without memory behind it: `bytes` at a multiple of `align` (powers of two, at
/// least a granule). `wanted` 0: anywhere; otherwise exactly there. 0: no such space.
[[nodiscard]] std::uint64_t reserve_addresses(std::uint64_t bytes, std::uint64_t align,
                                              std::uint64_t wanted = 0);
void release_addresses(std::uint64_t address, std::uint64_t bytes);

/// Allocations out of 2 MiB granules. Everything a heap gave out ends with it. Thread-safe.
class Heap {
  public:
    /// Charges granules to `account`.
    Heap(PageTable& pages, VramAccount& account) : pages_(pages), account_(account) {}
    ~Heap();
    Heap(const Heap&) = delete;
    Heap& operator=(const Heap&) = delete;

    /// Zeroed memory at a multiple of 512. Throws Failure(CUDA_ERROR_OUT_OF_MEMORY).
    [[nodiscard]] std::uint64_t allocate(std::uint64_t bytes);
    /// False: `address` is not the start of one of this heap's allocations.
    bool free(std::uint64_t address);

  private:
    static constexpr std::uint64_t kAlign = 512;
    static constexpr std::uint64_t kLargest = kGranule / 4;  // that shares a granule
    struct Slab {
        std::uint64_t base = 0;
        std::map<std::uint64_t, std::uint64_t> free;  // offset -> bytes
        std::map<std::uint64_t, std::uint64_t> used;
        bool dirty = false;  // something was freed: what is handed out needs zeroing
    };

    std::uint64_t map_region(std::uint64_t bytes);
    void unmap_region(std::uint64_t base, std::uint64_t bytes);
    std::optional<std::uint64_t> cut(Slab& slab, std::uint64_t bytes);
    bool free_small(std::uint64_t address);

    PageTable& pages_;
    VramAccount& account_;
    std::mutex mutex_;
    std::map<std::uint64_t, std::uint64_t> regions_;  // large ones: base -> bytes, whole granules
    std::map<std::uint64_t, Slab> slabs_;
};

/// Physical memory of cuMemCreate: may be mapped at several places; charged until nobody holds it.
class PhysicalMemory {
  public:
    PhysicalMemory(std::shared_ptr<VramAccount> account, std::uint64_t bytes,
                   const CUmemAllocationProp& properties);
    ~PhysicalMemory();
    PhysicalMemory(const PhysicalMemory&) = delete;
    PhysicalMemory& operator=(const PhysicalMemory&) = delete;

    [[nodiscard]] int descriptor() const { return descriptor_; }
    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    [[nodiscard]] const CUmemAllocationProp& properties() const { return properties_; }

  private:
    std::shared_ptr<VramAccount> account_;
    const std::uint64_t bytes_;
    const CUmemAllocationProp properties_;
    int descriptor_ = -1;
};

enum class MemoryKind : std::uint8_t { device, host, managed, mapped, registered, variable };

/// What a program may know of an address.
struct Allocation {
    std::uint64_t base = 0;
    std::uint64_t bytes = 0;
    MemoryKind kind = MemoryKind::device;
    Context* context = nullptr;  // null for mappings
    int device = 0;
    unsigned flags = 0;  // as given to cuMemHostAlloc and the like
    std::uint64_t id = 0;
    MemoryPool* pool = nullptr;
    bool of_graph = false;                     // belongs to a graph's allocation node
    std::shared_ptr<PhysicalMemory> physical;  // of mappings
    std::uint64_t physical_offset = 0;
    bool sync_operations = false;  // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
    unsigned access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

    [[nodiscard]] bool host() const {
        return kind == MemoryKind::host || kind == MemoryKind::registered;
    }
};

/// Allocations by address. Thread-safe.
class AddressMap {
  public:
    void add(Allocation allocation);
    /// The allocation that starts at `base`, taken out of the map.
    std::optional<Allocation> remove(std::uint64_t base);
    /// The same, only if `matches`.
    std::optional<Allocation> remove(std::uint64_t base,
                                     const std::function<bool(const Allocation&)>& matches);
    /// Everything that belongs to `context`, taken out of the map.
    std::vector<Allocation> remove_all(const Context* context);
    [[nodiscard]] std::optional<Allocation> find(std::uint64_t address) const;
    /// Every allocation that starts in the range, in order.
    [[nodiscard]] std::vector<Allocation> within(std::uint64_t address, std::uint64_t bytes) const;
    /// Changes an allocation in place; false: none there.
    bool update(std::uint64_t address, const std::function<void(Allocation&)>& change);
    /// Whether any allocation overlaps the range.
    [[nodiscard]] bool overlaps(std::uint64_t address, std::uint64_t bytes) const;

  private:
    std::map<std::uint64_t, Allocation>::const_iterator at(std::uint64_t address) const;
    mutable std::shared_mutex mutex_;
    std::map<std::uint64_t, Allocation> by_base_;
    std::uint64_t next_id_ = 1;
};

}  // namespace carrel::softgpu
