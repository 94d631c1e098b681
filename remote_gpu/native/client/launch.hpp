// Launches that are described now and run later: what a kernel node of a graph needs.
#pragma once
#include <cstddef>
#include <vector>

#include "client/function.hpp"
#include "cuda_abi.hpp"

namespace carrel::client {

// Refuses what CUDA refuses at once, and packs the parameters.
CUresult pack_launch(const CUlaunchConfig& config, const Function& function, void** params,
                     void** extra, std::vector<std::byte>& packed);

}  // namespace carrel::client
