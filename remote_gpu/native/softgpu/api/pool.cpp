// cuMemAllocAsync, cuMemFreeAsync and memory pools.
#include "softgpu/pool.hpp"

#include <algorithm>

#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUmemoryPool handle_of(const MemoryPool& pool) {
    return HandleTable<MemoryPool, CUmemoryPool>::handle_of(&pool);
}

std::shared_ptr<MemoryPool> find_pool(CUmemoryPool handle) {
    for (int i = 0; i < static_cast<int>(Runtime::get().device_count()); ++i) {
        const auto& pool = Runtime::get().device(i).default_pool;
        if (handle_of(*pool) == handle) return pool;
    }
    return Runtime::get().pools.get(handle, CUDA_ERROR_INVALID_VALUE);
}

void raise(std::atomic<std::uint64_t>& high, std::uint64_t value) {
    std::uint64_t seen = high;
    while (seen < value && !high.compare_exchange_weak(seen, value)) {
    }
}

// Memory is there at once: whatever the stream does with it comes later. The pool lives as long as
// its allocations: it is forgotten by cuMemPoolDestroy only in name.
CUdeviceptr allocate(Stream& stream, MemoryPool& pool, std::size_t bytes) {
    Context& context = stream.context;
    context.require_usable();
    if (capturing(stream)) {
        MemoryAllocation node;
        node.memory = std::make_shared<GraphMemory>(context.shared_from_this(), bytes);
        node.given.bytesize = bytes;
        const std::uint64_t address = node.given.dptr = node.memory->address;
        capture(stream, std::move(node));
        return address;
    }
    require(pool.max_bytes == 0 || pool.used + bytes <= pool.max_bytes, CUDA_ERROR_OUT_OF_MEMORY);
    Allocation allocation;
    allocation.base = context.device_heap().allocate(bytes);
    allocation.bytes = bytes;
    allocation.context = &context;
    allocation.device = context.device().ordinal();
    allocation.pool = &pool;
    const CUdeviceptr address = allocation.base;
    Runtime::get().addresses().add(std::move(allocation));
    raise(pool.used_high, pool.used += bytes);
    raise(pool.reserved_high, pool.used);
    return address;
}

std::atomic<int>* flag_of(MemoryPool& pool, CUmemPool_attribute attribute) {
    switch (attribute) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
            return &pool.reuse_follow_event_dependencies;
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
            return &pool.reuse_allow_opportunistic;
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
            return &pool.reuse_allow_internal_dependencies;
        default:
            return nullptr;
    }
}

}  // namespace

CUresult cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) {
    return entry([&] {
        require(dptr != nullptr);
        const auto stream = find_stream(hStream);
        Device& device = stream->context.device();
        std::shared_ptr<MemoryPool> pool;
        {
            const std::lock_guard lock(device.pool_mutex);
            pool = device.current_pool;
        }
        *dptr = allocate(*stream, *pool, bytesize);
    });
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                 CUstream hStream) {
    return entry([&] {
        require(dptr != nullptr);
        const auto stream = find_stream(hStream);
        *dptr = allocate(*stream, *find_pool(pool), bytesize);
    });
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
    return entry([&] {
        if (dptr == 0) return;
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        if (capturing(*stream)) {
            require(Runtime::get().addresses().find(dptr).has_value());
            capture(*stream, MemoryRelease{dptr});
            return;
        }
        const auto gone = Runtime::get().addresses().remove(
            dptr, [](const Allocation& each) { return each.kind == MemoryKind::device; });
        require(gone.has_value());
        stream->context.enqueue_always(*stream,
                                       [context = gone->context->shared_from_this(), gone = *gone] {
                                           context->device_heap().free(gone.base);
                                           if (gone.pool) gone.pool->used -= gone.bytes;
                                       });
    });
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t) {
    return entry([&] { (void)find_pool(pool); });  // nothing is kept that could be trimmed
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
    return entry([&] {
        require(value != nullptr);
        const auto target = find_pool(pool);
        if (auto* flag = flag_of(*target, attr)) {
            *flag = *static_cast<int*>(value);
            return;
        }
        const auto number = *static_cast<cuuint64_t*>(value);
        switch (attr) {
            case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
                target->release_threshold = number;
                return;
            case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
                require(number == 0);
                target->used_high = target->used.load();
                return;
            case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
                require(number == 0);
                target->reserved_high = target->used.load();
                return;
            default:
                throw Failure(CUDA_ERROR_INVALID_VALUE);
        }
    });
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
    return entry([&] {
        require(value != nullptr);
        const auto target = find_pool(pool);
        if (const auto* flag = flag_of(*target, attr)) {
            *static_cast<int*>(value) = *flag;
            return;
        }
        auto& number = *static_cast<cuuint64_t*>(value);
        switch (attr) {
            case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
                number = target->release_threshold;
                return;
            case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
                number = target->used;
                return;
            case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
                number = target->used_high;
                return;
            case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
                number = target->used;
                return;
            case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
                number = target->reserved_high;
                return;
            default:
                throw Failure(CUDA_ERROR_INVALID_VALUE);
        }
    });
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* map, size_t count) {
    return entry([&] {
        (void)find_pool(pool);  // every software GPU reaches all of the memory
        require(map && count > 0);
    });
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool memPool,
                            CUmemLocation* location) {
    return entry([&] {
        require(flags && location);
        (void)find_pool(memPool);
        *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    });
}

CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) {
    return entry([&] {
        require(pool && poolProps && poolProps->allocType == CU_MEM_ALLOCATION_TYPE_PINNED &&
                poolProps->location.type == CU_MEM_LOCATION_TYPE_DEVICE);
        require(poolProps->handleTypes == CU_MEM_HANDLE_TYPE_NONE, CUDA_ERROR_NOT_SUPPORTED);
        auto made = std::make_shared<MemoryPool>(Runtime::get().device(poolProps->location.id));
        made->max_bytes = poolProps->maxSize;
        *pool = Runtime::get().pools.add(std::move(made));
    });
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    return entry([&] {
        const auto gone = Runtime::get().pools.get(pool, CUDA_ERROR_INVALID_VALUE);
        {
            const std::lock_guard lock(gone->device.pool_mutex);
            if (gone->device.current_pool == gone)
                gone->device.current_pool = gone->device.default_pool;
        }
        // Allocations outlive their pool; its counters must too.
        static auto* retired = new HandleTable<MemoryPool, CUmemoryPool>;
        if (gone->used > 0) retired->add(gone);
        Runtime::get().pools.remove(pool);
    });
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool_out, CUdevice dev) {
    return entry([&] {
        require(pool_out != nullptr);
        *pool_out = handle_of(*Runtime::get().device(dev).default_pool);
    });
}

CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) {
    return entry([&] {
        require(pool != nullptr);
        Device& device = Runtime::get().device(dev);
        const std::lock_guard lock(device.pool_mutex);
        *pool = handle_of(*device.current_pool);
    });
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    return entry([&] {
        Device& device = Runtime::get().device(dev);
        auto wanted = find_pool(pool);
        require(&wanted->device == &device);
        const std::lock_guard lock(device.pool_mutex);
        device.current_pool = std::move(wanted);
    });
}
