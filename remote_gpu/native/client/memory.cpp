#include "client/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>

#include "client/arena.hpp"
#include "client/forward.hpp"
#include "client/graph.hpp"
#include "client/pool.hpp"
#include "cuda_functions.hpp"
#include "wire/log.hpp"

namespace carrel::client {

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kKeepIdle = 64 * kMiB;  // of mapped memory, before it goes back to the slice
constexpr uint64_t kStep = 32 * kMiB;      // mapped at once, so that small allocations stay local
#ifdef __SANITIZE_THREAD__                 // lets a program use a few ranges only
constexpr uint64_t kFirstHint = uint64_t{0x7e81} << 32;
constexpr uint64_t kNextHint = uint64_t{1} << 36;
#else
constexpr uint64_t kFirstHint = uint64_t{0x10} << 40;
constexpr uint64_t kNextHint = uint64_t{0x6} << 40;
#endif
constexpr int kTries = 8;  // address ranges proposed to the worker

std::mutex mutex;  // guards everything below
std::unique_ptr<Arena> arena;
std::map<CUdeviceptr, uint64_t> globals;

uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

// Agrees with the worker on a range of addresses that is free on both sides.
CUresult establish() {
    const uint64_t limit = session().snapshot().total_memory;
    uint64_t bytes = 16 * 1024 * kMiB;
    while (bytes < 8 * limit && bytes < (uint64_t{1} << 40)) bytes *= 2;
    for (int i = 0; i < kTries; ++i) {
        // Far from where the system places libraries and heaps.
        const uint64_t hint = kFirstHint + kNextHint * static_cast<uint64_t>(i);
        void* at = mmap(reinterpret_cast<void*>(hint), bytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == MAP_FAILED) continue;
        const auto base = reinterpret_cast<uint64_t>(at);
        const CUresult result = ask(
            wire::Internal::arena,
            [&](wire::Writer& w) {
                w.put(base);
                w.put(bytes);
            },
            [](CUresult, wire::Reader&) {});
        if (result == CUDA_SUCCESS) {
            arena = std::make_unique<Arena>(base, bytes);
            return result;
        }
        munmap(at, bytes);
        if (session().status()) return session().status();
    }
    CARREL_WARNING("no range of addresses is free both here and on the GPU host");
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult map_extent(uint64_t bytes) {
    const auto place = arena->place(bytes);
    if (!place) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult result = ask(
        wire::Internal::grow,
        [&](wire::Writer& w) {
            w.put(*place);
            w.put(bytes);
        },
        [](CUresult, wire::Reader&) {});
    if (result == CUDA_SUCCESS) arena->add_extent(*place, bytes);
    return result;
}

void release(uint64_t keep) {
    for (const Arena::Range& extent : arena->release(keep)) {
        post(wire::Internal::unmap, [&](wire::Writer& w) {
            w.put(extent.base);
            w.put(extent.size);
        });
    }
}

// Maps memory for an allocation of `bytes`.
CUresult grow(uint64_t bytes) {
    const uint64_t limit = session().snapshot().total_memory;
    const uint64_t exact = round_up(bytes, Arena::kGranule);
    if (exact < bytes || exact > limit) return CUDA_ERROR_OUT_OF_MEMORY;
    const uint64_t step = std::max(exact, round_up(std::min(kStep, limit / 16), Arena::kGranule));
    CUresult result = map_extent(step);
    if (result == CUDA_ERROR_OUT_OF_MEMORY && step > exact) result = map_extent(exact);
    if (result == CUDA_ERROR_OUT_OF_MEMORY && arena->idle()) {
        release(0);
        result = map_extent(exact);
    }
    return result;
}

// Programs report the error's name alone: say the slice's numbers, at most once a second.
void explain_out_of_memory(uint64_t bytes) {
    using Clock = std::chrono::steady_clock;
    static std::atomic<Clock::rep> last{0};
    const Clock::rep now = Clock::now().time_since_epoch().count();
    Clock::rep before = last.load();
    if (before && now - before < Clock::duration(std::chrono::seconds(1)).count()) return;
    if (!last.compare_exchange_strong(before, now)) return;
    size_t free = 0, total = 0;
    if (cuMemGetInfo_v2(&free, &total) != CUDA_SUCCESS) return;
    CARREL_WARNING(
        "out of memory: %.1f MiB asked for, %.1f of the slice's %.0f MiB are free (this program "
        "has %.1f MiB allocated). Free arrays you no longer need, restart other notebooks of this "
        "server, or start the server with a larger slice",
        static_cast<double>(bytes) / kMiB, static_cast<double>(free) / kMiB,
        static_cast<double>(total) / kMiB, static_cast<double>(used_device_bytes()) / kMiB);
}

}  // namespace

bool in_arena(CUdeviceptr pointer) {
    const std::lock_guard lock(mutex);
    return arena && arena->contains(pointer);
}

std::optional<DeviceRange> find_device(CUdeviceptr pointer) {
    const std::lock_guard lock(mutex);
    if (arena && arena->contains(pointer)) {
        const auto range = arena->find(pointer);
        if (!range) return std::nullopt;
        return DeviceRange{range->base, range->size};
    }
    auto after = globals.upper_bound(pointer);
    if (after == globals.begin()) return std::nullopt;
    --after;
    if (pointer - after->first >= after->second) return std::nullopt;
    return DeviceRange{after->first, after->second, true};
}

CUresult allocate_device(uint64_t bytes, CUdeviceptr* out) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!out || !bytes) return CUDA_ERROR_INVALID_VALUE;
    std::unique_lock lock(mutex);
    if (!arena) {
        if (const CUresult bad = establish()) return bad;
    }
    auto taken = arena->allocate(bytes);
    if (!taken) {
        const CUresult grown = grow(bytes);
        if (grown == CUDA_SUCCESS) taken = arena->allocate(bytes);
        if (!taken) {
            lock.unlock();
            if (grown && grown != CUDA_ERROR_OUT_OF_MEMORY) return grown;
            explain_out_of_memory(bytes);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    lock.unlock();
    // Another stream may still use what was freed here: wait, as CUDA's cuMemFree would have.
    if (still_in_use(taken->stamp)) {
        if (const CUresult bad = cuCtxSynchronize()) return bad;
    }
    *out = taken->base;
    return CUDA_SUCCESS;
}

CUresult free_device(CUdeviceptr pointer) {
    if (const CUresult bad = session().status()) return bad;
    if (!pointer) return CUDA_SUCCESS;
    const std::lock_guard lock(mutex);
    if (!arena || !arena->free(pointer, work.issued.load(std::memory_order_relaxed))) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (arena->idle() > kKeepIdle) release(kKeepIdle);
    return CUDA_SUCCESS;
}

uint64_t idle_device_bytes() {
    const std::lock_guard lock(mutex);
    return arena ? arena->idle() : 0;
}

uint64_t used_device_bytes() {
    const std::lock_guard lock(mutex);
    return arena ? arena->used() : 0;
}

void trim_device(uint64_t keep) {
    const std::lock_guard lock(mutex);
    if (arena) release(keep);
}

void add_global(CUdeviceptr base, uint64_t size) {
    const std::lock_guard lock(mutex);
    globals[base] = size;
}

void memory_forget_all() {
    const std::lock_guard lock(mutex);
    if (arena) arena->clear();
    globals.clear();
}

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) {
    trace(Call::cuMemAlloc_v2, false);
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    return allocate_device(bytesize, dptr);
}

CUresult CUDAAPI cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes,
                                    size_t Height, unsigned int ElementSizeBytes) {
    if (!dptr || !pPitch || !WidthInBytes || !Height) return CUDA_ERROR_INVALID_VALUE;
    if (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    const size_t pitch = round_up(WidthInBytes, Arena::kAlignment);
    if (pitch < WidthInBytes || Height > SIZE_MAX / pitch) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult result = allocate_device(pitch * Height, dptr);
    if (result == CUDA_SUCCESS) *pPitch = pitch;
    return result;
}

CUresult CUDAAPI cuMemFree_v2(CUdeviceptr dptr) {
    trace(Call::cuMemFree_v2, false);
    if (const CUresult bad = refuse_unsafe_call()) return bad;
    forget_graph_memory(dptr);
    forget_pool_memory(dptr);
    if (mirrors_exist() && dptr) {
        const auto mirror = find_mirror(dptr);
        if (mirror && mirror->kind == MirrorKind::managed)
            return drop_mirror(dptr, MirrorKind::managed);
    }
    return free_device(dptr);
}

CUresult CUDAAPI cuMemGetInfo_v2(size_t* free, size_t* total) {
    uint64_t spare = 0;
    const CUresult result = call(
        Call::cuMemGetInfo_v2, [](wire::Writer&) {},
        [&](wire::Reader& r) { spare = r.get<uint64_t>(); });
    if (result != CUDA_SUCCESS) return result;
    const uint64_t limit = session().snapshot().total_memory;
    if (free) *free = std::min(limit, spare + idle_device_bytes());
    if (total) *total = limit;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetAddressRange_v2(CUdeviceptr* pbase, size_t* psize, CUdeviceptr dptr) {
    if (const CUresult bad = session().status()) return bad;
    if (const auto mirror = find_mirror(dptr)) {
        if (pbase) *pbase = mirror->device;
        if (psize) *psize = mirror->size;
        return CUDA_SUCCESS;
    }
    const auto range = find_device(dptr);
    if (!range) return CUDA_ERROR_NOT_FOUND;
    if (pbase) *pbase = range->base;
    if (psize) *psize = range->size;
    return CUDA_SUCCESS;
}
