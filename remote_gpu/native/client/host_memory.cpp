#include "client/host_memory.hpp"

#include <sys/mman.h>

#include <map>
#include <mutex>

#include "client/forward.hpp"
#include "client/mirror.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

namespace {
std::mutex mutex;
std::map<uint64_t, HostRange> ranges;
}  // namespace

std::optional<HostRange> find_host(uint64_t address) {
    const std::lock_guard lock(mutex);
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return std::nullopt;
    --after;
    if (address - after->first >= after->second.size) return std::nullopt;
    return after->second;
}

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!pp || !bytesize || (Flags & ~7u)) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    if (Flags & kCU_MEMHOSTALLOC_DEVICEMAP) {
        uint64_t base = 0;
        if (const CUresult bad = create_mirror(bytesize, MirrorKind::mapped, &base)) return bad;
        const std::lock_guard lock(mutex);
        ranges[base] = {base, bytesize, Flags, false};
        *pp = reinterpret_cast<void*>(base);
        return CUDA_SUCCESS;
    }
    void* at = mmap(nullptr, bytesize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    const auto base = reinterpret_cast<uint64_t>(at);
    const std::lock_guard lock(mutex);
    ranges[base] = {base, bytesize, Flags, false};
    *pp = at;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAllocHost_v2(void** pp, size_t bytesize) {
    return cuMemHostAlloc(pp, bytesize, 0);
}

CUresult CUDAAPI cuMemFreeHost(void* p) {
    if (!p) return CUDA_SUCCESS;
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    const std::lock_guard lock(mutex);
    const auto range = ranges.find(reinterpret_cast<uint64_t>(p));
    if (range == ranges.end() || range->second.registered) return CUDA_ERROR_INVALID_VALUE;
    const HostRange gone = range->second;
    ranges.erase(range);
    if (gone.flags & kCU_MEMHOSTALLOC_DEVICEMAP) return drop_mirror(gone.base, MirrorKind::mapped);
    munmap(p, gone.size);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!p || !bytesize || (Flags & ~15u)) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    const auto base = reinterpret_cast<uint64_t>(p);
    const std::lock_guard lock(mutex);
    const auto after = ranges.lower_bound(base);
    if ((after != ranges.end() && after->first < base + bytesize) ||
        (after != ranges.begin() &&
         std::prev(after)->first + std::prev(after)->second.size > base)) {
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    if (Flags & kCU_MEMHOSTREGISTER_DEVICEMAP) {
        if (const CUresult bad = register_mirror(p, bytesize)) return bad;
    }
    ranges[base] = {base, bytesize, Flags, true};
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostUnregister(void* p) {
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    const std::lock_guard lock(mutex);
    const auto range = ranges.find(reinterpret_cast<uint64_t>(p));
    if (range == ranges.end() || !range->second.registered) {
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    }
    const HostRange gone = range->second;
    ranges.erase(range);
    if (gone.flags & kCU_MEMHOSTREGISTER_DEVICEMAP)
        return drop_mirror(gone.base, MirrorKind::registered);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned int* pFlags, void* p) {
    if (!pFlags) return CUDA_ERROR_INVALID_VALUE;
    const auto range = find_host(reinterpret_cast<uint64_t>(p));
    if (!range) return CUDA_ERROR_INVALID_VALUE;
    *pFlags = range->flags;
    return CUDA_SUCCESS;
}

// Only memory that was allocated or registered as mapped has an address on the device.
CUresult CUDAAPI cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) {
    if (!pdptr || Flags) return CUDA_ERROR_INVALID_VALUE;
    *pdptr = 0;
    const auto host = reinterpret_cast<uint64_t>(p);
    const auto mirror = find_mirror(host);
    if (!mirror) return CUDA_ERROR_INVALID_VALUE;
    *pdptr = mirror->device + (host - mirror->host);
    return CUDA_SUCCESS;
}
