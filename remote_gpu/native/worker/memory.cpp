#include "worker/memory.hpp"

#include "wire/log.hpp"
#include "wire/protocol.hpp"

namespace carrel::worker {

CUresult Memory::reserve(uint64_t base, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (base_) return CUDA_ERROR_INVALID_VALUE;
    if (!bytes || bytes % wire::kGranule || base % wire::kGranule || base + bytes < base) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUdeviceptr got = 0;
    const CUresult result = invoke(driver_.cuMemAddressReserve, &got, size_t{bytes},
                                   size_t{wire::kGranule}, CUdeviceptr{base}, 0ull);
    if (result != CUDA_SUCCESS) return result;
    if (got != base) {
        invoke(driver_.cuMemAddressFree, got, size_t{bytes});
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    base_ = base;
    bytes_ = bytes;
    return CUDA_SUCCESS;
}

CUresult Memory::map(uint64_t base, uint64_t bytes, CUmemGenericAllocationHandle* handle) {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = device_;
    CUresult result = invoke(driver_.cuMemCreate, handle, size_t{bytes}, &prop, 0ull);
    if (result != CUDA_SUCCESS) return result;
    result = invoke(driver_.cuMemMap, CUdeviceptr{base}, size_t{bytes}, size_t{0}, *handle, 0ull);
    if (result == CUDA_SUCCESS) {
        CUmemAccessDesc access{};
        access.location = prop.location;
        access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        result =
            invoke(driver_.cuMemSetAccess, CUdeviceptr{base}, size_t{bytes}, &access, size_t{1});
        if (result != CUDA_SUCCESS) invoke(driver_.cuMemUnmap, CUdeviceptr{base}, size_t{bytes});
    }
    if (result != CUDA_SUCCESS) invoke(driver_.cuMemRelease, *handle);
    return result;
}

CUresult Memory::grow(uint64_t base, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (!bytes || bytes % wire::kGranule || base % wire::kGranule || base < base_ ||
        bytes > bytes_ || base - base_ > bytes_ - bytes) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (auto at = extents_.lower_bound(base); at != extents_.end() && at->first < base + bytes;
         ++at) {
        return at->second.garbage ? CUDA_ERROR_NOT_READY : CUDA_ERROR_INVALID_VALUE;
    }
    if (auto at = extents_.lower_bound(base); at != extents_.begin()) {
        --at;
        if (at->first + at->second.bytes > base) {
            return at->second.garbage ? CUDA_ERROR_NOT_READY : CUDA_ERROR_INVALID_VALUE;
        }
    }
    if (!ledger_.charge(bytes)) return garbage_ ? CUDA_ERROR_NOT_READY : CUDA_ERROR_OUT_OF_MEMORY;
    Extent extent{bytes, 0, false};
    const CUresult result = map(base, bytes, &extent.handle);
    if (result != CUDA_SUCCESS) {
        ledger_.refund(bytes);
        if (result == CUDA_ERROR_OUT_OF_MEMORY && garbage_) return CUDA_ERROR_NOT_READY;
        return result;
    }
    extents_[base] = extent;
    return CUDA_SUCCESS;
}

bool Memory::discard(uint64_t base, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = extents_.find(base);
    if (found == extents_.end() || found->second.bytes != bytes || found->second.garbage)
        return false;
    found->second.garbage = true;
    ++garbage_;
    return true;
}

bool Memory::has_garbage() {
    const std::lock_guard lock(mutex_);
    return garbage_ != 0;
}

void Memory::unmap(uint64_t base, const Extent& extent) {
    const CUresult result = invoke(driver_.cuMemUnmap, CUdeviceptr{base}, size_t{extent.bytes});
    invoke(driver_.cuMemRelease, extent.handle);
    if (result != CUDA_SUCCESS) CARREL_DEBUG("unmapping device memory: error %d", result);
    ledger_.refund(extent.bytes);
}

void Memory::reap() {
    const std::lock_guard lock(mutex_);
    if (!garbage_) return;
    std::erase_if(extents_, [this](const auto& item) {
        if (item.second.garbage) unmap(item.first, item.second);
        return item.second.garbage;
    });
    garbage_ = 0;
}

bool Memory::mapped(uint64_t address, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto at = extents_.upper_bound(address);
    if (at == extents_.begin()) return false;
    --at;
    return address - at->first < at->second.bytes &&
           bytes <= at->first + at->second.bytes - address;
}

void Memory::clear(bool release_range) {
    const std::lock_guard lock(mutex_);
    for (const auto& [base, extent] : extents_) unmap(base, extent);
    extents_.clear();
    garbage_ = 0;
    if (release_range && base_) {
        invoke(driver_.cuMemAddressFree, CUdeviceptr{base_}, size_t{bytes_});
        base_ = 0;
    }
}

}  // namespace carrel::worker
