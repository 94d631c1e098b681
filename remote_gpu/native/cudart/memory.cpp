// Memory: of the device, of the host, managed, and in pools; what a pointer is.
#include "cudart/registry.hpp"

using namespace carrel::cudart;

cudaError_t cudaMalloc(void** devPtr, size_t size) {
    if (!devPtr) return finish(cudaErrorInvalidValue);
    *devPtr = nullptr;
    return call([&] {
        return size ? cuMemAlloc_v2(reinterpret_cast<CUdeviceptr*>(devPtr), size) : CUDA_SUCCESS;
    });
}

cudaError_t cudaMallocPitch(void** devPtr, size_t* pitch, size_t width, size_t height) {
    if (!devPtr || !pitch) return finish(cudaErrorInvalidValue);
    return call([&] {
        return cuMemAllocPitch_v2(reinterpret_cast<CUdeviceptr*>(devPtr), pitch, width, height, 16);
    });
}

cudaError_t cudaMalloc3D(cudaPitchedPtr* pitchedDevPtr, cudaExtent extent) {
    if (!pitchedDevPtr) return finish(cudaErrorInvalidValue);
    return call([&] {
        pitchedDevPtr->xsize = extent.width;
        pitchedDevPtr->ysize = extent.height;
        return cuMemAllocPitch_v2(reinterpret_cast<CUdeviceptr*>(&pitchedDevPtr->ptr),
                                  &pitchedDevPtr->pitch, extent.width, extent.height * extent.depth,
                                  16);
    });
}

cudaError_t cudaFree(void* devPtr) {
    return call([&] { return devPtr ? cuMemFree_v2(device(devPtr)) : CUDA_SUCCESS; });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return call([&] { return cuMemGetInfo_v2(free, total); });
}

cudaError_t cudaMallocManaged(void** devPtr, size_t size, unsigned int flags) {
    if (!devPtr) return finish(cudaErrorInvalidValue);
    return call(
        [&] { return cuMemAllocManaged(reinterpret_cast<CUdeviceptr*>(devPtr), size, flags); });
}

// ---- host memory
// ---------------------------------------------------------------------------------

cudaError_t cudaMallocHost(void** ptr, size_t size) {
    if (!ptr) return finish(cudaErrorInvalidValue);
    return call([&] { return cuMemAllocHost_v2(ptr, size); });
}

cudaError_t cudaHostAlloc(void** pHost, size_t size, unsigned int flags) {
    if (!pHost) return finish(cudaErrorInvalidValue);
    return call([&] { return cuMemHostAlloc(pHost, size, flags); });
}

cudaError_t cudaFreeHost(void* ptr) {
    return call([&] { return ptr ? cuMemFreeHost(ptr) : CUDA_SUCCESS; });
}

cudaError_t cudaHostRegister(void* ptr, size_t size, unsigned int flags) {
    return call([&] { return cuMemHostRegister_v2(ptr, size, flags); });
}

cudaError_t cudaHostUnregister(void* ptr) {
    return call([&] { return cuMemHostUnregister(ptr); });
}

cudaError_t cudaHostGetDevicePointer(void** pDevice, void* pHost, unsigned int flags) {
    return call([&] {
        return cuMemHostGetDevicePointer_v2(reinterpret_cast<CUdeviceptr*>(pDevice), pHost, flags);
    });
}

cudaError_t cudaHostGetFlags(unsigned int* pFlags, void* pHost) {
    return call([&] { return cuMemHostGetFlags(pFlags, pHost); });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* ptr) {
    if (!attributes) return finish(cudaErrorInvalidValue);
    return call([&] {
        *attributes = {};
        attributes->device = -2;  // cudaInvalidDeviceId
        unsigned int kind = 0;
        const CUresult known =
            cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device(ptr));
        // Ordinary host memory is no error.
        if (known == CUDA_ERROR_INVALID_VALUE) return CUDA_SUCCESS;
        if (known != CUDA_SUCCESS) return known;
        unsigned int managed = 0;
        cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, device(ptr));
        attributes->type = managed                        ? cudaMemoryTypeManaged
                           : kind == CU_MEMORYTYPE_DEVICE ? cudaMemoryTypeDevice
                                                          : cudaMemoryTypeHost;
        attributes->device = 0;
        cuPointerGetAttribute(&attributes->devicePointer, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
                              device(ptr));
        if (attributes->type != cudaMemoryTypeDevice) {
            cuPointerGetAttribute(&attributes->hostPointer, CU_POINTER_ATTRIBUTE_HOST_POINTER,
                                  device(ptr));
        }
        return CUDA_SUCCESS;
    });
}

cudaError_t cudaGetSymbolAddress(void** devPtr, const void* symbol) {
    return call([&] {
        return registry().variable(symbol, reinterpret_cast<CUdeviceptr*>(devPtr), nullptr);
    });
}

cudaError_t cudaGetSymbolSize(size_t* size, const void* symbol) {
    return call([&] {
        CUdeviceptr address = 0;
        return registry().variable(symbol, &address, size);
    });
}

// ---- pools
// ---------------------------------------------------------------------------------------

cudaError_t cudaMallocAsync(void** devPtr, size_t size, cudaStream_t hStream) {
    return call(
        [&] { return cuMemAllocAsync(reinterpret_cast<CUdeviceptr*>(devPtr), size, hStream); });
}

cudaError_t cudaMallocFromPoolAsync(void** ptr, size_t size, cudaMemPool_t memPool,
                                    cudaStream_t stream) {
    return call([&] {
        return cuMemAllocFromPoolAsync(reinterpret_cast<CUdeviceptr*>(ptr), size, memPool, stream);
    });
}

cudaError_t cudaFreeAsync(void* devPtr, cudaStream_t hStream) {
    return call([&] { return cuMemFreeAsync(device(devPtr), hStream); });
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* memPool, int device) {
    return call([&] { return cuDeviceGetDefaultMemPool(memPool, device); });
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* memPool, int device) {
    return call([&] { return cuDeviceGetMemPool(memPool, device); });
}

cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t memPool) {
    return call([&] { return cuDeviceSetMemPool(device, memPool); });
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* memPool, const cudaMemPoolProps* poolProps) {
    static_assert(sizeof(cudaMemPoolProps) == sizeof(CUmemPoolProps));
    return call([&] {
        return cuMemPoolCreate(memPool, reinterpret_cast<const CUmemPoolProps*>(poolProps));
    });
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t memPool) {
    return call([&] { return cuMemPoolDestroy(memPool); });
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t memPool, cudaMemPoolAttr attr, void* value) {
    return call([&] {
        return cuMemPoolGetAttribute(memPool, static_cast<CUmemPool_attribute>(attr), value);
    });
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t memPool, cudaMemPoolAttr attr, void* value) {
    return call([&] {
        return cuMemPoolSetAttribute(memPool, static_cast<CUmemPool_attribute>(attr), value);
    });
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t memPool, size_t minBytesToKeep) {
    return call([&] { return cuMemPoolTrimTo(memPool, minBytesToKeep); });
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t memPool, const cudaMemAccessDesc* descList,
                                 size_t count) {
    static_assert(sizeof(cudaMemAccessDesc) == sizeof(CUmemAccessDesc));
    return call([&] {
        return cuMemPoolSetAccess(memPool, reinterpret_cast<const CUmemAccessDesc*>(descList),
                                  count);
    });
}

cudaError_t cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t memPool,
                                 cudaMemLocation* location) {
    return call([&] {
        return cuMemPoolGetAccess(reinterpret_cast<CUmemAccess_flags*>(flags), memPool,
                                  reinterpret_cast<CUmemLocation*>(location));
    });
}
