// Memory pools and stream-ordered allocation, on the same arena as everything else: an allocation
// is usable at once, and freed memory waits for other streams before it is handed out again.
#include "client/pool.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "client/forward.hpp"
#include "client/graph.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct Pool {
    std::mutex mutex;
    uint64_t release_threshold = 0;
    int reuse[4] = {0, 1, 1, 1};  // by attribute number
    CUmemoryPool handle = nullptr;
    bool is_default = false;
    uint64_t max_bytes = 0;  // 0: no bound of its own
    uint64_t used = 0;       // bytes allocated now, and the most since that was reset
    uint64_t used_high = 0;
    uint64_t reserved_high = 0;
};

Pool* make_pool(bool is_default) {
    auto* pool = new Pool;  // never deleted: a stale handle must stay harmless
    pool->handle = Handles::handle<CUmemoryPool>(handles().create(Kind::pool, pool));
    pool->is_default = is_default;
    return pool;
}

Pool* default_pool() {
    static Pool* const pool = make_pool(true);
    return pool;
}

std::atomic<Pool*> current{nullptr};

Pool* find_pool(CUmemoryPool handle) {
    const uint32_t name = Handles::name(handle);
    return handles().kind(name) == Kind::pool ? static_cast<Pool*>(handles().object(name))
                                              : nullptr;
}

bool known_stream(CUstream stream) {
    return reinterpret_cast<uint64_t>(stream) <= wire::kPerThreadStream ||
           handles().kind(Handles::name(stream)) == Kind::stream;
}

// What was allocated from which pool.
struct Owned {
    Pool* pool;
    uint64_t bytes;
};
std::mutex owned_mutex;
std::unordered_map<CUdeviceptr, Owned> owned;

Pool* current_pool() {
    Pool* const set = current.load();
    return set ? set : default_pool();
}

// Memory that no allocation uses is anybody's; the default pool says that it is its own.
uint64_t reserved(const Pool& pool) {
    return pool.used + (pool.is_default ? idle_device_bytes() : 0);
}

CUresult allocate(Pool& pool, size_t bytes, CUdeviceptr* out, CUstream stream) {
    if (!known_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(stream, &captured)) return bad;
        if (captured) return capture_allocation(bytes, out, stream);
    }
    {
        const std::lock_guard lock(pool.mutex);
        if (pool.max_bytes && bytes > pool.max_bytes - std::min(pool.used, pool.max_bytes)) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (const CUresult bad = allocate_device(bytes, out)) return bad;
    {
        const std::lock_guard lock(owned_mutex);
        owned[*out] = {&pool, bytes};
        detail::pool_memory.store(true, std::memory_order_relaxed);
    }
    const std::lock_guard lock(pool.mutex);
    pool.used += bytes;
    pool.used_high = std::max(pool.used_high, pool.used);
    pool.reserved_high = std::max(pool.reserved_high, reserved(pool));
    return CUDA_SUCCESS;
}

CUresult check(CUdevice device) {
    if (const CUresult bad = session().status()) return bad;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

}  // namespace

namespace carrel::client {

void detail::forget_pool_memory(CUdeviceptr pointer) {
    Owned gone;
    {
        const std::lock_guard lock(owned_mutex);
        const auto found = owned.find(pointer);
        if (found == owned.end()) return;
        gone = found->second;
        owned.erase(found);
    }
    const std::lock_guard lock(gone.pool->mutex);
    gone.pool->used -= gone.bytes;
}

void forget_pools() {
    const std::lock_guard lock(owned_mutex);
    for (const auto& [pointer, each] : owned) {
        const std::lock_guard inner(each.pool->mutex);
        each.pool->used -= each.bytes;
    }
    owned.clear();
}

}  // namespace carrel::client

CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) {
    if (const CUresult bad = session().status()) return bad;
    return allocate(*current_pool(), bytesize, dptr, hStream);
}

CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                         CUstream hStream) {
    Pool* const known = find_pool(pool);
    return known ? allocate(*known, bytesize, dptr, hStream) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
    if (!known_stream(hStream)) return CUDA_ERROR_INVALID_HANDLE;
    if (captures_exist()) {
        bool captured = false;
        if (const CUresult bad = check_capture(hStream, &captured)) return bad;
        if (captured) return capture_release(dptr, hStream);
    }
    forget_graph_memory(dptr);
    forget_pool_memory(dptr);
    return free_device(dptr);
}

CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool* pool_out, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pool_out) return CUDA_ERROR_INVALID_VALUE;
    *pool_out = default_pool()->handle;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    *pool = current_pool()->handle;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    if (const CUresult bad = check(dev)) return bad;
    Pool* known = find_pool(pool);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    current = known;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) {
    if (const CUresult bad = session().status()) return bad;
    if (!pool || !poolProps) return CUDA_ERROR_INVALID_VALUE;
    if (poolProps->handleTypes || poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    if (poolProps->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
    Pool* const made = make_pool(false);
    made->max_bytes = poolProps->maxSize;
    *pool = made->handle;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool) {
    Pool* known = find_pool(pool);
    if (!known || known->is_default) return CUDA_ERROR_INVALID_VALUE;
    Pool* expected = known;
    current.compare_exchange_strong(expected, nullptr);
    handles().erase(Handles::name(pool));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
    if (!find_pool(pool)) return CUDA_ERROR_INVALID_HANDLE;
    trim_device(minBytesToKeep);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
    Pool* known = find_pool(pool);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    const std::lock_guard lock(known->mutex);
    switch (attr) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
            known->reuse[attr] = *static_cast<int*>(value);
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            known->release_threshold = *static_cast<cuuint64_t*>(value);
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
            if (*static_cast<cuuint64_t*>(value)) return CUDA_ERROR_INVALID_VALUE;
            known->reserved_high = reserved(*known);
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            if (*static_cast<cuuint64_t*>(value)) return CUDA_ERROR_INVALID_VALUE;
            known->used_high = known->used;
            return CUDA_SUCCESS;
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
    Pool* known = find_pool(pool);
    if (!known) return CUDA_ERROR_INVALID_HANDLE;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    const std::lock_guard lock(known->mutex);
    auto* wide = static_cast<cuuint64_t*>(value);
    switch (attr) {
        case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
        case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
            *static_cast<int*>(value) = known->reuse[attr];
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            *wide = known->release_threshold;
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
            *wide = reserved(*known);
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
            *wide = known->used;
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
            *wide = std::max(known->reserved_high, reserved(*known));
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            *wide = known->used_high;
            return CUDA_SUCCESS;
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult CUDAAPI cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* map, size_t count) {
    if (!find_pool(pool)) return CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; map && i < count; ++i) {
        if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || map[i].location.id != 0) {
            return CUDA_ERROR_INVALID_DEVICE;
        }
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool memPool,
                                    CUmemLocation* location) {
    if (!find_pool(memPool)) return CUDA_ERROR_INVALID_HANDLE;
    if (!flags || !location) return CUDA_ERROR_INVALID_VALUE;
    const bool own = location->type == CU_MEM_LOCATION_TYPE_DEVICE && location->id == 0;
    *flags = own ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}
