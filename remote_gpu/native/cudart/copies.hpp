// The runtime's descriptions of copies as the driver's.
#pragma once
#include "cudart/runtime.hpp"

namespace carrel::cudart {

CUDA_MEMCPY3D solid(const cudaMemcpy3DParms& params);
// Which memory the two sides of a copy of that kind are in.
CUmemorytype source_type(cudaMemcpyKind kind);
CUmemorytype target_type(cudaMemcpyKind kind);
// Where `count` bytes of a device variable are, from `offset` on.
CUresult inside(const void* symbol, size_t offset, size_t count, char** out);

}  // namespace carrel::cudart
