// Advice about managed memory, and questions about it.
#include "cudart/runtime.hpp"

using namespace carrel::cudart;

namespace {

CUmemLocation location(cudaMemLocation where) {
    static_assert(sizeof(cudaMemLocation) == sizeof(CUmemLocation));
    CUmemLocation out{};
    out.type = static_cast<CUmemLocationType>(where.type);
    out.id = where.id;
    return out;
}

cudaError_t prefetch(const void* pointer, size_t count, cudaMemLocation where, unsigned int flags,
                     cudaStream_t stream) {
    return call([&] {
        return cuMemPrefetchAsync_v2(device(pointer), count, location(where), flags, stream);
    });
}

cudaError_t advise(const void* pointer, size_t count, cudaMemoryAdvise advice,
                   cudaMemLocation where) {
    return call([&] {
        return cuMemAdvise_v2(device(pointer), count, static_cast<CUmem_advise>(advice),
                              location(where));
    });
}

}  // namespace

#if CARREL_CUDART_MAJOR >= 13

cudaError_t cudaMemPrefetchAsync(const void* devPtr, size_t count, cudaMemLocation location,
                                 unsigned int flags, cudaStream_t stream) {
    return prefetch(devPtr, count, location, flags, stream);
}

cudaError_t cudaMemAdvise(const void* devPtr, size_t count, cudaMemoryAdvise advice,
                          cudaMemLocation location) {
    return advise(devPtr, count, advice, location);
}

#else

cudaError_t cudaMemPrefetchAsync(const void* devPtr, size_t count, int dstDevice,
                                 cudaStream_t stream) {
    return call([&] { return cuMemPrefetchAsync(device(devPtr), count, dstDevice, stream); });
}

cudaError_t cudaMemPrefetchAsync_v2(const void* devPtr, size_t count, cudaMemLocation location,
                                    unsigned int flags, cudaStream_t stream) {
    return prefetch(devPtr, count, location, flags, stream);
}

cudaError_t cudaMemAdvise(const void* devPtr, size_t count, cudaMemoryAdvise advice, int where) {
    return call([&] {
        return cuMemAdvise(device(devPtr), count, static_cast<CUmem_advise>(advice), where);
    });
}

cudaError_t cudaMemAdvise_v2(const void* devPtr, size_t count, cudaMemoryAdvise advice,
                             cudaMemLocation location) {
    return advise(devPtr, count, advice, location);
}

#endif

cudaError_t cudaMemRangeGetAttribute(void* data, size_t dataSize, cudaMemRangeAttribute attribute,
                                     const void* devPtr, size_t count) {
    return call([&] {
        return cuMemRangeGetAttribute(data, dataSize, static_cast<CUmem_range_attribute>(attribute),
                                      device(devPtr), count);
    });
}

cudaError_t cudaMemRangeGetAttributes(void** data, size_t* dataSizes,
                                      cudaMemRangeAttribute* attributes, size_t numAttributes,
                                      const void* devPtr, size_t count) {
    return call([&] {
        return cuMemRangeGetAttributes(data, dataSizes,
                                       reinterpret_cast<CUmem_range_attribute*>(attributes),
                                       numAttributes, device(devPtr), count);
    });
}

cudaError_t cudaStreamAttachMemAsync(cudaStream_t stream, void* devPtr, size_t length,
                                     unsigned int flags) {
    return call([&] { return cuStreamAttachMemAsync(stream, device(devPtr), length, flags); });
}
