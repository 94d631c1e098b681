// Launches, and what is known of kernels.
#include <vector>

#include "cudart/registry.hpp"

using namespace carrel::cudart;

namespace {

struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
// Of `kernel<<<...>>>`: pushed by the launch's code, popped by the kernel's stub.
thread_local std::vector<Configuration> configurations;

// A kernel's handle serves as a function's.
CUfunction function(CUkernel kernel) {
    return reinterpret_cast<CUfunction>(kernel);
}

template <class F>
cudaError_t with_kernel(const void* host, F&& use) {
    if (const CUresult bad = ready()) return finish(bad);
    CUkernel kernel = nullptr;
    if (const CUresult bad = registry().kernel(host, &kernel)) {
        return finish(bad == CUDA_ERROR_NOT_FOUND ? cudaErrorInvalidDeviceFunction
                                                  : translate(bad));
    }
    const CUresult result = use(kernel);
    return finish(result == CUDA_ERROR_INVALID_HANDLE ? cudaErrorInvalidDeviceFunction
                                                      : translate(result));
}

cudaError_t launched(CUresult result) {
    switch (result) {
        case CUDA_ERROR_INVALID_VALUE:
            return finish(cudaErrorInvalidConfiguration);
        case CUDA_ERROR_INVALID_HANDLE:
            return finish(cudaErrorInvalidDeviceFunction);
        default:
            return finish(result);
    }
}

CUresult launch(CUkernel kernel, dim3 grid, dim3 block, void** args, size_t shared,
                cudaStream_t stream) {
    return cuLaunchKernel(function(kernel), grid.x, grid.y, grid.z, block.x, block.y, block.z,
                          static_cast<unsigned int>(shared), stream, args, nullptr);
}

template <class F>
cudaError_t with_launch(const void* host, F&& use) {
    if (const CUresult bad = ready()) return finish(bad);
    CUkernel kernel = nullptr;
    if (const CUresult bad = registry().kernel(host, &kernel)) {
        return finish(bad == CUDA_ERROR_NOT_FOUND ? cudaErrorInvalidDeviceFunction
                                                  : translate(bad));
    }
    return launched(use(kernel));
}

}  // namespace

unsigned int __cudaPushCallConfiguration(dim3 gridDim, dim3 blockDim, size_t sharedMem,
                                         cudaStream_t stream) {
    configurations.push_back({gridDim, blockDim, sharedMem, stream});
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* gridDim, dim3* blockDim, size_t* sharedMem,
                                       void* stream) {
    if (configurations.empty()) return finish(cudaErrorMissingConfiguration);
    const Configuration& top = configurations.back();
    *gridDim = top.grid;
    *blockDim = top.block;
    *sharedMem = top.shared;
    *static_cast<cudaStream_t*>(stream) = top.stream;
    configurations.pop_back();
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* entryFuncAddr) {
    return with_kernel(entryFuncAddr, [&](CUkernel found) {
        *kernel = found;
        return CUDA_SUCCESS;
    });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 gridDim, dim3 blockDim, void** args,
                               size_t sharedMem, cudaStream_t stream) {
    if (!kernel) return cudaPeekAtLastError();  // __cudaGetKernel has said why
    if (const CUresult bad = ready()) return finish(bad);
    return launched(launch(kernel, gridDim, blockDim, args, sharedMem, stream));
}

cudaError_t cudaGetKernel(cudaKernel_t* kernelPtr, const void* entryFuncAddr) {
    if (!kernelPtr) return finish(cudaErrorInvalidValue);
    return __cudaGetKernel(kernelPtr, entryFuncAddr);
}

cudaError_t cudaGetFuncBySymbol(cudaFunction_t* functionPtr, const void* symbolPtr) {
    if (!functionPtr) return finish(cudaErrorInvalidValue);
    return with_kernel(symbolPtr,
                       [&](CUkernel kernel) { return cuKernelGetFunction(functionPtr, kernel); });
}

cudaError_t cudaLaunchKernel(const void* func, dim3 gridDim, dim3 blockDim, void** args,
                             size_t sharedMem, cudaStream_t stream) {
    return with_launch(func, [&](CUkernel kernel) {
        return launch(kernel, gridDim, blockDim, args, sharedMem, stream);
    });
}

cudaError_t cudaLaunchCooperativeKernel(const void* func, dim3 gridDim, dim3 blockDim, void** args,
                                        size_t sharedMem, cudaStream_t stream) {
    return with_launch(func, [&](CUkernel kernel) {
        return cuLaunchCooperativeKernel(function(kernel), gridDim.x, gridDim.y, gridDim.z,
                                         blockDim.x, blockDim.y, blockDim.z,
                                         static_cast<unsigned int>(sharedMem), stream, args);
    });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* func, void** args) {
    static_assert(sizeof(cudaLaunchAttribute) == sizeof(CUlaunchAttribute));
    if (!config) return finish(cudaErrorInvalidValue);
    return with_launch(func, [&](CUkernel kernel) {
        CUlaunchConfig c{};
        c.gridDimX = config->gridDim.x, c.gridDimY = config->gridDim.y;
        c.gridDimZ = config->gridDim.z;
        c.blockDimX = config->blockDim.x, c.blockDimY = config->blockDim.y;
        c.blockDimZ = config->blockDim.z;
        c.sharedMemBytes = static_cast<unsigned int>(config->dynamicSmemBytes);
        c.hStream = config->stream;
        c.attrs = reinterpret_cast<CUlaunchAttribute*>(config->attrs);
        c.numAttrs = config->numAttrs;
        return cuLaunchKernelEx(&c, function(kernel), args, nullptr);
    });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attr, const void* func) {
    if (!attr) return finish(cudaErrorInvalidValue);
    return with_kernel(func, [&](CUkernel kernel) {
        CUresult result = CUDA_SUCCESS;
        const auto get = [&](CUfunction_attribute which) {
            int value = 0;
            const CUresult bad = cuKernelGetAttribute(&value, which, kernel, 0);
            if (bad && result == CUDA_SUCCESS) result = bad;
            return value;
        };
        *attr = {};
        attr->sharedSizeBytes = static_cast<size_t>(get(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES));
        attr->constSizeBytes = static_cast<size_t>(get(CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES));
        attr->localSizeBytes = static_cast<size_t>(get(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES));
        attr->maxThreadsPerBlock = get(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
        attr->numRegs = get(CU_FUNC_ATTRIBUTE_NUM_REGS);
        attr->ptxVersion = get(CU_FUNC_ATTRIBUTE_PTX_VERSION);
        attr->binaryVersion = get(CU_FUNC_ATTRIBUTE_BINARY_VERSION);
        attr->cacheModeCA = get(CU_FUNC_ATTRIBUTE_CACHE_MODE_CA);
        attr->maxDynamicSharedSizeBytes = get(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
        attr->preferredShmemCarveout = get(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT);
        return result;
    });
}

cudaError_t cudaFuncSetAttribute(const void* func, cudaFuncAttribute attr, int value) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuKernelSetAttribute(static_cast<CUfunction_attribute>(attr), value, kernel, 0);
    });
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, cudaFuncAttribute attr, int value,
                                            int device) {
    return call([&] {
        return cuKernelSetAttribute(static_cast<CUfunction_attribute>(attr), value, kernel, device);
    });
}

cudaError_t cudaFuncSetCacheConfig(const void* func, cudaFuncCache cacheConfig) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuKernelSetCacheConfig(kernel, static_cast<CUfunc_cache>(cacheConfig), 0);
    });
}

cudaError_t cudaFuncGetName(const char** name, const void* func) {
    if (!name) return finish(cudaErrorInvalidValue);
    if ((*name = registry().name(func))) return cudaSuccess;
    return with_kernel(func, [&](CUkernel kernel) { return cuKernelGetName(name, kernel); });
}

cudaError_t cudaFuncGetParamInfo(const void* func, size_t paramIndex, size_t* paramOffset,
                                 size_t* paramSize) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuKernelGetParamInfo(kernel, paramIndex, paramOffset, paramSize);
    });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, const void* func,
                                                          int blockSize, size_t dynamicSMemSize) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks, function(kernel), blockSize,
                                                           dynamicSMemSize);
    });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* numBlocks, const void* func,
                                                                   int blockSize,
                                                                   size_t dynamicSMemSize,
                                                                   unsigned int flags) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            numBlocks, function(kernel), blockSize, dynamicSMemSize, flags);
    });
}

cudaError_t cudaOccupancyAvailableDynamicSMemPerBlock(size_t* dynamicSmemSize, const void* func,
                                                      int numBlocks, int blockSize) {
    return with_kernel(func, [&](CUkernel kernel) {
        return cuOccupancyAvailableDynamicSMemPerBlock(dynamicSmemSize, function(kernel), numBlocks,
                                                       blockSize);
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void* userData) {
    return call([&] { return cuLaunchHostFunc(stream, fn, userData); });
}
