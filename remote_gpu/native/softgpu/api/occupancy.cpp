// cuOccupancy*: how many blocks fit.
#include <algorithm>

#include "cuda_functions.hpp"
#include "softgpu/launch.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, CUfunction func, int blockSize,
                                                     size_t dynamicSMemSize) {
    return entry_in_context([&](Context& context) {
        require(numBlocks && blockSize > 0);
        *numBlocks = static_cast<int>(resident_blocks(
            *find_function(func, context), static_cast<unsigned>(blockSize), dynamicSMemSize));
    });
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* numBlocks, CUfunction func,
                                                              int blockSize, size_t dynamicSMemSize,
                                                              unsigned int) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks, func, blockSize, dynamicSMemSize);
}

CUresult cuOccupancyMaxPotentialBlockSize(int* minGridSize, int* blockSize, CUfunction func,
                                          CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                          size_t dynamicSMemSize, int blockSizeLimit) {
    return entry_in_context([&](Context& context) {
        require(minGridSize && blockSize && blockSizeLimit >= 0);
        const auto function = find_function(func, context);
        unsigned largest = function->max_threads();
        if (blockSizeLimit > 0) largest = std::min(largest, static_cast<unsigned>(blockSizeLimit));
        unsigned best = 0, best_size = 0, best_blocks = 0;
        for (unsigned size = largest; size > 0;
             size = size > limits::kWarp ? (size - 1) / limits::kWarp * limits::kWarp : 0) {
            const std::size_t dynamic = blockSizeToDynamicSMemSize
                                            ? blockSizeToDynamicSMemSize(static_cast<int>(size))
                                            : dynamicSMemSize;
            const unsigned blocks = resident_blocks(*function, size, dynamic);
            if (blocks * size <= best) continue;
            best = blocks * size;
            best_size = size;
            best_blocks = blocks;
        }
        require(best > 0, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
        *blockSize = static_cast<int>(best_size);
        *minGridSize = static_cast<int>(best_blocks * context.device().config().multiprocessors);
    });
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* minGridSize, int* blockSize,
                                                   CUfunction func,
                                                   CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                   size_t dynamicSMemSize, int blockSizeLimit,
                                                   unsigned int) {
    return cuOccupancyMaxPotentialBlockSize(
        minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* dynamicSmemSize, CUfunction func,
                                                 int numBlocks, int blockSize) {
    return entry_in_context([&](Context& context) {
        require(dynamicSmemSize && numBlocks > 0 && blockSize > 0);
        const auto function = find_function(func, context);
        require(resident_blocks(*function, static_cast<unsigned>(blockSize), 0) >=
                static_cast<unsigned>(numBlocks));
        const std::size_t each =
            context.device().shared_multiprocessor() / static_cast<unsigned>(numBlocks) / 128 * 128;
        const std::size_t taken = function->kernel.static_shared_bytes + limits::kSharedReserved;
        *dynamicSmemSize = std::min<std::size_t>(each > taken ? each - taken : 0,
                                                 context.device().shared_opt_in());
    });
}
