// The block size that fills the device best: the worker answers for one size, the search is here.
#include <algorithm>

#include "client/forward.hpp"
#include "client/function.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSizeWithFlags(
    int* minGridSize, int* blockSize, CUfunction func,
    CUoccupancyB2DSize blockSizeToDynamicSMemSize, size_t dynamicSMemSize, int blockSizeLimit,
    unsigned int flags) {
    if (!minGridSize || !blockSize) return CUDA_ERROR_INVALID_VALUE;
    const Function* function = find_function(func);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    int multiprocessors = 0;
    int warp = 0;
    cuDeviceGetAttribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0);
    cuDeviceGetAttribute(&warp, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0);
    if (warp <= 0) return CUDA_ERROR_UNKNOWN;
    int limit = function->attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (blockSizeLimit > 0) limit = std::min(limit, blockSizeLimit);
    int best = 0;
    int best_size = 0;
    int best_blocks = 0;
    // From the largest multiple of a warp down: of equals the largest block wins.
    for (int top = (limit + warp - 1) / warp * warp; top > 0; top -= warp) {
        const int size = std::min(top, limit);
        const size_t shared =
            blockSizeToDynamicSMemSize ? blockSizeToDynamicSMemSize(size) : dynamicSMemSize;
        int blocks = 0;
        if (const CUresult bad = cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                &blocks, func, size, shared, flags)) {
            return bad;
        }
        if (blocks * size > best) {
            best = blocks * size;
            best_size = size;
            best_blocks = blocks;
        }
    }
    *minGridSize = best_blocks * multiprocessors;
    *blockSize = best_size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int* minGridSize, int* blockSize, CUfunction func,
                                                  CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                  size_t dynamicSMemSize, int blockSizeLimit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func,
                                                     blockSizeToDynamicSMemSize, dynamicSMemSize,
                                                     blockSizeLimit, 0);
}
