// cuLaunch*: kernels into streams.
#include "softgpu/launch.hpp"

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUresult launch_in(CUstream hStream, CUfunction f, const LaunchRequest& request) {
    return entry_in_context([&](Context&) {
        const auto stream = find_stream(hStream);
        launch(find_function(f, stream->context), *stream, request);
    });
}

// Hints are taken note of by having no effect; what would change the result is refused.
void apply(const CUlaunchAttribute& attribute, ptx::LaunchConfig& config) {
    switch (attribute.id) {
        case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
            config.cooperative = attribute.value.cooperative != 0;
            return;
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: {
            const auto& cluster = attribute.value.clusterDim;
            require(cluster.x == 1 && cluster.y == 1 && cluster.z == 1,
                    CUDA_ERROR_INVALID_CLUSTER_SIZE);
            return;
        }
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
        case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
        case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
            throw Failure(CUDA_ERROR_NOT_SUPPORTED);
        default:
            require(attribute.id >= 0 && attribute.id <= CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE);
    }
}

}  // namespace

CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                        void** kernelParams, void** extra) {
    return launch_in(
        hStream, f,
        {{{gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes},
         kernelParams,
         extra});
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                   unsigned int gridDimZ, unsigned int blockDimX,
                                   unsigned int blockDimY, unsigned int blockDimZ,
                                   unsigned int sharedMemBytes, CUstream hStream,
                                   void** kernelParams) {
    return launch_in(
        hStream, f,
        {{{gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, sharedMemBytes, true},
         kernelParams});
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                          void** extra) {
    return entry_in_context([&](Context&) {
        require(config && (config->numAttrs == 0 || config->attrs));
        LaunchRequest request{{{config->gridDimX, config->gridDimY, config->gridDimZ},
                               {config->blockDimX, config->blockDimY, config->blockDimZ},
                               config->sharedMemBytes},
                              kernelParams,
                              extra};
        for (unsigned i = 0; i < config->numAttrs; ++i) apply(config->attrs[i], request.config);
        return launch_in(config->hStream, f, request);
    });
}
