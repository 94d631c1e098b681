// Programs compiled for a default stream per thread (nvcc --default-stream per-thread) call
// variants of the functions that take a stream: no stream means this thread's own.
#include "cudart/runtime.hpp"

using namespace carrel::cudart;

namespace {

cudaStream_t per_thread(cudaStream_t stream) {
    return stream ? stream : reinterpret_cast<cudaStream_t>(kCU_STREAM_PER_THREAD);
}

// The function that has the result is one that returns when it is done.
cudaError_t complete_per_thread(cudaError_t started) {
    return started == cudaSuccess ? cudaStreamSynchronize(per_thread(nullptr)) : started;
}

}  // namespace

#include "cudart_per_thread.inc"

cudaError_t cudaLaunchKernelExC_ptsz(const cudaLaunchConfig_t* config, const void* func,
                                     void** args) {
    if (!config) return finish(cudaErrorInvalidValue);
    cudaLaunchConfig_t own = *config;
    own.stream = per_thread(own.stream);
    return cudaLaunchKernelExC(&own, func, args);
}

cudaError_t cudaGraphInstantiateWithParams_ptsz(cudaGraphExec_t* pGraphExec, cudaGraph_t graph,
                                                cudaGraphInstantiateParams* instantiateParams) {
    if (!instantiateParams) return finish(cudaErrorInvalidValue);
    const cudaStream_t given = instantiateParams->uploadStream;
    instantiateParams->uploadStream = per_thread(given);
    const cudaError_t result = cudaGraphInstantiateWithParams(pGraphExec, graph, instantiateParams);
    instantiateParams->uploadStream = given;
    return result;
}

namespace {

// Asked for neither kind of functions, they are those of this program's default stream.
unsigned long long per_thread_flags(unsigned long long flags) {
    return flags ? flags : unsigned{cudaEnablePerThreadDefaultStream};
}

}  // namespace

cudaError_t cudaGetDriverEntryPoint_ptsz(const char* symbol, void** funcPtr,
                                         unsigned long long flags,
                                         cudaDriverEntryPointQueryResult* driverStatus) {
    return cudaGetDriverEntryPoint(symbol, funcPtr, per_thread_flags(flags), driverStatus);
}

cudaError_t cudaGetDriverEntryPointByVersion_ptsz(const char* symbol, void** funcPtr,
                                                  unsigned int cudaVersion,
                                                  unsigned long long flags,
                                                  cudaDriverEntryPointQueryResult* driverStatus) {
    return cudaGetDriverEntryPointByVersion(symbol, funcPtr, cudaVersion, per_thread_flags(flags),
                                            driverStatus);
}
