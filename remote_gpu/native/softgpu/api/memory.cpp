// cuMemAlloc*, cuMemFree*, host and managed memory.
#include <unistd.h>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/pool.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUdeviceptr allocate(Context& context, std::size_t bytes, MemoryKind kind, unsigned flags) {
    const bool charged = kind == MemoryKind::device;
    Heap& heap = charged ? context.device_heap() : context.host_heap();
    Allocation allocation;
    allocation.base = heap.allocate(bytes);
    allocation.bytes = bytes;
    allocation.kind = kind;
    allocation.context = &context;
    allocation.device = context.device().ordinal();
    allocation.flags = flags;
    const CUdeviceptr address = allocation.base;
    Runtime::get().addresses().add(std::move(allocation));
    return address;
}

void* host_pointer(CUdeviceptr address) {
    return reinterpret_cast<void*>(address);
}

CUdeviceptr address_of(const void* pointer) {
    return reinterpret_cast<CUdeviceptr>(pointer);
}

Allocation find_host(const void* pointer) {
    const auto allocation = Runtime::get().addresses().find(address_of(pointer));
    require(allocation && allocation->host());
    return *allocation;
}

std::uint64_t page_bytes() {
    return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

constexpr unsigned kHostAllocFlags = 7;      // portable, device map, write combined
constexpr unsigned kHostRegisterFlags = 15;  // portable, device map, I/O memory, read only

}  // namespace

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    return entry_in_context([&](Context& context) {
        require(free && total);
        const std::size_t used = context.device().account().used_bytes();
        *total = context.device().account().total_bytes();
        *free = used < *total ? *total - used : 0;
    });
}

CUresult cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) {
    return entry_in_context([&](Context& context) {
        require_unsafe_call_allowed();
        require(dptr != nullptr);
        *dptr = allocate(context, bytesize, MemoryKind::device, 0);
    });
}

CUresult cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes, size_t Height,
                            unsigned int ElementSizeBytes) {
    return entry_in_context([&](Context& context) {
        require_unsafe_call_allowed();
        require(dptr && pPitch && WidthInBytes > 0 && Height > 0);
        require(ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16);
        require(WidthInBytes <= limits::kPitch);
        const std::size_t pitch = round_up(WidthInBytes, 512);
        require(Height <= SIZE_MAX / pitch, CUDA_ERROR_OUT_OF_MEMORY);
        *dptr = allocate(context, pitch * Height, MemoryKind::device, 0);
        *pPitch = pitch;
    });
}

CUresult cuMemFree_v2(CUdeviceptr dptr) {
    return entry([&] {
        if (dptr == 0) return;
        require_unsafe_call_allowed();
        Runtime& runtime = Runtime::get();
        const auto known = runtime.addresses().find(dptr);
        require(known && known->base == dptr &&
                (known->kind == MemoryKind::device || known->kind == MemoryKind::managed));
        known->context->drain();
        const auto gone = runtime.addresses().remove(
            dptr, [&](const Allocation& each) { return each.id == known->id; });
        require(gone.has_value());
        if (gone->pool) gone->pool->used -= gone->bytes;
        Heap& heap = gone->kind == MemoryKind::device ? gone->context->device_heap()
                                                      : gone->context->host_heap();
        heap.free(dptr);
        // Memory of a failed context can still be freed; the error is told all the same.
        if (known->context->error() != CUDA_SUCCESS) throw Failure(known->context->error());
    });
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* pbase, size_t* psize, CUdeviceptr dptr) {
    return entry_in_context([&](Context&) {
        const auto allocation = Runtime::get().addresses().find(dptr);
        require(allocation.has_value(), CUDA_ERROR_NOT_FOUND);
        if (pbase) *pbase = allocation->base;
        if (psize) *psize = allocation->bytes;
    });
}

CUresult cuMemAllocHost_v2(void** pp, size_t bytesize) {
    return cuMemHostAlloc(pp, bytesize, 0);
}

CUresult cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) {
    return entry_in_context([&](Context& context) {
        require_unsafe_call_allowed();
        require(pp && (Flags & ~kHostAllocFlags) == 0);
        *pp = host_pointer(allocate(context, bytesize, MemoryKind::host, Flags));
    });
}

CUresult cuMemFreeHost(void* p) {
    return entry([&] {
        require_unsafe_call_allowed();
        const Allocation known = find_host(p);
        require(known.kind == MemoryKind::host && known.base == address_of(p));
        known.context->drain();
        require(Runtime::get().addresses().remove(known.base).has_value());
        known.context->host_heap().free(known.base);
    });
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) {
    return entry_in_context([&](Context&) {
        require(pdptr && Flags == 0);
        (void)find_host(p);
        *pdptr = address_of(p);
    });
}

CUresult cuMemHostGetFlags(unsigned int* pFlags, void* p) {
    return entry_in_context([&](Context&) {
        require(pFlags != nullptr);
        *pFlags = find_host(p).flags;
    });
}

CUresult cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) {
    return entry_in_context([&](Context& context) {
        require_unsafe_call_allowed();
        require(p && bytesize > 0 && (Flags & ~kHostRegisterFlags) == 0);
        require(bytesize < PageTable::kAddressLimit);
        Runtime& runtime = Runtime::get();
        require(!runtime.addresses().overlaps(address_of(p), bytesize),
                CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        const std::uint64_t end = page_of(address_of(p) + bytesize + page_bytes() - 1);
        require(runtime.pages().map_range(page_of(address_of(p)), end), CUDA_ERROR_OUT_OF_MEMORY);
        Allocation allocation;
        allocation.base = address_of(p);
        allocation.bytes = bytesize;
        allocation.kind = MemoryKind::registered;
        allocation.context = &context;
        allocation.device = context.device().ordinal();
        allocation.flags = Flags;
        runtime.addresses().add(std::move(allocation));
    });
}

CUresult cuMemHostUnregister(void* p) {
    return entry([&] {
        require_unsafe_call_allowed();
        Runtime& runtime = Runtime::get();
        const auto known = runtime.addresses().find(address_of(p));
        require(known && known->kind == MemoryKind::registered && known->base == address_of(p),
                CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        known->context->drain();
        require(runtime.addresses().remove(known->base).has_value(),
                CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        runtime.pages().unmap_range(page_of(known->base));
    });
}

// Managed memory is memory of the host that kernels may use, as all of it is here; it may exceed
// the VRAM.
CUresult cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) {
    return entry_in_context([&](Context& context) {
        require_unsafe_call_allowed();
        require(dptr && (flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST));
        *dptr = allocate(context, bytesize, MemoryKind::managed, flags);
    });
}

CUresult cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t, unsigned int flags) {
    return entry([&] {
        (void)find_stream(hStream);
        require(flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST ||
                flags == CU_MEM_ATTACH_SINGLE);
        const auto allocation = Runtime::get().addresses().find(dptr);
        require(allocation && allocation->kind == MemoryKind::managed);
    });
}

namespace {

void require_managed(CUdeviceptr address, std::size_t bytes) {
    const auto allocation = Runtime::get().addresses().find(address);
    require(allocation && allocation->kind == MemoryKind::managed && bytes > 0 &&
            bytes <= allocation->base + allocation->bytes - address);
}

}  // namespace

CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation, unsigned int flags,
                               CUstream hStream) {
    return entry([&] {
        require(flags == 0);
        (void)find_stream(hStream);
        require_managed(devPtr, count);
    });
}

CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice, CUstream hStream) {
    return cuMemPrefetchAsync_v2(devPtr, count, {}, 0, hStream);
}

CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation) {
    return entry_in_context([&](Context&) {
        require(advice >= CU_MEM_ADVISE_SET_READ_MOSTLY &&
                advice <= CU_MEM_ADVISE_UNSET_ACCESSED_BY);
        require_managed(devPtr, count);
    });
}

CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice) {
    return cuMemAdvise_v2(devPtr, count, advice, {});
}
