#include "softgpu/memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "softgpu/failure.hpp"

namespace carrel::softgpu {
namespace {

void* pointer(std::uint64_t address) {
    return reinterpret_cast<void*>(address);  // NOLINT: device addresses are host addresses
}

}  // namespace

std::uint64_t page_of(std::uint64_t address) {
    static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return address / page * page;
}

std::uint64_t reserve_addresses(std::uint64_t bytes, std::uint64_t align, std::uint64_t wanted) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (wanted != 0) {
        void* got = ::mmap(pointer(wanted), bytes, PROT_NONE, kFlags | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == MAP_FAILED) return 0;
        const auto address = reinterpret_cast<std::uint64_t>(got);
        if (address == wanted) return address;
        ::munmap(got, bytes);  // a kernel that takes the address as a hint only
        return 0;
    }
    if (bytes > PageTable::kAddressLimit - align) return 0;
    void* got = ::mmap(nullptr, bytes + align, PROT_NONE, kFlags, -1, 0);
    if (got == MAP_FAILED) return 0;
    const auto start = reinterpret_cast<std::uint64_t>(got);
    const std::uint64_t address = round_up(start, align);
    if (address > start) ::munmap(got, address - start);
    const std::uint64_t tail = start + align - address;
    if (tail > 0) ::munmap(pointer(address + bytes), tail);
    return address;
}

void release_addresses(std::uint64_t address, std::uint64_t bytes) {
    ::munmap(pointer(address), bytes);
}

Heap::~Heap() {
    for (const auto& [base, bytes] : regions_) unmap_region(base, bytes);
    for (const auto& [base, slab] : slabs_) unmap_region(base, kGranule);
}

std::uint64_t Heap::map_region(std::uint64_t bytes) {
    if (!account_.charge(bytes)) throw Failure(CUDA_ERROR_OUT_OF_MEMORY);
    const std::uint64_t base = reserve_addresses(bytes, kGranule);
    if (base == 0 || ::mprotect(pointer(base), bytes, PROT_READ | PROT_WRITE) != 0) {
        if (base) release_addresses(base, bytes);
        account_.refund(bytes);
        throw Failure(CUDA_ERROR_OUT_OF_MEMORY);
    }
    if (bytes > kGranule) ::madvise(pointer(base), bytes, MADV_HUGEPAGE);
    pages_.map(base, bytes);
    return base;
}

void Heap::unmap_region(std::uint64_t base, std::uint64_t bytes) {
    pages_.unmap(base, bytes);
    release_addresses(base, bytes);
    account_.refund(bytes);
}

std::uint64_t Heap::allocate(std::uint64_t bytes) {
    require(bytes > 0);
    if (bytes >= PageTable::kAddressLimit) throw Failure(CUDA_ERROR_OUT_OF_MEMORY);
    const std::lock_guard lock(mutex_);
    if (bytes > kLargest) {
        const std::uint64_t whole = round_up(bytes, kGranule);
        const std::uint64_t base = map_region(whole);
        regions_.emplace(base, whole);
        return base;
    }
    bytes = round_up(bytes, kAlign);
    for (auto& [base, slab] : slabs_)
        if (const auto address = cut(slab, bytes)) return *address;
    const std::uint64_t base = map_region(kGranule);
    Slab& slab = slabs_[base];
    slab.base = base;
    slab.free.emplace(0, kGranule);
    return *cut(slab, bytes);
}

std::optional<std::uint64_t> Heap::cut(Slab& slab, std::uint64_t bytes) {
    for (auto at = slab.free.begin(); at != slab.free.end(); ++at) {
        const auto [offset, room] = *at;
        if (room < bytes) continue;
        slab.free.erase(at);
        if (room > bytes) slab.free.emplace(offset + bytes, room - bytes);
        slab.used.emplace(offset, bytes);
        if (slab.dirty) std::memset(pointer(slab.base + offset), 0, bytes);
        return slab.base + offset;
    }
    return std::nullopt;
}

bool Heap::free(std::uint64_t address) {
    const std::lock_guard lock(mutex_);
    const auto region = regions_.find(address);
    if (region == regions_.end()) return free_small(address);
    unmap_region(region->first, region->second);
    regions_.erase(region);
    return true;
}

bool Heap::free_small(std::uint64_t address) {
    const std::uint64_t base = address / kGranule * kGranule;
    const auto found = slabs_.find(base);
    if (found == slabs_.end()) return false;
    Slab& slab = found->second;
    const auto used = slab.used.find(address - base);
    if (used == slab.used.end()) return false;
    std::uint64_t offset = used->first, bytes = used->second;
    slab.used.erase(used);
    if (slab.used.empty()) {
        unmap_region(base, kGranule);
        slabs_.erase(found);
        return true;
    }
    auto after = slab.free.lower_bound(offset);
    if (after != slab.free.end() && after->first == offset + bytes) {
        bytes += after->second;
        after = slab.free.erase(after);
    }
    if (after != slab.free.begin()) {
        const auto before = std::prev(after);
        if (before->first + before->second == offset) {
            offset = before->first;
            bytes += before->second;
            slab.free.erase(before);
        }
    }
    slab.free.emplace(offset, bytes);
    slab.dirty = true;
    return true;
}

PhysicalMemory::PhysicalMemory(std::shared_ptr<VramAccount> account, std::uint64_t bytes,
                               const CUmemAllocationProp& properties)
    : account_(std::move(account)), bytes_(bytes), properties_(properties) {
    if (account_ && !account_->charge(bytes)) throw Failure(CUDA_ERROR_OUT_OF_MEMORY);
    descriptor_ = ::memfd_create("carrel-softgpu", MFD_CLOEXEC);
    if (descriptor_ < 0 || ::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
        if (descriptor_ >= 0) ::close(descriptor_);
        if (account_) account_->refund(bytes);
        throw Failure(CUDA_ERROR_OUT_OF_MEMORY);
    }
}

PhysicalMemory::~PhysicalMemory() {
    ::close(descriptor_);
    if (account_) account_->refund(bytes_);
}

void AddressMap::add(Allocation allocation) {
    const std::unique_lock lock(mutex_);
    allocation.id = next_id_++;
    const std::uint64_t base = allocation.base;
    by_base_.insert_or_assign(base, std::move(allocation));
}

std::optional<Allocation> AddressMap::remove(std::uint64_t base) {
    return remove(base, [](const Allocation&) { return true; });
}

std::optional<Allocation> AddressMap::remove(
    std::uint64_t base, const std::function<bool(const Allocation&)>& matches) {
    const std::unique_lock lock(mutex_);
    const auto found = by_base_.find(base);
    if (found == by_base_.end() || !matches(found->second)) return std::nullopt;
    Allocation gone = std::move(found->second);
    by_base_.erase(found);
    return gone;
}

std::vector<Allocation> AddressMap::remove_all(const Context* context) {
    const std::unique_lock lock(mutex_);
    std::vector<Allocation> gone;
    for (auto at = by_base_.begin(); at != by_base_.end();) {
        if (at->second.context != context) {
            ++at;
            continue;
        }
        gone.push_back(std::move(at->second));
        at = by_base_.erase(at);
    }
    return gone;
}

std::vector<Allocation> AddressMap::within(std::uint64_t address, std::uint64_t bytes) const {
    const std::shared_lock lock(mutex_);
    std::vector<Allocation> found;
    for (auto at = by_base_.lower_bound(address);
         at != by_base_.end() && at->first - address < bytes; ++at)
        found.push_back(at->second);
    return found;
}

std::map<std::uint64_t, Allocation>::const_iterator AddressMap::at(std::uint64_t address) const {
    auto next = by_base_.upper_bound(address);
    if (next == by_base_.begin()) return by_base_.end();
    --next;
    return address - next->first < next->second.bytes ? next : by_base_.end();
}

std::optional<Allocation> AddressMap::find(std::uint64_t address) const {
    const std::shared_lock lock(mutex_);
    const auto found = at(address);
    return found == by_base_.end() ? std::nullopt : std::optional(found->second);
}

bool AddressMap::update(std::uint64_t address, const std::function<void(Allocation&)>& change) {
    const std::unique_lock lock(mutex_);
    const auto found = at(address);
    if (found == by_base_.end()) return false;
    change(by_base_.at(found->first));
    return true;
}

bool AddressMap::overlaps(std::uint64_t address, std::uint64_t bytes) const {
    const std::shared_lock lock(mutex_);
    if (at(address) != by_base_.end()) return true;
    const auto next = by_base_.lower_bound(address);
    return next != by_base_.end() && next->first - address < bytes;
}

}  // namespace carrel::softgpu
