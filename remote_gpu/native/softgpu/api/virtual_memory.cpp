// cuMemAddressReserve, cuMemCreate, cuMemMap …: addresses and memory apart.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

// Reserved ranges and memory handles; belongs to no context, as in CUDA.
struct State {
    std::mutex mutex;
    std::map<std::uint64_t, std::uint64_t> reserved;  // base -> bytes
    struct Held {
        std::shared_ptr<PhysicalMemory> memory;
        unsigned count = 0;
    };
    std::map<CUmemGenericAllocationHandle, Held> handles;
    CUmemGenericAllocationHandle next_handle = 0x10000;

    // The caller holds the mutex.
    bool inside_reservation(std::uint64_t address, std::uint64_t bytes) {
        auto next = reserved.upper_bound(address);
        if (next == reserved.begin()) return false;
        --next;
        return address - next->first < next->second &&
               bytes <= next->first + next->second - address;
    }
    std::shared_ptr<PhysicalMemory> memory(CUmemGenericAllocationHandle handle) {
        const auto found = handles.find(handle);
        require(found != handles.end());
        return found->second.memory;
    }
    CUmemGenericAllocationHandle hold(std::shared_ptr<PhysicalMemory> memory) {
        for (auto& [handle, held] : handles)
            if (held.memory == memory) {
                ++held.count;
                return handle;
            }
        handles.emplace(next_handle, Held{std::move(memory), 1});
        return next_handle++;
    }
};

State& state() {
    static auto* state = new State;
    return *state;
}

void require_granules(std::uint64_t address, std::uint64_t bytes) {
    require(address % kGranule == 0 && bytes % kGranule == 0 && bytes > 0 &&
            address < PageTable::kAddressLimit && bytes <= PageTable::kAddressLimit - address);
}

void require_properties(const CUmemAllocationProp* prop) {
    require(prop && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED);
    require(prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE ||
                prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
            CUDA_ERROR_NOT_SUPPORTED);
    require(prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE ||
            prop->location.type == CU_MEM_LOCATION_TYPE_HOST);
    if (prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
        (void)Runtime::get().device(prop->location.id);
}

// The mappings that make up the range exactly. Throws otherwise.
std::vector<Allocation> mappings(std::uint64_t address, std::uint64_t bytes) {
    auto found = Runtime::get().addresses().within(address, bytes);
    std::uint64_t expected = address;
    for (const Allocation& each : found) {
        require(each.kind == MemoryKind::mapped && each.base == expected);
        expected += each.bytes;
    }
    require(!found.empty() && expected == address + bytes);
    return found;
}

void protect(std::uint64_t address, std::uint64_t bytes, int protection) {
    require(::mprotect(reinterpret_cast<void*>(address), bytes, protection) == 0,
            CUDA_ERROR_OPERATING_SYSTEM);
}

}  // namespace

CUresult cuMemAddressReserve(CUdeviceptr* ptr, size_t size, size_t alignment, CUdeviceptr addr,
                             unsigned long long flags) {
    return entry([&] {
        require(ptr && flags == 0 && (alignment & (alignment - 1)) == 0);
        require_granules(0, size);
        const std::uint64_t align = std::max<std::uint64_t>(alignment, kGranule);
        std::uint64_t base = 0;
        // The address is a wish: taken where it is free, elsewhere otherwise.
        if (addr != 0 && addr % align == 0 && addr < PageTable::kAddressLimit &&
            size <= PageTable::kAddressLimit - addr)
            base = reserve_addresses(size, align, addr);
        if (base == 0) base = reserve_addresses(size, align);
        require(base != 0, CUDA_ERROR_OUT_OF_MEMORY);
        const std::lock_guard lock(state().mutex);
        state().reserved.emplace(base, size);
        *ptr = base;
    });
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size) {
    return entry([&] {
        const std::lock_guard lock(state().mutex);
        const auto found = state().reserved.find(ptr);
        require(found != state().reserved.end() && found->second == size);
        require(!Runtime::get().addresses().overlaps(ptr, size));
        release_addresses(ptr, size);
        state().reserved.erase(found);
    });
}

CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* prop,
                                       CUmemAllocationGranularity_flags option) {
    return entry([&] {
        require(granularity != nullptr);
        require(option == CU_MEM_ALLOC_GRANULARITY_MINIMUM ||
                option == CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
        require_properties(prop);
        *granularity = kGranule;
    });
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                     const CUmemAllocationProp* prop, unsigned long long flags) {
    return entry([&] {
        require(handle && flags == 0);
        require_properties(prop);
        require_granules(0, size);
        const bool on_device = prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
        auto memory = std::make_shared<PhysicalMemory>(
            on_device ? Runtime::get().device(prop->location.id).shared_account() : nullptr, size,
            *prop);
        const std::lock_guard lock(state().mutex);
        *handle = state().hold(std::move(memory));
    });
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    return entry([&] {
        State::Held gone;  // ends outside the lock
        const std::lock_guard lock(state().mutex);
        const auto found = state().handles.find(handle);
        require(found != state().handles.end());
        if (--found->second.count > 0) return;
        gone = std::move(found->second);
        state().handles.erase(found);
    });
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* addr) {
    return entry([&] {
        require(handle != nullptr);
        const auto mapping = Runtime::get().addresses().find(reinterpret_cast<std::uint64_t>(addr));
        require(mapping && mapping->physical);
        const std::lock_guard lock(state().mutex);
        *handle = state().hold(mapping->physical);
    });
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop,
                                                CUmemGenericAllocationHandle handle) {
    return entry([&] {
        require(prop != nullptr);
        const std::lock_guard lock(state().mutex);
        *prop = state().memory(handle)->properties();
    });
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
    return entry([&] {
        require(flags == 0 && offset % kGranule == 0);
        require_granules(ptr, size);
        const std::lock_guard lock(state().mutex);
        const auto memory = state().memory(handle);
        require(offset <= memory->bytes() && size <= memory->bytes() - offset);
        require(state().inside_reservation(ptr, size));
        require(!Runtime::get().addresses().overlaps(ptr, size));
        // No access until cuMemSetAccess gives it.
        require(::mmap(reinterpret_cast<void*>(ptr), size, PROT_NONE, MAP_SHARED | MAP_FIXED,
                       memory->descriptor(), static_cast<off_t>(offset)) != MAP_FAILED,
                CUDA_ERROR_OUT_OF_MEMORY);
        Allocation mapping;
        mapping.base = ptr;
        mapping.bytes = size;
        mapping.kind = MemoryKind::mapped;
        mapping.device = memory->properties().location.id;
        mapping.physical = memory;
        mapping.physical_offset = offset;
        mapping.access = CU_MEM_ACCESS_FLAGS_PROT_NONE;
        Runtime::get().addresses().add(std::move(mapping));
    });
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
    return entry([&] {
        require_granules(ptr, size);
        const auto parts = mappings(ptr, size);
        Runtime::get().drain_all();
        const std::lock_guard lock(state().mutex);
        Runtime::get().pages().unmap(ptr, size);
        require(
            ::mmap(reinterpret_cast<void*>(ptr), size, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED,
            CUDA_ERROR_OPERATING_SYSTEM);
        for (const Allocation& each : parts) Runtime::get().addresses().remove(each.base);
    });
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc* desc, size_t count) {
    return entry([&] {
        require_granules(ptr, size);
        require(desc && count > 0);
        unsigned access = CU_MEM_ACCESS_FLAGS_PROT_NONE;
        for (std::size_t i = 0; i < count; ++i) {
            if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE)
                (void)Runtime::get().device(desc[i].location.id);
            require(desc[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE ||
                    desc[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READ ||
                    desc[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
            access |= static_cast<unsigned>(desc[i].flags);
        }
        // Read-only is not enforced: the page table keeps one bit per granule.
        const bool open = access != CU_MEM_ACCESS_FLAGS_PROT_NONE;
        const auto parts = mappings(ptr, size);
        if (!open) Runtime::get().drain_all();
        if (!open) Runtime::get().pages().unmap(ptr, size);
        protect(ptr, size, open ? PROT_READ | PROT_WRITE : PROT_NONE);
        if (open) Runtime::get().pages().map(ptr, size);
        for (const Allocation& each : parts)
            Runtime::get().addresses().update(
                each.base, [&](Allocation& mapping) { mapping.access = access; });
    });
}

CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr ptr) {
    return entry([&] {
        require(flags && location);
        const auto mapping = Runtime::get().addresses().find(ptr);
        require(mapping && mapping->kind == MemoryKind::mapped);
        *flags = mapping->access;
    });
}

CUresult cuMemExportToShareableHandle(void* shareableHandle, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType handleType,
                                      unsigned long long flags) {
    return entry([&] {
        require(shareableHandle && flags == 0);
        require(handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, CUDA_ERROR_NOT_SUPPORTED);
        const std::lock_guard lock(state().mutex);
        const auto memory = state().memory(handle);
        require(memory->properties().requestedHandleTypes == handleType);
        const int descriptor = ::fcntl(memory->descriptor(), F_DUPFD_CLOEXEC, 0);
        require(descriptor >= 0, CUDA_ERROR_OPERATING_SYSTEM);
        *static_cast<int*>(shareableHandle) = descriptor;
    });
}
