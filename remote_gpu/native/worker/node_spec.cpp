#include "worker/node_spec.hpp"

#include <cstring>

namespace carrel::worker {

namespace {

void read_kernel(Objects& objects, wire::Reader& in, NodeSpec& spec) {
    CUDA_KERNEL_NODE_PARAMS& p = spec.kernel;
    p.func = objects.get<CUfunction>(in.get<uint64_t>());
    for (unsigned int* each : {&p.gridDimX, &p.gridDimY, &p.gridDimZ, &p.blockDimX, &p.blockDimY,
                               &p.blockDimZ, &p.sharedMemBytes})
        *each = in.get<uint32_t>();
    spec.parameter_bytes = in.get<uint32_t>();
    if (spec.parameter_bytes > wire::kMaxParams)
        throw wire::Malformed("too many kernel parameters");
    const auto bytes = in.raw(spec.parameter_bytes);
    if (!bytes.empty()) std::memcpy(spec.parameters, bytes.data(), bytes.size());
    spec.extra[0] = reinterpret_cast<void*>(kCU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT);
    spec.extra[1] = spec.parameters;
    spec.extra[2] = reinterpret_cast<void*>(kCU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT);
    spec.extra[3] = &spec.parameter_bytes;
    spec.extra[4] = nullptr;
    if (spec.parameter_bytes) p.extra = spec.extra;
}

}  // namespace

CUresult read_node(Objects& objects, Graphs& graphs, CUgraph graph, wire::Reader& in,
                   NodeSpec& spec) {
    spec.type = static_cast<CUgraphNodeType>(in.get<uint32_t>());
    switch (spec.type) {
        case CU_GRAPH_NODE_TYPE_KERNEL:
            read_kernel(objects, in, spec);
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_MEMCPY:
            spec.copy = in.get<CUDA_MEMCPY3D>();
            if (spec.copy.srcMemoryType != CU_MEMORYTYPE_DEVICE ||
                spec.copy.dstMemoryType != CU_MEMORYTYPE_DEVICE)
                throw wire::Malformed("a node that copies something but device memory");
            spec.context = objects.get<CUcontext>(in.get<uint64_t>());
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_MEMSET:
            spec.fill = in.get<CUDA_MEMSET_NODE_PARAMS>();
            spec.context = objects.get<CUcontext>(in.get<uint64_t>());
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_HOST:
            return graphs.host_node(graph, in.get<uint64_t>(), &spec.host);
        case CU_GRAPH_NODE_TYPE_GRAPH:
            spec.graph = objects.get<CUgraph>(in.get<uint64_t>());
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_EMPTY:
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
            spec.event = objects.get<CUevent>(in.get<uint64_t>());
            return CUDA_SUCCESS;
        default:
            throw wire::Malformed("a graph node of a kind that does not cross the wire");
    }
}

}  // namespace carrel::worker
