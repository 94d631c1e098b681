// The device: count, properties, limits, versions, and entry points of the driver. A slice is one
// device, number 0.
#include <algorithm>
#include <cstring>

#include "cudart/runtime.hpp"

using namespace carrel::cudart;

namespace {

cudaError_t check_device(int device) {
    int count = 0;
    if (const CUresult bad = cuInit(0)) return finish(bad);
    if (const CUresult bad = cuDeviceGetCount(&count)) return finish(bad);
    return device >= 0 && device < count ? cudaSuccess : finish(cudaErrorInvalidDevice);
}

int attribute(CUdevice_attribute which) {
    int value = 0;
    cuDeviceGetAttribute(&value, which, 0);
    return value;
}

cudaError_t properties(cudaDeviceProp* prop, int device) {
    if (!prop) return finish(cudaErrorInvalidValue);
    if (const cudaError_t bad = check_device(device)) return bad;
    cudaDeviceProp p{};
    cuDeviceGetName(p.name, sizeof p.name, device);
    cuDeviceGetUuid_v2(&p.uuid, device);
    cuDeviceTotalMem_v2(&p.totalGlobalMem, device);
#define INTEGER(field, name) p.field = attribute(CU_DEVICE_ATTRIBUTE_##name)
#define SIZE(field, name) p.field = static_cast<size_t>(attribute(CU_DEVICE_ATTRIBUTE_##name))
    SIZE(sharedMemPerBlock, MAX_SHARED_MEMORY_PER_BLOCK);
    INTEGER(regsPerBlock, MAX_REGISTERS_PER_BLOCK);
    INTEGER(warpSize, WARP_SIZE);
    SIZE(memPitch, MAX_PITCH);
    INTEGER(maxThreadsPerBlock, MAX_THREADS_PER_BLOCK);
    INTEGER(maxThreadsDim[0], MAX_BLOCK_DIM_X);
    INTEGER(maxThreadsDim[1], MAX_BLOCK_DIM_Y);
    INTEGER(maxThreadsDim[2], MAX_BLOCK_DIM_Z);
    INTEGER(maxGridSize[0], MAX_GRID_DIM_X);
    INTEGER(maxGridSize[1], MAX_GRID_DIM_Y);
    INTEGER(maxGridSize[2], MAX_GRID_DIM_Z);
    SIZE(totalConstMem, TOTAL_CONSTANT_MEMORY);
    INTEGER(major, COMPUTE_CAPABILITY_MAJOR);
    INTEGER(minor, COMPUTE_CAPABILITY_MINOR);
    SIZE(textureAlignment, TEXTURE_ALIGNMENT);
    SIZE(texturePitchAlignment, TEXTURE_PITCH_ALIGNMENT);
    INTEGER(multiProcessorCount, MULTIPROCESSOR_COUNT);
    INTEGER(integrated, INTEGRATED);
    INTEGER(canMapHostMemory, CAN_MAP_HOST_MEMORY);
    INTEGER(maxTexture1D, MAXIMUM_TEXTURE1D_WIDTH);
    INTEGER(maxTexture1DMipmap, MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH);
    INTEGER(maxTexture2D[0], MAXIMUM_TEXTURE2D_WIDTH);
    INTEGER(maxTexture2D[1], MAXIMUM_TEXTURE2D_HEIGHT);
    INTEGER(maxTexture3D[0], MAXIMUM_TEXTURE3D_WIDTH);
    INTEGER(maxTexture3D[1], MAXIMUM_TEXTURE3D_HEIGHT);
    INTEGER(maxTexture3D[2], MAXIMUM_TEXTURE3D_DEPTH);
    INTEGER(maxSurface1D, MAXIMUM_SURFACE1D_WIDTH);
    INTEGER(maxSurface2D[0], MAXIMUM_SURFACE2D_WIDTH);
    INTEGER(maxSurface2D[1], MAXIMUM_SURFACE2D_HEIGHT);
    SIZE(surfaceAlignment, SURFACE_ALIGNMENT);
    INTEGER(concurrentKernels, CONCURRENT_KERNELS);
    INTEGER(ECCEnabled, ECC_ENABLED);
    INTEGER(pciBusID, PCI_BUS_ID);
    INTEGER(pciDeviceID, PCI_DEVICE_ID);
    INTEGER(pciDomainID, PCI_DOMAIN_ID);
    INTEGER(tccDriver, TCC_DRIVER);
    INTEGER(asyncEngineCount, ASYNC_ENGINE_COUNT);
    INTEGER(unifiedAddressing, UNIFIED_ADDRESSING);
    INTEGER(memoryBusWidth, GLOBAL_MEMORY_BUS_WIDTH);
    INTEGER(l2CacheSize, L2_CACHE_SIZE);
    INTEGER(persistingL2CacheMaxSize, MAX_PERSISTING_L2_CACHE_SIZE);
    INTEGER(maxThreadsPerMultiProcessor, MAX_THREADS_PER_MULTIPROCESSOR);
    INTEGER(streamPrioritiesSupported, STREAM_PRIORITIES_SUPPORTED);
    INTEGER(globalL1CacheSupported, GLOBAL_L1_CACHE_SUPPORTED);
    INTEGER(localL1CacheSupported, LOCAL_L1_CACHE_SUPPORTED);
    SIZE(sharedMemPerMultiprocessor, MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    INTEGER(regsPerMultiprocessor, MAX_REGISTERS_PER_MULTIPROCESSOR);
    INTEGER(managedMemory, MANAGED_MEMORY);
    INTEGER(isMultiGpuBoard, MULTI_GPU_BOARD);
    INTEGER(multiGpuBoardGroupID, MULTI_GPU_BOARD_GROUP_ID);
    INTEGER(hostNativeAtomicSupported, HOST_NATIVE_ATOMIC_SUPPORTED);
    INTEGER(pageableMemoryAccess, PAGEABLE_MEMORY_ACCESS);
    INTEGER(concurrentManagedAccess, CONCURRENT_MANAGED_ACCESS);
    INTEGER(computePreemptionSupported, COMPUTE_PREEMPTION_SUPPORTED);
    INTEGER(canUseHostPointerForRegisteredMem, CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
    INTEGER(cooperativeLaunch, COOPERATIVE_LAUNCH);
    SIZE(sharedMemPerBlockOptin, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    INTEGER(pageableMemoryAccessUsesHostPageTables, PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES);
    INTEGER(directManagedMemAccessFromHost, DIRECT_MANAGED_MEM_ACCESS_FROM_HOST);
    INTEGER(maxBlocksPerMultiProcessor, MAX_BLOCKS_PER_MULTIPROCESSOR);
    INTEGER(accessPolicyMaxWindowSize, MAX_ACCESS_POLICY_WINDOW_SIZE);
    SIZE(reservedSharedMemPerBlock, RESERVED_SHARED_MEMORY_PER_BLOCK);
    INTEGER(hostRegisterSupported, HOST_REGISTER_SUPPORTED);
    INTEGER(sparseCudaArraySupported, SPARSE_CUDA_ARRAY_SUPPORTED);
    INTEGER(hostRegisterReadOnlySupported, READ_ONLY_HOST_REGISTER_SUPPORTED);
    INTEGER(memoryPoolsSupported, MEMORY_POOLS_SUPPORTED);
    INTEGER(clusterLaunch, CLUSTER_LAUNCH);
    INTEGER(unifiedFunctionPointers, UNIFIED_FUNCTION_POINTERS);
#if CARREL_CUDART_MAJOR < 13
    INTEGER(clockRate, CLOCK_RATE);
    INTEGER(computeMode, COMPUTE_MODE);
    INTEGER(deviceOverlap, GPU_OVERLAP);
    INTEGER(kernelExecTimeoutEnabled, KERNEL_EXEC_TIMEOUT);
    INTEGER(memoryClockRate, MEMORY_CLOCK_RATE);
    INTEGER(singleToDoublePrecisionPerfRatio, SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO);
    INTEGER(cooperativeMultiDeviceLaunch, COOPERATIVE_MULTI_DEVICE_LAUNCH);
#endif
#undef INTEGER
#undef SIZE
    *prop = p;
    return cudaSuccess;
}

}  // namespace

cudaError_t cudaGetDeviceCount(int* count) {
    if (!count) return finish(cudaErrorInvalidValue);
    *count = 0;
    if (const CUresult bad = cuInit(0)) return finish(bad);
    if (const CUresult bad = cuDeviceGetCount(count)) return finish(bad);
    return *count ? cudaSuccess : finish(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    if (const cudaError_t bad = check_device(device)) return bad;
    return finish(attach());
}

cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
    return check_device(device);
}

cudaError_t cudaGetDevice(int* device) {
    if (!device) return finish(cudaErrorInvalidValue);
    *device = 0;
    return check_device(0);
}

cudaError_t cudaSetValidDevices(int* device_arr, int len) {
    for (int i = 0; i < len; ++i) {
        if (const cudaError_t bad = check_device(device_arr[i])) return bad;
    }
    return cudaSuccess;
}

cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp* prop) {
    if (!device || !prop) return finish(cudaErrorInvalidValue);
    *device = 0;
    return check_device(0);
}

cudaError_t cudaSetDeviceFlags(unsigned int flags) {
    if (const CUresult bad = cuInit(0)) return finish(bad);
    return finish(cuDevicePrimaryCtxSetFlags_v2(0, flags & ~unsigned{CU_CTX_MAP_HOST}));
}

cudaError_t cudaGetDeviceFlags(unsigned int* flags) {
    return call([&] { return cuCtxGetFlags(flags); });
}

cudaError_t cudaDeviceReset() {
    cuInit(0);  // also after an error that only a reset takes away
    return finish(cuDevicePrimaryCtxReset_v2(0));
}

cudaError_t cudaDeviceSynchronize() {
    return call([] { return cuCtxSynchronize(); });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attr, int device) {
    if (const cudaError_t bad = check_device(device)) return bad;
    return finish(cuDeviceGetAttribute(value, static_cast<CUdevice_attribute>(attr), device));
}

#if CARREL_CUDART_MAJOR >= 13
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
    return properties(prop, device);
}
#else
cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* prop, int device) {
    return properties(prop, device);
}
#endif

cudaError_t cudaDeviceGetPCIBusId(char* pciBusId, int len, int device) {
    if (const cudaError_t bad = check_device(device)) return bad;
    return finish(cuDeviceGetPCIBusId(pciBusId, len, device));
}

cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* pciBusId) {
    if (const CUresult bad = cuInit(0)) return finish(bad);
    return finish(cuDeviceGetByPCIBusId(device, pciBusId));
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* leastPriority, int* greatestPriority) {
    return call([&] { return cuCtxGetStreamPriorityRange(leastPriority, greatestPriority); });
}

cudaError_t cudaDeviceGetLimit(size_t* pValue, cudaLimit limit) {
    return call([&] { return cuCtxGetLimit(pValue, static_cast<CUlimit>(limit)); });
}

cudaError_t cudaDeviceSetLimit(cudaLimit limit, size_t value) {
    return call([&] { return cuCtxSetLimit(static_cast<CUlimit>(limit), value); });
}

cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* pCacheConfig) {
    return call([&] { return cuCtxGetCacheConfig(reinterpret_cast<CUfunc_cache*>(pCacheConfig)); });
}

cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache cacheConfig) {
    return call([&] { return cuCtxSetCacheConfig(static_cast<CUfunc_cache>(cacheConfig)); });
}

// ---- other devices: there are none
// ---------------------------------------------------------------

cudaError_t cudaDeviceCanAccessPeer(int* canAccessPeer, int device, int peerDevice) {
    if (!canAccessPeer) return finish(cudaErrorInvalidValue);
    if (const cudaError_t bad = check_device(device)) return bad;
    if (const cudaError_t bad = check_device(peerDevice)) return bad;
    *canAccessPeer = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peerDevice, unsigned int) {
    if (const cudaError_t bad = check_device(peerDevice)) return bad;
    return finish(cudaErrorInvalidDevice);  // a device is no peer of itself
}

cudaError_t cudaDeviceDisablePeerAccess(int peerDevice) {
    if (const cudaError_t bad = check_device(peerDevice)) return bad;
    return finish(cudaErrorPeerAccessNotEnabled);
}

cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr attr, int srcDevice,
                                      int dstDevice) {
    if (const CUresult bad = cuInit(0)) return finish(bad);
    return finish(cuDeviceGetP2PAttribute(value, static_cast<CUdevice_P2PAttribute>(attr),
                                          srcDevice, dstDevice));
}

// ---- memory shared between processes: the driver says what it can
// --------------------------------

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* devPtr) {
    return call([&] {
        return cuIpcGetMemHandle(reinterpret_cast<CUipcMemHandle*>(handle), device(devPtr));
    });
}

cudaError_t cudaIpcOpenMemHandle(void** devPtr, cudaIpcMemHandle_t handle, unsigned int flags) {
    return call([&] {
        CUipcMemHandle theirs;
        static_assert(sizeof theirs == sizeof handle);
        std::memcpy(&theirs, &handle, sizeof theirs);
        return cuIpcOpenMemHandle_v2(reinterpret_cast<CUdeviceptr*>(devPtr), theirs, flags);
    });
}

cudaError_t cudaIpcCloseMemHandle(void* devPtr) {
    return call([&] { return cuIpcCloseMemHandle(device(devPtr)); });
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
    return call(
        [&] { return cuIpcGetEventHandle(reinterpret_cast<CUipcEventHandle*>(handle), event); });
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
    return call([&] {
        CUipcEventHandle theirs;
        static_assert(sizeof theirs == sizeof handle);
        std::memcpy(&theirs, &handle, sizeof theirs);
        return cuIpcOpenEventHandle(event, theirs);
    });
}

// ---- versions and entry points
// -------------------------------------------------------------------

cudaError_t cudaDriverGetVersion(int* driverVersion) {
    if (!driverVersion) return finish(cudaErrorInvalidValue);
    return finish(cuDriverGetVersion(driverVersion));
}

cudaError_t cudaRuntimeGetVersion(int* runtimeVersion) {
    if (!runtimeVersion) return finish(cudaErrorInvalidValue);
    *runtimeVersion = kRuntimeVersion;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** funcPtr,
                                             unsigned int cudaVersion, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* driverStatus) {
    if (!symbol || !funcPtr) return finish(cudaErrorInvalidValue);
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SUCCESS;
    const CUresult result =
        cuGetProcAddress_v2(symbol, funcPtr, static_cast<int>(cudaVersion), flags, &status);
    if (driverStatus) *driverStatus = static_cast<cudaDriverEntryPointQueryResult>(status);
    // What is not found is told by the status.
    return result == CUDA_ERROR_NOT_FOUND && driverStatus ? cudaSuccess : finish(result);
}

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** funcPtr, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* driverStatus) {
    return cudaGetDriverEntryPointByVersion(symbol, funcPtr, kRuntimeVersion, flags, driverStatus);
}

cudaError_t cudaProfilerStart() {
    return call([] { return cuProfilerStart(); });
}

cudaError_t cudaProfilerStop() {
    return call([] { return cuProfilerStop(); });
}
