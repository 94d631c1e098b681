// Names of functions that have newer ones, kept by the library for programs compiled long ago.
#include "cudart/runtime.hpp"

#if CARREL_CUDART_MAJOR < 13

using namespace carrel::cudart;

cudaError_t cudaThreadExit() {
    return cudaDeviceReset();
}

cudaError_t cudaThreadSynchronize() {
    return cudaDeviceSynchronize();
}

cudaError_t cudaThreadSetLimit(cudaLimit limit, size_t value) {
    return cudaDeviceSetLimit(limit, value);
}

cudaError_t cudaThreadGetLimit(size_t* pValue, cudaLimit limit) {
    return cudaDeviceGetLimit(pValue, limit);
}

cudaError_t cudaThreadGetCacheConfig(cudaFuncCache* pCacheConfig) {
    return cudaDeviceGetCacheConfig(pCacheConfig);
}

cudaError_t cudaThreadSetCacheConfig(cudaFuncCache cacheConfig) {
    return cudaDeviceSetCacheConfig(cacheConfig);
}

// Devices have done doubles for long: nothing is converted.
cudaError_t cudaSetDoubleForDevice(double*) {
    return cudaSuccess;
}

cudaError_t cudaSetDoubleForHost(double*) {
    return cudaSuccess;
}

#endif
