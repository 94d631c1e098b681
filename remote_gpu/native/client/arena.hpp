// Bookkeeping of the arena: which addresses are mapped (extents), and what is allocated in them.
// Pure arithmetic: it touches no memory and knows nothing of the session. Not thread-safe.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace carrel::client {

class Arena {
  public:
    static constexpr uint64_t kAlignment = 512;
    static constexpr uint64_t kGranule = uint64_t{2} << 20;

    struct Range {
        uint64_t base;
        uint64_t size;
    };
    struct Allocation {
        uint64_t base;
        uint64_t stamp;  // of the youngest free() whose memory this allocation reuses
    };

    Arena(uint64_t base, uint64_t size) : base_(base), size_(size) {}

    bool contains(uint64_t address) const { return address - base_ < size_; }

    // The smallest free block that fits; nothing when no mapped block does.
    std::optional<Allocation> allocate(uint64_t bytes);
    // A free stretch of addresses for a new extent of `bytes` (a multiple of the granule).
    std::optional<uint64_t> place(uint64_t bytes) const;
    // The extent is mapped now, and free.
    void add_extent(uint64_t base, uint64_t bytes);
    // False when nothing is allocated at exactly this address. `stamp` is kept with the memory.
    bool free(uint64_t address, uint64_t stamp);
    // The allocation that an address lies in.
    std::optional<Range> find(uint64_t address) const;
    // Removes wholly free extents, largest first, until at most `keep` free bytes remain; the
    // caller unmaps them.
    std::vector<Range> release(uint64_t keep);
    void clear();

    uint64_t used() const { return used_; }
    uint64_t peak() const { return peak_; }
    uint64_t idle() const { return mapped_ - used_; }
    uint64_t mapped() const { return mapped_; }

  private:
    struct Block {
        uint64_t size;
        uint64_t extent;  // base of the extent it lies in
        uint64_t stamp;
        uint64_t asked;  // bytes the program asked for
        bool free;
    };
    using Blocks = std::map<uint64_t, Block>;

    void index(Blocks::iterator block) { free_.emplace(block->second.size, block->first); }
    void forget(Blocks::iterator block) { free_.erase({block->second.size, block->first}); }

    uint64_t base_;
    uint64_t size_;
    uint64_t used_ = 0;
    uint64_t peak_ = 0;
    uint64_t mapped_ = 0;
    std::map<uint64_t, uint64_t> extents_;          // base, size
    Blocks blocks_;                                 // by address
    std::set<std::pair<uint64_t, uint64_t>> free_;  // size, address
};

}  // namespace carrel::client
