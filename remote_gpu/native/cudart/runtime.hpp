// The runtime API on the driver API: what all its functions share. One device, the slice's; its
// primary context becomes current in a thread at the thread's first call that needs one.
//
// Knows nothing of sessions and wires: everything goes through documented functions of
// libcuda.so.1.
#pragma once
#include "cuda_functions.hpp"
#include "cudart_functions.hpp"

namespace carrel::cudart {

// Makes a context current if none is.
CUresult attach();

inline CUresult ready() {
    CUcontext current = nullptr;
    if (cuCtxGetCurrent(&current) == CUDA_SUCCESS && current) [[likely]]
        return CUDA_SUCCESS;
    return attach();
}

// The runtime's number of a driver's error. They are the same wherever both have one.
cudaError_t translate(CUresult result);
// Remembers an error for cudaGetLastError of this thread, and returns it.
cudaError_t finish(cudaError_t error);
inline cudaError_t finish(CUresult result) {
    return result == CUDA_SUCCESS ? cudaSuccess : finish(translate(result));
}

// Runs a driver call in a context.
template <class F>
cudaError_t call(F&& function) {
    if (const CUresult bad = ready()) return finish(bad);
    return finish(function());
}

// Logs the function's name once, and answers cudaErrorNotSupported.
cudaError_t unsupported(const char* name);

inline CUdeviceptr device(const void* pointer) {
    return reinterpret_cast<CUdeviceptr>(pointer);
}

}  // namespace carrel::cudart
