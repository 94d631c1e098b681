// Nodes of graphs, added and changed one by one. Adding is pipelined: the handle is ours.
#include <cstring>
#include <map>
#include <mutex>

#include "client/forward.hpp"
#include "client/graph.hpp"
#include "client/launch.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

// A node as it travels (wire/protocol.hpp).
struct Spec {
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
    CUDA_KERNEL_NODE_PARAMS kernel{};
    std::vector<std::byte> parameters;
    CUDA_MEMCPY3D copy{};
    CUDA_MEMSET_NODE_PARAMS fill{};
    uint64_t ticket = 0;
    CUgraph graph = nullptr;
    CUevent event = nullptr;
    CUcontext context = nullptr;
};

void put_spec(wire::Writer& w, const Spec& spec) {
    w.put(static_cast<uint32_t>(spec.type));
    switch (spec.type) {
        case CU_GRAPH_NODE_TYPE_KERNEL: {
            const CUDA_KERNEL_NODE_PARAMS& p = spec.kernel;
            w.put(name_of(p.func));
            for (const unsigned int each : {p.gridDimX, p.gridDimY, p.gridDimZ, p.blockDimX,
                                            p.blockDimY, p.blockDimZ, p.sharedMemBytes})
                w.put(uint32_t{each});
            w.put(static_cast<uint32_t>(spec.parameters.size()));
            w.raw(spec.parameters.data(), spec.parameters.size());
            break;
        }
        case CU_GRAPH_NODE_TYPE_MEMCPY:
            w.put(spec.copy);
            w.put(name_of(spec.context));
            break;
        case CU_GRAPH_NODE_TYPE_MEMSET:
            w.put(spec.fill);
            w.put(name_of(spec.context));
            break;
        case CU_GRAPH_NODE_TYPE_HOST:
            w.put(spec.ticket);
            break;
        case CU_GRAPH_NODE_TYPE_GRAPH:
            if (!spec.graph) throw BadHandle{};
            w.put(name_of(spec.graph));
            break;
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
            if (!spec.event) throw BadHandle{};
            w.put(name_of(spec.event));
            break;
        default:
            break;
    }
}

CUresult spec_of(const CUDA_KERNEL_NODE_PARAMS* p, Spec& spec) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    spec.type = CU_GRAPH_NODE_TYPE_KERNEL;
    spec.kernel = *p;
    // A kernel may be given in its own field; it serves as its function.
    if (!p->func) spec.kernel.func = reinterpret_cast<CUfunction>(p->kern);
    const Function* function = find_function(spec.kernel.func);
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    const CUlaunchConfig config{
        p->gridDimX,  p->gridDimY,       p->gridDimZ, p->blockDimX, p->blockDimY,
        p->blockDimZ, p->sharedMemBytes, nullptr,     nullptr,      0};
    return pack_launch(config, *function, p->kernelParams, p->extra, spec.parameters);
}

bool on_device(CUmemorytype type, CUdeviceptr pointer) {
    return type == CU_MEMORYTYPE_DEVICE ||
           (type == CU_MEMORYTYPE_UNIFIED && (in_arena(pointer) || find_device(pointer)));
}

// A copy that touches the host's memory would have to be several nodes here. Captured streams can
// make such copies.
CUresult spec_of(const CUDA_MEMCPY3D* p, CUcontext context, Spec& spec) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    if (!on_device(p->srcMemoryType, p->srcDevice) || !on_device(p->dstMemoryType, p->dstDevice)) {
        return unsupported(Call::cuGraphAddMemcpyNode);
    }
    spec.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    spec.copy = *p;
    spec.copy.srcMemoryType = spec.copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    spec.copy.srcHost = nullptr, spec.copy.dstHost = nullptr;
    spec.context = context;
    return CUDA_SUCCESS;
}

CUresult spec_of(const CUDA_MEMSET_NODE_PARAMS* p, CUcontext context, Spec& spec) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    spec.type = CU_GRAPH_NODE_TYPE_MEMSET;
    spec.fill = *p;
    spec.context = context;
    return CUDA_SUCCESS;
}

CUresult spec_of(const CUDA_HOST_NODE_PARAMS* p, Spec& spec) {
    if (!p || !p->fn) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult bad = session().status()) return bad;
    spec.type = CU_GRAPH_NODE_TYPE_HOST;
    spec.ticket = host_ticket(p->fn, p->userData);
    return CUDA_SUCCESS;
}

CUresult add(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, size_t count,
             const Spec& spec) {
    if (!out || !graph || (count && !after)) return CUDA_ERROR_INVALID_VALUE;
    if (handles().kind(Handles::name(graph)) != Kind::graph) return CUDA_ERROR_INVALID_VALUE;
    const CUgraphNode node = mint_node(graph);
    const CUresult result = post(Call::cuGraphAddNode_v2, [&](wire::Writer& w) {
        w.put(name_of(node));
        w.put(name_of(graph));
        put_nodes(w, after, count);
        put_spec(w, spec);
    });
    if (result != CUDA_SUCCESS) {
        retire(node);
        if (spec.ticket) drop_host_ticket(spec.ticket);
        return result == CUDA_ERROR_INVALID_HANDLE ? CUDA_ERROR_INVALID_VALUE : result;
    }
    *out = node;
    return CUDA_SUCCESS;
}

CUresult set(CUgraphNode node, const Spec& spec) {
    if (!node) return CUDA_ERROR_INVALID_VALUE;
    return call(
        Call::cuGraphNodeSetParams,
        [&](wire::Writer& w) {
            w.put(name_of(node));
            put_spec(w, spec);
        },
        [](wire::Reader&) {});
}

CUresult set(CUgraphExec exec, CUgraphNode node, const Spec& spec) {
    if (!exec || !node) return CUDA_ERROR_INVALID_VALUE;
    return call(
        Call::cuGraphExecNodeSetParams,
        [&](wire::Writer& w) {
            w.put(name_of(exec));
            w.put(name_of(node));
            put_spec(w, spec);
        },
        [](wire::Reader&) {});
}

CUDA_KERNEL_NODE_PARAMS widen(const CUDA_KERNEL_NODE_PARAMS_v1& p) {
    return {p.func,      p.gridDimX,       p.gridDimY,     p.gridDimZ, p.blockDimX, p.blockDimY,
            p.blockDimZ, p.sharedMemBytes, p.kernelParams, p.extra,    nullptr,     nullptr};
}

// What KernelNodeGetParams points to: kept per node until the next question.
struct Shown {
    std::vector<std::vector<std::byte>> values;
    std::vector<void*> pointers;
};

template <class Params>
CUresult get_kernel(CUgraphNode node, Params* out) {
    static std::mutex mutex;
    static auto* const shown = new std::map<CUgraphNode, Shown>;
    if (!node || !out) return CUDA_ERROR_INVALID_VALUE;
    return call(
        Call::cuGraphKernelNodeGetParams_v2, [&](wire::Writer& w) { w.put(name_of(node)); },
        [&](wire::Reader& r) {
            *out = {};
            out->func = Handles::handle<CUfunction>(static_cast<uint32_t>(r.get<uint64_t>()));
            for (unsigned int* each :
                 {&out->gridDimX, &out->gridDimY, &out->gridDimZ, &out->blockDimX, &out->blockDimY,
                  &out->blockDimZ, &out->sharedMemBytes})
                *each = r.get<uint32_t>();
            const std::lock_guard lock(mutex);
            Shown& now = (*shown)[node];
            now = {};
            while (r.left()) {
                const auto value = r.bytes();
                now.values.emplace_back(value.begin(), value.end());
            }
            for (auto& value : now.values) now.pointers.push_back(value.data());
            out->kernelParams = now.pointers.data();
        });
}

CUresult add_allocation(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, size_t count,
                        size_t bytes, CUdeviceptr* pointer) {
    if (handles().kind(Handles::name(graph)) != Kind::graph) return CUDA_ERROR_INVALID_VALUE;
    // The address is there from now on until the graph is gone, so the node has nothing to do.
    if (const CUresult bad = allocate_device(bytes, pointer)) return bad;
    const CUresult result = add(out, graph, after, count, {});
    if (result != CUDA_SUCCESS) {
        free_device(*pointer);
        return result;
    }
    memory_of(graph)->add(*pointer);
    return CUDA_SUCCESS;
}

CUresult add_release(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, size_t count,
                     CUdeviceptr pointer) {
    if (handles().kind(Handles::name(graph)) != Kind::graph) return CUDA_ERROR_INVALID_VALUE;
    if (!memory_of(graph)->holds(pointer)) return unsupported(Call::cuGraphAddMemFreeNode);
    return add(out, graph, after, count, {});
}

CUresult spec_of(const CUgraphNodeParams& p, Spec& spec) {
    switch (p.type) {
        case CU_GRAPH_NODE_TYPE_KERNEL: {
            CUDA_KERNEL_NODE_PARAMS kernel;
            static_assert(sizeof kernel == sizeof p.kernel);
            std::memcpy(&kernel, &p.kernel, sizeof kernel);
            return spec_of(&kernel, spec);
        }
        case CU_GRAPH_NODE_TYPE_MEMCPY:
            return spec_of(&p.memcpy.copyParams, p.memcpy.copyCtx, spec);
        case CU_GRAPH_NODE_TYPE_MEMSET: {
            const CUDA_MEMSET_NODE_PARAMS fill{p.memset.dst,   p.memset.pitch,
                                               p.memset.value, p.memset.elementSize,
                                               p.memset.width, p.memset.height};
            return spec_of(&fill, p.memset.ctx, spec);
        }
        case CU_GRAPH_NODE_TYPE_HOST: {
            const CUDA_HOST_NODE_PARAMS host{p.host.fn, p.host.userData};
            return spec_of(&host, spec);
        }
        case CU_GRAPH_NODE_TYPE_GRAPH:
            spec.type = p.type;
            spec.graph = p.graph.graph;
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_EMPTY:
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
            spec.type = p.type;
            spec.event = p.eventWait.event;
            return CUDA_SUCCESS;
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
            spec.type = p.type;
            spec.event = p.eventRecord.event;
            return CUDA_SUCCESS;
        default:
            return unsupported(Call::cuGraphAddNode_v2);
    }
}

}  // namespace

CUresult CUDAAPI cuGraphAddKernelNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                         const CUgraphNode* dependencies, size_t numDependencies,
                                         const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, spec)) return bad;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                      const CUgraphNode* dependencies, size_t numDependencies,
                                      const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_KERNEL_NODE_PARAMS wide = widen(*nodeParams);
    return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &wide);
}

CUresult CUDAAPI cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                      const CUgraphNode* dependencies, size_t numDependencies,
                                      const CUDA_MEMCPY3D* copyParams, CUcontext ctx) {
    Spec spec;
    if (const CUresult bad = spec_of(copyParams, ctx, spec)) return bad;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                      const CUgraphNode* dependencies, size_t numDependencies,
                                      const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext ctx) {
    Spec spec;
    if (const CUresult bad = spec_of(memsetParams, ctx, spec)) return bad;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                    const CUgraphNode* dependencies, size_t numDependencies,
                                    const CUDA_HOST_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, spec)) return bad;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddChildGraphNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          CUgraph childGraph) {
    Spec spec;
    spec.type = CU_GRAPH_NODE_TYPE_GRAPH;
    spec.graph = childGraph;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddEmptyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                     const CUgraphNode* dependencies, size_t numDependencies) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, {});
}

CUresult CUDAAPI cuGraphAddEventRecordNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                           const CUgraphNode* dependencies, size_t numDependencies,
                                           CUevent event) {
    Spec spec;
    spec.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    spec.event = event;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddEventWaitNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                         const CUgraphNode* dependencies, size_t numDependencies,
                                         CUevent event) {
    Spec spec;
    spec.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT;
    spec.event = event;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddMemAllocNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                        const CUgraphNode* dependencies, size_t numDependencies,
                                        CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams) {
    if (!nodeParams || nodeParams->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        nodeParams->poolProps.location.id != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return add_allocation(phGraphNode, hGraph, dependencies, numDependencies, nodeParams->bytesize,
                          &nodeParams->dptr);
}

CUresult CUDAAPI cuGraphAddMemFreeNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                       const CUgraphNode* dependencies, size_t numDependencies,
                                       CUdeviceptr dptr) {
    return add_release(phGraphNode, hGraph, dependencies, numDependencies, dptr);
}

CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                   const CUgraphNode* dependencies,
                                   const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                   CUgraphNodeParams* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    if (!plain_edges(dependencyData, numDependencies)) return unsupported(Call::cuGraphAddNode_v2);
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
        return add_allocation(phGraphNode, hGraph, dependencies, numDependencies,
                              nodeParams->alloc.bytesize, &nodeParams->alloc.dptr);
    }
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
        return add_release(phGraphNode, hGraph, dependencies, numDependencies,
                           nodeParams->free.dptr);
    }
    Spec spec;
    if (const CUresult bad = spec_of(*nodeParams, spec)) return bad;
    return add(phGraphNode, hGraph, dependencies, numDependencies, spec);
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                const CUgraphNode* dependencies, size_t numDependencies,
                                CUgraphNodeParams* nodeParams) {
    return cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, nullptr, numDependencies,
                             nodeParams);
}

CUresult CUDAAPI cuGraphKernelNodeGetParams_v2(CUgraphNode hNode,
                                               CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    return get_kernel(hNode, nodeParams);
}

CUresult CUDAAPI cuGraphKernelNodeGetParams(CUgraphNode hNode,
                                            CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    return get_kernel(hNode, nodeParams);
}

CUresult CUDAAPI cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                               const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, spec)) return bad;
    return set(hNode, spec);
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                            const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_KERNEL_NODE_PARAMS wide = widen(*nodeParams);
    return cuGraphKernelNodeSetParams_v2(hNode, &wide);
}

CUresult CUDAAPI cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, nullptr, spec)) return bad;
    return set(hNode, spec);
}

CUresult CUDAAPI cuGraphMemsetNodeSetParams(CUgraphNode hNode,
                                            const CUDA_MEMSET_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, nullptr, spec)) return bad;
    return set(hNode, spec);
}

CUresult CUDAAPI cuGraphHostNodeSetParams(CUgraphNode hNode,
                                          const CUDA_HOST_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, spec)) return bad;
    return set(hNode, spec);
}

CUresult CUDAAPI cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    Spec spec;
    if (const CUresult bad = spec_of(*nodeParams, spec)) return bad;
    return set(hNode, spec);
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                   const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    Spec spec;
    if (const CUresult bad = spec_of(nodeParams, spec)) return bad;
    return set(hGraphExec, hNode, spec);
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_KERNEL_NODE_PARAMS wide = widen(*nodeParams);
    return cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &wide);
}

CUresult CUDAAPI cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_MEMCPY3D* copyParams, CUcontext ctx) {
    Spec spec;
    if (const CUresult bad = spec_of(copyParams, ctx, spec)) return bad;
    return set(hGraphExec, hNode, spec);
}

CUresult CUDAAPI cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_MEMSET_NODE_PARAMS* memsetParams,
                                                CUcontext ctx) {
    Spec spec;
    if (const CUresult bad = spec_of(memsetParams, ctx, spec)) return bad;
    return set(hGraphExec, hNode, spec);
}

CUresult CUDAAPI cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                          CUgraphNodeParams* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    Spec spec;
    if (const CUresult bad = spec_of(*nodeParams, spec)) return bad;
    return set(hGraphExec, hNode, spec);
}

// Nothing is kept for graphs that no graph uses.
CUresult CUDAAPI cuDeviceGraphMemTrim(CUdevice device) {
    if (const CUresult bad = session().status()) return bad;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
