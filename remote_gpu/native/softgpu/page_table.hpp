// The software GPU's page table: which 2 MiB granules of the 47-bit address space are mapped device
// memory.
//
// Device pointers of the software GPU are host virtual addresses. Kernels may touch only what this
// table calls mapped, so every access of every lane asks it; `mapped` is one load and a bit test.
// The table knows nothing of allocations, contexts or kernels; the driver half maps and unmaps, the
// PTX engine only reads.
//
// Host memory that a program registers is not made of granules: it is kept as byte ranges, looked
// up only where the bit is clear.
#pragma once

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace carrel::softgpu {

/// One bit per granule. All members may be called from any thread at once.
class PageTable {
  public:
    static constexpr unsigned kAddressBits = 47;
    static constexpr unsigned kGranuleBits = 21;
    static constexpr std::uint64_t kGranuleBytes = std::uint64_t{1} << kGranuleBits;
    static constexpr std::uint64_t kAddressLimit = std::uint64_t{1} << kAddressBits;

    /// Reserves 8 MiB of address space for the bits; the kernel backs only the pages in use. Throws
    /// std::bad_alloc.
    PageTable() {
        void* space = ::mmap(nullptr, kWords * sizeof(Word), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == MAP_FAILED) throw std::bad_alloc();
        words_.reset(static_cast<Word*>(space));  // zero pages are valid lock-free atomics
    }

    /// Whether the byte at `address` lies in mapped memory.
    [[nodiscard]] bool mapped(std::uint64_t address) const noexcept {
        if (address >= kAddressLimit) return false;
        return granule_mapped(address) || range_end(address) != 0;
    }

    /// Whether all of [address, address + bytes) is mapped. An empty range is.
    [[nodiscard]] bool mapped(std::uint64_t address, std::uint64_t bytes) const noexcept {
        if (bytes == 0) return true;
        if (address >= kAddressLimit || bytes > kAddressLimit - address) return false;
        const std::uint64_t end = address + bytes;
        while (address < end) {
            if (granule_mapped(address)) {
                address = ((address >> kGranuleBits) + 1) << kGranuleBits;
                continue;
            }
            const std::uint64_t beyond = range_end(address);
            if (beyond == 0) return false;
            address = beyond;
        }
        return true;
    }

    /// Marks every granule that [address, address + bytes) touches; ranges are expected to be
    /// multiples of a granule.
    void map(std::uint64_t address, std::uint64_t bytes) noexcept { mark(address, bytes, true); }
    void unmap(std::uint64_t address, std::uint64_t bytes) noexcept { mark(address, bytes, false); }

    /// Allows [begin, end), whole pages of registered host memory. False when kRanges of them are
    /// in use.
    [[nodiscard]] bool map_range(std::uint64_t begin, std::uint64_t end) noexcept {
        for (std::size_t i = 0; i < kRanges; ++i) {
            std::uint64_t free = 0;
            if (!ranges_[i].end.compare_exchange_strong(free, kClaimed)) continue;
            ranges_[i].begin.store(begin, std::memory_order_relaxed);
            ranges_[i].end.store(end, std::memory_order_release);
            std::size_t used = used_ranges_.load(std::memory_order_relaxed);
            while (used <= i && !used_ranges_.compare_exchange_weak(used, i + 1)) {
            }
            return true;
        }
        return false;
    }
    void unmap_range(std::uint64_t begin) noexcept {
        for (std::size_t i = 0; i < kRanges; ++i)
            if (ranges_[i].end.load() > kClaimed && ranges_[i].begin.load() == begin) {
                ranges_[i].end.store(0, std::memory_order_release);
                return;
            }
    }

  private:
    static constexpr std::size_t kRanges = 1024;
    static constexpr std::uint64_t kClaimed = 1;  // `end` of a slot that is being filled
    struct Range {
        std::atomic<std::uint64_t> begin{0}, end{0};
    };

    [[nodiscard]] bool granule_mapped(std::uint64_t address) const noexcept {
        const std::uint64_t granule = address >> kGranuleBits;
        return (words_.get()[granule / 64].load(std::memory_order_relaxed) >> (granule % 64)) & 1;
    }
    /// The end of the registered range that holds `address`; 0: none does.
    [[nodiscard]] std::uint64_t range_end(std::uint64_t address) const noexcept {
        const std::size_t used = used_ranges_.load(std::memory_order_acquire);
        for (std::size_t i = 0; i < used; ++i) {
            const std::uint64_t end = ranges_[i].end.load(std::memory_order_acquire);
            if (address < end && address >= ranges_[i].begin.load(std::memory_order_relaxed))
                return end;
        }
        return 0;
    }

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
    std::array<Range, kRanges> ranges_;
    std::atomic<std::size_t> used_ranges_{0};
};

}  // namespace carrel::softgpu
