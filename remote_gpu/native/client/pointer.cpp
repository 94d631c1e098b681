// Pointer queries, answered from the books of this process.
#include <cstring>

#include "client/forward.hpp"
#include "client/host_memory.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct Pointer {
    CUdeviceptr address;
    std::optional<DeviceRange> device;
    std::optional<HostRange> host;
    std::optional<MirrorRange> mirror;

    explicit Pointer(CUdeviceptr at)
        : address(at), device(find_device(at)), mirror(find_mirror(at)) {
        if (mirror && mirror->kind != MirrorKind::managed) device.reset();
        if (!device) host = find_host(mirror ? mirror->host : at);
    }
    bool known() const { return device || host; }
    // Into the mirror, by whichever of its addresses was given.
    uint64_t offset() const {
        const uint64_t at = address - mirror->host;
        return at < mirror->size ? at : address - mirror->device;
    }
};

template <class T>
CUresult answer(void* data, T value) {
    std::memcpy(data, &value, sizeof value);
    return CUDA_SUCCESS;
}

CUresult query(const Pointer& p, CUpointer_attribute attribute, void* data) {
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_CONTEXT: {
            const Context* context = current_context();
            return answer(data, context ? context->handle : primary_context()->handle);
        }
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            return answer<unsigned int>(data, p.device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST);
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
            if (p.mirror) return answer<uint64_t>(data, p.mirror->device + p.offset());
            if (!p.device) return CUDA_ERROR_INVALID_VALUE;
            return answer(data, p.address);
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
            if (p.mirror) return answer<uint64_t>(data, p.mirror->host + p.offset());
            if (!p.host) return CUDA_ERROR_INVALID_VALUE;
            return answer(data, p.address);
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
            return answer<char>(data, p.mirror && p.mirror->kind == MirrorKind::managed);
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
            return answer<char>(data, 0);
        case CU_POINTER_ATTRIBUTE_MAPPED:
            return answer<char>(data, 1);
        case CU_POINTER_ATTRIBUTE_BUFFER_ID:
            return answer<unsigned long long>(data, p.device ? p.device->base : p.host->base);
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            return answer<int>(data, 0);
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            return answer<uint64_t>(data, p.device ? p.device->base : p.host->base);
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
            return answer<size_t>(data, p.device ? p.device->size : p.host->size);
        case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
            return answer<unsigned long long>(data, 0);
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
            return answer<int>(data, 3);  // CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE
        case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
            return answer<void*>(data, nullptr);
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
}

size_t size_of(CUpointer_attribute attribute) {
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
            return 4;
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        case CU_POINTER_ATTRIBUTE_MAPPED:
            return 1;
        default:
            return 8;
    }
}

}  // namespace

CUresult CUDAAPI cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    trace(Call::cuPointerGetAttribute, false);
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    const Pointer pointer(ptr);
    if (!data || !pointer.known()) return CUDA_ERROR_INVALID_VALUE;
    return query(pointer, attribute, data);
}

// Unlike the single query, this one answers zeros for what has no answer.
CUresult CUDAAPI cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute* attributes,
                                        void** data, CUdeviceptr ptr) {
    trace(Call::cuPointerGetAttributes, false);
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!attributes || !data) return CUDA_ERROR_INVALID_VALUE;
    const Pointer pointer(ptr);
    for (unsigned int i = 0; i < numAttributes; ++i) {
        if (!data[i]) return CUDA_ERROR_INVALID_VALUE;
        std::memset(data[i], 0, size_of(attributes[i]));
        if (pointer.known()) query(pointer, attributes[i], data[i]);
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                                       CUdeviceptr ptr) {
    if (!current_context()) return no_context();
    if (!value || !find_device(ptr)) return CUDA_ERROR_INVALID_VALUE;
    // Copies are complete when they return, so this is how it is anyway.
    return attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
