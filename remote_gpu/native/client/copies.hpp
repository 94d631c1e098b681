// Copies between host and device, in one dimension.
#pragma once
#include <cstddef>

#include "cuda_abi.hpp"

namespace carrel::client {

// The source has been read when they return.
CUresult copy_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream);
// The destination is complete when it returns.
CUresult copy_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream);
// The same without asking whose memory it is.
CUresult send_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream);
CUresult fetch_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream);
// Between any two addresses.
CUresult copy_any(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream);

}  // namespace carrel::client
