// cuGraphAdd*Node, cuGraph*NodeGetParams and SetParams: what nodes do.
#include "softgpu/graph_node.hpp"

#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/graph_handles.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace carrel::softgpu {

NodeParameters parameters_of(const CUDA_KERNEL_NODE_PARAMS& p) {
    Context& context = current_context();
    // A kernel may be given in its own field.
    const CUfunction handle = p.func ? p.func : reinterpret_cast<CUfunction>(p.kern);
    return prepare(find_function(handle, context), {{{p.gridDimX, p.gridDimY, p.gridDimZ},
                                                     {p.blockDimX, p.blockDimY, p.blockDimZ},
                                                     p.sharedMemBytes},
                                                    p.kernelParams,
                                                    p.extra});
}

NodeParameters parameters_of(const CUDA_MEMCPY3D& p) {
    return copy_of(p);
}

NodeParameters parameters_of(const CUDA_MEMSET_NODE_PARAMS& p) {
    const Fill fill{p.dst, p.pitch, p.value, p.elementSize, p.width, p.height};
    fill.check();
    return fill;
}

NodeParameters parameters_of(const CUDA_HOST_NODE_PARAMS& p) {
    require(p.fn != nullptr);
    return HostCall{p.fn, p.userData};
}

NodeParameters parameters_of(const CUDA_BATCH_MEM_OP_NODE_PARAMS& p) {
    require(p.count == 1 && p.paramArray, CUDA_ERROR_NOT_SUPPORTED);
    const CUstreamBatchMemOpParams& operation = *p.paramArray;
    switch (operation.operation) {
        case CU_STREAM_MEM_OP_WAIT_VALUE_32:
            return ValueOperation{operation.waitValue.address, operation.waitValue.value, 4, true,
                                  operation.waitValue.flags};
        case CU_STREAM_MEM_OP_WAIT_VALUE_64:
            return ValueOperation{operation.waitValue.address, operation.waitValue.value64, 8, true,
                                  operation.waitValue.flags};
        case CU_STREAM_MEM_OP_WRITE_VALUE_32:
            return ValueOperation{operation.writeValue.address, operation.writeValue.value, 4};
        case CU_STREAM_MEM_OP_WRITE_VALUE_64:
            return ValueOperation{operation.writeValue.address, operation.writeValue.value64, 8};
        default:
            throw Failure(CUDA_ERROR_NOT_SUPPORTED);
    }
}

NodeParameters parameters_of(const CUgraphNodeParams& p) {
    switch (p.type) {
        case CU_GRAPH_NODE_TYPE_KERNEL: {
            CUDA_KERNEL_NODE_PARAMS kernel;
            static_assert(sizeof kernel == sizeof p.kernel);
            std::memcpy(&kernel, &p.kernel, sizeof kernel);
            return parameters_of(kernel);
        }
        case CU_GRAPH_NODE_TYPE_MEMCPY:
            return parameters_of(p.memcpy.copyParams);
        case CU_GRAPH_NODE_TYPE_MEMSET:
            return parameters_of(CUDA_MEMSET_NODE_PARAMS{p.memset.dst, p.memset.pitch,
                                                         p.memset.value, p.memset.elementSize,
                                                         p.memset.width, p.memset.height});
        case CU_GRAPH_NODE_TYPE_HOST:
            return parameters_of(CUDA_HOST_NODE_PARAMS{p.host.fn, p.host.userData});
        case CU_GRAPH_NODE_TYPE_GRAPH:
            return ChildGraph{find_graph(p.graph.graph)->clone()};
        case CU_GRAPH_NODE_TYPE_EMPTY:
            return Nothing{};
        case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
            return EventWait{Runtime::get().events.get(p.eventWait.event)};
        case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
            return EventRecord{Runtime::get().events.get(p.eventRecord.event)};
        case CU_GRAPH_NODE_TYPE_MEM_FREE:
            return MemoryRelease{p.free.dptr};
        default:
            throw Failure(CUDA_ERROR_NOT_SUPPORTED);
    }
}

void replace(Node& node, NodeParameters parameters) {
    require(node.parameters.index() == parameters.index());
    if (auto* child = std::get_if<ChildGraph>(&parameters);
        child && node.graph && node.graph->published)
        child->graph->publish();
    node.parameters = std::move(parameters);
}

}  // namespace carrel::softgpu

namespace {

template <class Make>
CUresult add(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
             std::size_t count, Make make) {
    return entry_in_context([&](Context&) {
        require(phGraphNode != nullptr);
        const auto graph = find_graph(hGraph);
        const auto after = find_nodes(dependencies, count);
        NodeParameters parameters = make();
        if (const auto* child = std::get_if<ChildGraph>(&parameters)) child->graph->publish();
        *phGraphNode = handle_of(*graph->add(std::move(parameters), after));
    });
}

template <class Params, class Kind>
CUresult set(CUgraphNode hNode, const Params* params) {
    return entry_in_context([&](Context&) {
        require(params != nullptr);
        const auto node = find_node(hNode);
        require(std::holds_alternative<Kind>(node->parameters));
        replace(*node, parameters_of(*params));
    });
}

// `get(const Kind&, Node&)` reads out what the node does.
template <class Kind, class Get>
CUresult get(CUgraphNode hNode, const void* out, Get read) {
    return entry([&] {
        require(out != nullptr);
        const auto node = find_node(hNode);
        const auto* parameters = std::get_if<Kind>(&node->parameters);
        require(parameters != nullptr);
        read(*parameters, *node);
    });
}

// Parameter pointers into the node itself, as CUDA hands them out.
template <class Params>
CUresult get_kernel(CUgraphNode hNode, Params* out) {
    return get<KernelLaunch>(hNode, out, [&](const KernelLaunch& launch, Node& node) {
        *out = {};
        out->func = HandleTable<Function, CUfunction>::handle_of(launch.function.get());
        out->gridDimX = launch.config.grid.x;
        out->gridDimY = launch.config.grid.y;
        out->gridDimZ = launch.config.grid.z;
        out->blockDimX = launch.config.block.x;
        out->blockDimY = launch.config.block.y;
        out->blockDimZ = launch.config.block.z;
        out->sharedMemBytes = static_cast<unsigned>(launch.config.dynamic_shared_bytes);
        node.pointers.clear();
        for (const auto& each : launch.function->kernel.parameters)
            node.pointers.push_back(const_cast<std::byte*>(launch.parameters.data()) + each.offset);
        out->kernelParams = node.pointers.data();
    });
}

CUDA_KERNEL_NODE_PARAMS widen(const CUDA_KERNEL_NODE_PARAMS_v1& p) {
    return {p.func,      p.gridDimX,       p.gridDimY,     p.gridDimZ, p.blockDimX, p.blockDimY,
            p.blockDimZ, p.sharedMemBytes, p.kernelParams, p.extra,    nullptr,     nullptr};
}

CUDA_MEMSET_NODE_PARAMS memset_of(const Fill& fill) {
    return {fill.to, fill.pitch, fill.pattern, fill.element_bytes, fill.width, fill.height};
}

}  // namespace

CUresult cuGraphAddKernelNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                 const CUgraphNode* dependencies, size_t numDependencies,
                                 const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(nodeParams != nullptr);
        return parameters_of(*nodeParams);
    });
}

CUresult cuGraphAddKernelNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                              const CUgraphNode* dependencies, size_t numDependencies,
                              const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(nodeParams != nullptr);
        return parameters_of(widen(*nodeParams));
    });
}

CUresult cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                              const CUgraphNode* dependencies, size_t numDependencies,
                              const CUDA_MEMCPY3D* copyParams, CUcontext) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(copyParams != nullptr);
        return parameters_of(*copyParams);
    });
}

CUresult cuGraphAddMemsetNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                              const CUgraphNode* dependencies, size_t numDependencies,
                              const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(memsetParams != nullptr);
        return parameters_of(*memsetParams);
    });
}

CUresult cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                            const CUgraphNode* dependencies, size_t numDependencies,
                            const CUDA_HOST_NODE_PARAMS* nodeParams) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(nodeParams != nullptr);
        return parameters_of(*nodeParams);
    });
}

CUresult cuGraphAddChildGraphNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                  const CUgraphNode* dependencies, size_t numDependencies,
                                  CUgraph childGraph) {
    return add(phGraphNode, hGraph, dependencies, numDependencies,
               [&]() -> NodeParameters { return ChildGraph{find_graph(childGraph)->clone()}; });
}

CUresult cuGraphAddEmptyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                             const CUgraphNode* dependencies, size_t numDependencies) {
    return add(phGraphNode, hGraph, dependencies, numDependencies,
               []() -> NodeParameters { return Nothing{}; });
}

CUresult cuGraphAddEventRecordNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                   const CUgraphNode* dependencies, size_t numDependencies,
                                   CUevent event) {
    return add(phGraphNode, hGraph, dependencies, numDependencies,
               [&]() -> NodeParameters { return EventRecord{Runtime::get().events.get(event)}; });
}

CUresult cuGraphAddEventWaitNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                 const CUgraphNode* dependencies, size_t numDependencies,
                                 CUevent event) {
    return add(phGraphNode, hGraph, dependencies, numDependencies,
               [&]() -> NodeParameters { return EventWait{Runtime::get().events.get(event)}; });
}

CUresult cuGraphAddBatchMemOpNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                  const CUgraphNode* dependencies, size_t numDependencies,
                                  const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&] {
        require(nodeParams != nullptr);
        return parameters_of(*nodeParams);
    });
}

CUresult cuGraphAddMemAllocNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                const CUgraphNode* dependencies, size_t numDependencies,
                                CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&]() -> NodeParameters {
        require(nodeParams && nodeParams->poolProps.allocType == CU_MEM_ALLOCATION_TYPE_PINNED &&
                nodeParams->poolProps.location.type == CU_MEM_LOCATION_TYPE_DEVICE);
        MemoryAllocation made;
        made.memory = std::make_shared<GraphMemory>(current_context().shared_from_this(),
                                                    nodeParams->bytesize);
        nodeParams->dptr = made.memory->address;
        made.given = *nodeParams;
        made.given.accessDescs = nullptr;  // every software GPU reaches all of the memory
        made.given.accessDescCount = 0;
        return made;
    });
}

CUresult cuGraphAddMemFreeNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                               const CUgraphNode* dependencies, size_t numDependencies,
                               CUdeviceptr dptr) {
    return add(phGraphNode, hGraph, dependencies, numDependencies, [&]() -> NodeParameters {
        require(Runtime::get().addresses().find(dptr).has_value());
        return MemoryRelease{dptr};
    });
}

CUresult cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                           const CUgraphNode* dependencies, const CUgraphEdgeData* dependencyData,
                           size_t numDependencies, CUgraphNodeParams* nodeParams) {
    return entry([&] {
        require(nodeParams != nullptr);
        require_plain_edges(dependencyData, numDependencies);
        if (nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
            CUDA_MEM_ALLOC_NODE_PARAMS given;
            static_assert(sizeof given == sizeof nodeParams->alloc);
            std::memcpy(&given, &nodeParams->alloc, sizeof given);
            const CUresult result =
                cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies, &given);
            nodeParams->alloc.dptr = given.dptr;
            return result;
        }
        return add(phGraphNode, hGraph, dependencies, numDependencies,
                   [&] { return parameters_of(*nodeParams); });
    });
}

CUresult cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                        size_t numDependencies, CUgraphNodeParams* nodeParams) {
    return cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, nullptr, numDependencies,
                             nodeParams);
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    return get_kernel(hNode, nodeParams);
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    return get_kernel(hNode, nodeParams);
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                       const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    return set<CUDA_KERNEL_NODE_PARAMS, KernelLaunch>(hNode, nodeParams);
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                    const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
    if (!nodeParams) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_KERNEL_NODE_PARAMS wide = widen(*nodeParams);
    return cuGraphKernelNodeSetParams_v2(hNode, &wide);
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D* nodeParams) {
    return get<Copy>(hNode, nodeParams,
                     [&](const Copy& copy, Node&) { *nodeParams = description_of(copy); });
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D* nodeParams) {
    return set<CUDA_MEMCPY3D, Copy>(hNode, nodeParams);
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS* nodeParams) {
    return get<Fill>(hNode, nodeParams,
                     [&](const Fill& fill, Node&) { *nodeParams = memset_of(fill); });
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS* nodeParams) {
    return set<CUDA_MEMSET_NODE_PARAMS, Fill>(hNode, nodeParams);
}

CUresult cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS* nodeParams) {
    return get<HostCall>(hNode, nodeParams, [&](const HostCall& call, Node&) {
        *nodeParams = {call.function, call.data};
    });
}

CUresult cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS* nodeParams) {
    return set<CUDA_HOST_NODE_PARAMS, HostCall>(hNode, nodeParams);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph* phGraph) {
    return get<ChildGraph>(hNode, phGraph, [&](const ChildGraph& child, Node&) {
        *phGraph = handle_of(*child.graph);
    });
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent* event_out) {
    return get<EventRecord>(hNode, event_out, [&](const EventRecord& each, Node&) {
        *event_out = HandleTable<Event, CUevent>::handle_of(each.event.get());
    });
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event) {
    return entry(
        [&] { replace(*find_node(hNode), EventRecord{Runtime::get().events.get(event)}); });
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent* event_out) {
    return get<EventWait>(hNode, event_out, [&](const EventWait& each, Node&) {
        *event_out = HandleTable<Event, CUevent>::handle_of(each.event.get());
    });
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event) {
    return entry([&] { replace(*find_node(hNode), EventWait{Runtime::get().events.get(event)}); });
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS* params_out) {
    return get<MemoryAllocation>(
        hNode, params_out, [&](const MemoryAllocation& each, Node&) { *params_out = each.given; });
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr* dptr_out) {
    return get<MemoryRelease>(hNode, dptr_out,
                              [&](const MemoryRelease& each, Node&) { *dptr_out = each.address; });
}

CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams* nodeParams) {
    return entry_in_context([&](Context&) {
        require(nodeParams != nullptr);
        replace(*find_node(hNode), parameters_of(*nodeParams));
    });
}
