// A graph node as it travels (wire/protocol.hpp), for the driver.
#pragma once
#include <cstddef>

#include "cuda_abi.hpp"
#include "wire/protocol.hpp"
#include "wire/reader.hpp"
#include "worker/graphs.hpp"
#include "worker/objects.hpp"

namespace carrel::worker {

// What a node does, as the driver wants it.
struct NodeSpec {
    CUgraphNodeType type{};
    CUDA_KERNEL_NODE_PARAMS kernel{};
    CUDA_MEMCPY3D copy{};
    CUDA_MEMSET_NODE_PARAMS fill{};
    CUDA_HOST_NODE_PARAMS host{};
    CUgraph graph = nullptr;
    CUevent event = nullptr;
    CUcontext context = nullptr;

    // Of a kernel: aligned as the strictest parameter type asks for.
    alignas(16) std::byte parameters[wire::kMaxParams + 4];
    size_t parameter_bytes = 0;
    void* extra[5];
};

// `graph` keeps what a host node needs. Throws wire::Malformed and BadHandle.
CUresult read_node(Objects& objects, Graphs& graphs, CUgraph graph, wire::Reader& in,
                   NodeSpec& spec);

}  // namespace carrel::worker
