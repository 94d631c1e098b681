// Managed memory: allocation, and what a program says and asks about where it should be. Hints move
// nothing: memory is where it is needed at every launch and after every wait (mirror.hpp). They are
// remembered, by page, so that they can be asked for.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "client/forward.hpp"
#include "client/mirror.hpp"
#include "client/written_pages.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

constexpr CUmemLocation kNowhere{CU_MEM_LOCATION_TYPE_INVALID, {kCU_DEVICE_INVALID}};

struct Advice {
    bool read_mostly = false;
    bool by_device = false, by_host = false;  // CU_MEM_ADVISE_SET_ACCESSED_BY
    CUmemLocation preferred = kNowhere;
    CUmemLocation prefetched = kNowhere;
};

// By address, each up to the next one's: only pages of living allocations count.
class AdviceMap {
  public:
    void set(uint64_t base, uint64_t size, auto&& change) {
        const uint64_t from = base / kPage * kPage;
        const uint64_t to = (base + size + kPage - 1) / kPage * kPage;
        const std::lock_guard lock(mutex_);
        split(from);
        split(to);
        for (auto at = all_.find(from); at->first < to; ++at) change(at->second);
    }

    // Asks every part of the range; stops when `look` says false.
    void look(uint64_t base, uint64_t size, auto&& look) {
        const std::lock_guard lock(mutex_);
        auto at = std::prev(all_.upper_bound(base));
        for (; at != all_.end() && at->first < base + size; ++at) {
            if (!look(at->second)) return;
        }
    }

  private:
    void split(uint64_t at) {
        const Advice before = std::prev(all_.upper_bound(at))->second;
        all_.try_emplace(at, before);
    }

    std::mutex mutex_;
    std::map<uint64_t, Advice> all_{{0, {}}};
};

AdviceMap& advice_map() {
    static auto* const map = new AdviceMap;
    return *map;
}

CUresult require_managed(CUdeviceptr pointer, size_t bytes) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    const auto mirror = find_mirror(pointer);
    const bool inside = mirror && mirror->kind == MirrorKind::managed && bytes &&
                        bytes <= mirror->device + mirror->size - pointer;
    return inside ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The slice's device, or the host in one of its ways.
bool is_place(const CUmemLocation& where) {
    switch (where.type) {
        case CU_MEM_LOCATION_TYPE_DEVICE:
            return where.id == 0;
        case CU_MEM_LOCATION_TYPE_HOST:
        case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
            return true;
        default:
            return false;
    }
}

CUmemLocation place_of(CUdevice device) {
    return device == kCU_DEVICE_CPU ? CUmemLocation{CU_MEM_LOCATION_TYPE_HOST, {0}}
                                    : CUmemLocation{CU_MEM_LOCATION_TYPE_DEVICE, {device}};
}

CUresult advise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUmemLocation where) {
    if (const CUresult bad = require_managed(pointer, bytes)) return bad;
    const bool about_place = advice != CU_MEM_ADVISE_SET_READ_MOSTLY &&
                             advice != CU_MEM_ADVISE_UNSET_READ_MOSTLY &&
                             advice != CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION;
    if (about_place && !is_place(where)) return CUDA_ERROR_INVALID_DEVICE;
    if (advice < CU_MEM_ADVISE_SET_READ_MOSTLY || advice > CU_MEM_ADVISE_UNSET_ACCESSED_BY)
        return CUDA_ERROR_INVALID_VALUE;
    advice_map().set(pointer, bytes, [&](Advice& one) {
        const bool on = advice == CU_MEM_ADVISE_SET_ACCESSED_BY;
        switch (advice) {
            case CU_MEM_ADVISE_SET_READ_MOSTLY:
            case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
                one.read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY;
                break;
            case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
                one.preferred = where;
                break;
            case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
                one.preferred = kNowhere;
                break;
            default:
                (where.type == CU_MEM_LOCATION_TYPE_DEVICE ? one.by_device : one.by_host) = on;
        }
    });
    return CUDA_SUCCESS;
}

CUresult prefetch(CUdeviceptr pointer, size_t bytes, CUmemLocation where, CUstream stream) {
    if (const CUresult bad = require_managed(pointer, bytes)) return bad;
    if (!is_place(where)) return CUDA_ERROR_INVALID_DEVICE;
    try {
        name_of(stream);
    } catch (const BadHandle&) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    advice_map().set(pointer, bytes, [&](Advice& one) { one.prefetched = where; });
    return CUDA_SUCCESS;
}

bool same(const CUmemLocation& a, const CUmemLocation& b) {
    return a.type == b.type && (a.type != CU_MEM_LOCATION_TYPE_DEVICE || a.id == b.id);
}

// What all pages of the range agree on, or nowhere.
CUmemLocation common(CUdeviceptr pointer, size_t bytes, CUmemLocation Advice::* which) {
    bool first = true;
    CUmemLocation found = kNowhere;
    advice_map().look(pointer, bytes, [&](const Advice& one) {
        const bool agreed = first || same(found, one.*which);
        found = agreed ? one.*which : kNowhere;
        first = false;
        return agreed;
    });
    return found;
}

int device_of(const CUmemLocation& where) {
    if (where.type == CU_MEM_LOCATION_TYPE_DEVICE) return where.id;
    return where.type == CU_MEM_LOCATION_TYPE_INVALID ? kCU_DEVICE_INVALID : kCU_DEVICE_CPU;
}

int id_of(const CUmemLocation& where) {
    const bool counts =
        where.type == CU_MEM_LOCATION_TYPE_DEVICE || where.type == CU_MEM_LOCATION_TYPE_HOST_NUMA;
    return counts ? where.id : 0;
}

CUresult put(void* data, size_t size, int value) {
    if (size != sizeof value) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(data, &value, sizeof value);
    return CUDA_SUCCESS;
}

// The devices that every page may be accessed by; what is left of the array says "none".
CUresult put_accessors(void* data, size_t size, CUdeviceptr pointer, size_t bytes) {
    if (!size || size % sizeof(int)) return CUDA_ERROR_INVALID_VALUE;
    bool by_device = true, by_host = true;
    advice_map().look(pointer, bytes, [&](const Advice& one) {
        by_device &= one.by_device, by_host &= one.by_host;
        return true;
    });
    size_t count = 0;
    const auto add = [&](int value) {
        if (count < size / sizeof(int))
            std::memcpy(static_cast<int*>(data) + count++, &value, sizeof value);
    };
    if (by_device) add(0);
    if (by_host) add(kCU_DEVICE_CPU);
    while (count < size / sizeof(int)) add(kCU_DEVICE_INVALID);
    return CUDA_SUCCESS;
}

CUresult query(void* data, size_t size, CUmem_range_attribute attribute, CUdeviceptr pointer,
               size_t bytes) {
    const auto preferred = [&] { return common(pointer, bytes, &Advice::preferred); };
    const auto prefetched = [&] { return common(pointer, bytes, &Advice::prefetched); };
    switch (attribute) {
        case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY: {
            bool all = true;
            advice_map().look(pointer, bytes,
                              [&](const Advice& one) { return all = one.read_mostly; });
            return put(data, size, all);
        }
        case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
            return put(data, size, device_of(preferred()));
        case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
            return put_accessors(data, size, pointer, bytes);
        case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
            return put(data, size, device_of(prefetched()));
        case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
            return put(data, size, preferred().type);
        case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
            return put(data, size, id_of(preferred()));
        case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
            return put(data, size, prefetched().type);
        case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
            return put(data, size, id_of(prefetched()));
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
}

}  // namespace

CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) {
    trace(Call::cuMemAllocManaged, false);
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!dptr || !bytesize) return CUDA_ERROR_INVALID_VALUE;
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t base = 0;
    const CUresult result = create_mirror(bytesize, MirrorKind::managed, &base);
    if (result != CUDA_SUCCESS) return result;
    advice_map().set(base, bytesize, [](Advice& one) { one = {}; });
    *dptr = base;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemAdvise(CUdeviceptr_v2 devPtr, size_t count, CUmem_advise advice,
                             CUdevice_v1 device) {
    return advise(devPtr, count, advice, place_of(device));
}
CUresult CUDAAPI cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
                                CUmemLocation location) {
    return advise(devPtr, count, advice, location);
}
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr_v2 devPtr, size_t count, CUdevice_v1 dstDevice,
                                    CUstream hStream) {
    return prefetch(devPtr, count, place_of(dstDevice), hStream);
}
CUresult CUDAAPI cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                       unsigned int flags, CUstream hStream) {
    return flags ? CUDA_ERROR_INVALID_VALUE : prefetch(devPtr, count, location, hStream);
}

CUresult CUDAAPI cuMemRangeGetAttribute(void* data, size_t dataSize,
                                        CUmem_range_attribute attribute, CUdeviceptr devPtr,
                                        size_t count) {
    if (const CUresult bad = require_managed(devPtr, count)) return bad;
    return data ? query(data, dataSize, attribute, devPtr, count) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemRangeGetAttributes(void** data, size_t* dataSizes,
                                         CUmem_range_attribute* attributes, size_t numAttributes,
                                         CUdeviceptr devPtr, size_t count) {
    if (const CUresult bad = require_managed(devPtr, count)) return bad;
    if (!data || !dataSizes || !attributes || !numAttributes) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < numAttributes; ++i) {
        if (!data[i]) return CUDA_ERROR_INVALID_VALUE;
        if (const CUresult bad = query(data[i], dataSizes[i], attributes[i], devPtr, count))
            return bad;
    }
    return CUDA_SUCCESS;
}

// Which stream's work may keep the host away from the memory: here none does, what the program may
// touch after a wait is there after that wait.
CUresult CUDAAPI cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length,
                                        unsigned int flags) {
    if (const CUresult bad = require_managed(dptr, length ? length : 1)) return bad;
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST &&
        flags != CU_MEM_ATTACH_SINGLE)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags == CU_MEM_ATTACH_SINGLE && !hStream) return CUDA_ERROR_INVALID_VALUE;
    try {
        name_of(hStream);
    } catch (const BadHandle&) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    return CUDA_SUCCESS;
}
