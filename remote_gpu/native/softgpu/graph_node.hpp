// From the structures of the API to what a node does.
#pragma once

#include "softgpu/graph.hpp"

namespace carrel::softgpu {

// Each checks what it is given, in the current context. Throws Failure.
[[nodiscard]] NodeParameters parameters_of(const CUDA_KERNEL_NODE_PARAMS& p);
[[nodiscard]] NodeParameters parameters_of(const CUDA_MEMCPY3D& p);
[[nodiscard]] NodeParameters parameters_of(const CUDA_MEMSET_NODE_PARAMS& p);
[[nodiscard]] NodeParameters parameters_of(const CUDA_HOST_NODE_PARAMS& p);
[[nodiscard]] NodeParameters parameters_of(const CUDA_BATCH_MEM_OP_NODE_PARAMS& p);
[[nodiscard]] NodeParameters parameters_of(const CUgraphNodeParams& p);

/// Gives a node other parameters of its kind. Throws Failure: of another kind.
void replace(Node& node, NodeParameters parameters);

}  // namespace carrel::softgpu
