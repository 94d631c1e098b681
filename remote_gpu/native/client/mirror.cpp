#include "client/mirror.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "client/copies.hpp"
#include "client/forward.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"
#include "wire/log.hpp"

namespace carrel::client {

namespace {

constexpr size_t kPage = 4096;

struct Mirror {
    MirrorRange range;
    CUdeviceptr allocation;  // what the arena gave; `range.device` is aligned to a page
    std::unique_ptr<std::byte[]> shadow;

    std::byte* host() const { return reinterpret_cast<std::byte*>(range.host); }
};

std::mutex mutex;                    // guards everything below
std::map<uint64_t, Mirror> mirrors;  // by host address
size_t total = 0;
bool in_flight = false;  // device work has been issued since the last collect

size_t whole_pages(size_t bytes) {
    return (bytes + kPage - 1) / kPage * kPage;
}

// Takes `size` bytes of the limit, or says why not.
bool reserve(size_t size) {
    const std::lock_guard lock(mutex);
    if (size <= kMirrorLimit - total) {
        total += size;
        return true;
    }
    CARREL_WARNING(
        "%zu MiB of managed or mapped memory on top of %zu MiB: a program on a slice can have %zu "
        "MiB in all; use device memory and copies beyond that",
        size >> 20, total >> 20, kMirrorLimit >> 20);
    return false;
}

// Allocates both sides. Takes no lock: allocating may wait for the device, and waiting collects.
CUresult build(size_t bytes, MirrorKind kind, void* existing, Mirror& mirror) {
    const size_t size = whole_pages(bytes);
    if (const CUresult bad = allocate_device(size + kPage, &mirror.allocation)) return bad;
    const CUdeviceptr device = whole_pages(mirror.allocation);
    mirror.range = {existing ? reinterpret_cast<uint64_t>(existing) : device, device,
                    existing ? bytes : size, kind};
    // Both sides start as zeros, and so does the shadow; what registered memory holds goes with
    // the first publish.
    mirror.shadow = std::make_unique<std::byte[]>(size);
    CUresult result = cuMemsetD8Async(device, 0, size, nullptr);
    if (result == CUDA_SUCCESS && !existing) {
        void* at = mmap(reinterpret_cast<void*>(device), size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (at == MAP_FAILED) result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS) free_device(mirror.allocation);
    return result;
}

CUresult add(size_t bytes, MirrorKind kind, void* existing, uint64_t* base) {
    const size_t size = whole_pages(bytes);
    if (size < bytes || !reserve(size)) return CUDA_ERROR_OUT_OF_MEMORY;
    Mirror mirror;
    const CUresult result = build(bytes, kind, existing, mirror);
    const std::lock_guard lock(mutex);
    if (result != CUDA_SUCCESS) {
        total -= size;
        return result;
    }
    if (base) *base = mirror.range.host;
    mirrors.emplace(mirror.range.host, std::move(mirror));
    detail::mirrors = true;
    return CUDA_SUCCESS;
}

void release(Mirror& mirror) {
    if (mirror.range.kind != MirrorKind::registered) {
        mmap(mirror.host(), whole_pages(mirror.range.size), PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    }
    total -= whole_pages(mirror.range.size);
}

CUresult send(Mirror& mirror, size_t from, size_t to) {
    const CUresult sent =
        send_in(mirror.range.device + from, mirror.host() + from, to - from, nullptr);
    std::memcpy(mirror.shadow.get() + from, mirror.host() + from, to - from);
    return sent;
}

// Exactly the bytes that differ: the device may be writing next to them.
CUresult send_bytes(Mirror& mirror, size_t from, size_t to) {
    const std::byte *host = mirror.host(), *shadow = mirror.shadow.get();
    while (from < to) {
        const auto first = std::mismatch(host + from, host + to, shadow + from);
        from = static_cast<size_t>(first.first - host);
        size_t end = from;
        while (end < to && host[end] != shadow[end]) ++end;
        if (from < end) {
            if (const CUresult bad = send(mirror, from, end)) return bad;
        }
        from = end;
    }
    return CUDA_SUCCESS;
}

CUresult publish(Mirror& mirror) {
    const size_t size = mirror.range.size;
    for (size_t at = 0; at < size;) {
        size_t end = at;  // a run of pages that the host has changed
        while (end < size && std::memcmp(mirror.host() + end, mirror.shadow.get() + end,
                                         std::min(kPage, size - end)) != 0) {
            end = std::min(end + kPage, size);
        }
        if (end > at) {
            const CUresult bad = in_flight ? send_bytes(mirror, at, end) : send(mirror, at, end);
            if (bad) return bad;
        }
        at = std::min(end + kPage, size);
    }
    return CUDA_SUCCESS;
}

CUresult collect(Mirror& mirror, std::byte* fetched) {
    const size_t size = mirror.range.size;
    if (const CUresult bad = fetch_out(fetched, mirror.range.device, size, nullptr)) return bad;
    std::byte *host = mirror.host(), *shadow = mirror.shadow.get();
    for (size_t at = 0; at < size; at += kPage) {
        const size_t n = std::min(kPage, size - at);
        if (std::memcmp(fetched + at, shadow + at, n) == 0) continue;
        if (std::memcmp(host + at, shadow + at, n) == 0) {
            std::memcpy(host + at, fetched + at, n);
        } else {
            for (size_t i = at; i < at + n; ++i) {
                if (fetched[i] != shadow[i]) host[i] = fetched[i];
            }
        }
        std::memcpy(shadow + at, fetched + at, n);
    }
    return CUDA_SUCCESS;
}

}  // namespace

CUresult create_mirror(size_t bytes, MirrorKind kind, uint64_t* base) {
    return add(bytes, kind, nullptr, base);
}

CUresult register_mirror(void* host, size_t bytes) {
    return add(bytes, MirrorKind::registered, host, nullptr);
}

CUresult drop_mirror(uint64_t host, MirrorKind kind) {
    CUdeviceptr allocation = 0;
    {
        const std::lock_guard lock(mutex);
        const auto found = mirrors.find(host);
        if (found == mirrors.end() || found->second.range.kind != kind)
            return CUDA_ERROR_INVALID_VALUE;
        allocation = found->second.allocation;
        release(found->second);
        mirrors.erase(found);
        detail::mirrors = !mirrors.empty();
    }
    return free_device(allocation);
}

void forget_mirrors() {
    const std::lock_guard lock(mutex);
    for (auto& [host, mirror] : mirrors) release(mirror);
    mirrors.clear();
    in_flight = false;
    detail::mirrors = false;
}

std::optional<MirrorRange> find_mirror(uint64_t address) {
    if (!mirrors_exist()) return std::nullopt;
    const std::lock_guard lock(mutex);
    for (const auto& [host, mirror] : mirrors) {
        const MirrorRange& range = mirror.range;
        if (address - range.host < range.size || address - range.device < range.size) return range;
    }
    return std::nullopt;
}

CUresult publish_mirrors() {
    const std::lock_guard lock(mutex);
    for (auto& [host, mirror] : mirrors) {
        if (const CUresult bad = publish(mirror)) return bad;
    }
    in_flight = true;
    return CUDA_SUCCESS;
}

CUresult collect_mirrors() {
    const std::lock_guard lock(mutex);
    if (!in_flight) return CUDA_SUCCESS;
    size_t largest = 0;
    for (const auto& [host, mirror] : mirrors) largest = std::max(largest, mirror.range.size);
    const auto fetched = std::make_unique_for_overwrite<std::byte[]>(largest);
    for (auto& [host, mirror] : mirrors) {
        if (const CUresult bad = collect(mirror, fetched.get())) return bad;
    }
    in_flight = false;
    return CUDA_SUCCESS;
}

}  // namespace carrel::client
