// The software GPU's page table: which 2 MiB granules of the 47-bit address space are mapped device memory.
//
// Device pointers of the software GPU are host virtual addresses. Kernels may touch only what this table calls mapped,
// so every access of every lane asks it; `mapped` is one load and a bit test. The table knows nothing of allocations,
// contexts or kernels; the driver half maps and unmaps, the PTX engine only reads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include <sys/mman.h>

namespace carrel::softgpu {

/// One bit per granule. All members may be called from any thread at once.
class PageTable {
 public:
  static constexpr unsigned kAddressBits = 47;
  static constexpr unsigned kGranuleBits = 21;
  static constexpr std::uint64_t kGranuleBytes = std::uint64_t{1} << kGranuleBits;
  static constexpr std::uint64_t kAddressLimit = std::uint64_t{1} << kAddressBits;

  /// Reserves 8 MiB of address space for the bits; the kernel backs only the pages in use. Throws std::bad_alloc.
  PageTable() {
    void* space = ::mmap(nullptr, kWords * sizeof(Word), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) throw std::bad_alloc();
    words_.reset(static_cast<Word*>(space));  // zero pages are valid lock-free atomics
  }

  /// Whether the byte at `address` lies in mapped memory.
  [[nodiscard]] bool mapped(std::uint64_t address) const noexcept {
    if (address >= kAddressLimit) return false;
    const std::uint64_t granule = address >> kGranuleBits;
    return (words_.get()[granule / 64].load(std::memory_order_relaxed) >> (granule % 64)) & 1;
  }

  /// Whether all of [address, address + bytes) is mapped. An empty range is.
  [[nodiscard]] bool mapped(std::uint64_t address, std::uint64_t bytes) const noexcept {
    if (bytes == 0) return true;
    if (address >= kAddressLimit || bytes > kAddressLimit - address) return false;
    const std::uint64_t last = (address + bytes - 1) >> kGranuleBits;
    for (std::uint64_t granule = address >> kGranuleBits; granule <= last; ++granule)
      if (!mapped(granule << kGranuleBits)) return false;
    return true;
  }

  /// Marks every granule that [address, address + bytes) touches; ranges are expected to be multiples of a granule.
  void map(std::uint64_t address, std::uint64_t bytes) noexcept { mark(address, bytes, true); }
  void unmap(std::uint64_t address, std::uint64_t bytes) noexcept { mark(address, bytes, false); }

 private:
  using Word = std::atomic<std::uint64_t>;
  static_assert(Word::is_always_lock_free && sizeof(Word) == 8);
  static constexpr std::size_t kWords = std::size_t{1} << (kAddressBits - kGranuleBits - 6);

  void mark(std::uint64_t address, std::uint64_t bytes, bool on) noexcept {
    if (bytes == 0 || address >= kAddressLimit || bytes > kAddressLimit - address) return;
    const std::uint64_t last = (address + bytes - 1) >> kGranuleBits;
    for (std::uint64_t granule = address >> kGranuleBits; granule <= last; ++granule) {
      const std::uint64_t bit = std::uint64_t{1} << (granule % 64);
      if (on)
        words_.get()[granule / 64].fetch_or(bit, std::memory_order_release);
      else
        words_.get()[granule / 64].fetch_and(~bit, std::memory_order_release);
    }
  }

  struct Unmap {
    void operator()(Word* words) const noexcept { ::munmap(words, kWords * sizeof(Word)); }
  };
  std::unique_ptr<Word, Unmap> words_;
};

}  // namespace carrel::softgpu
