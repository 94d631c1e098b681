// Nodes of graphs that are the driver's one to one: host functions, child graphs, events, memory.
#include "cudart/runtime.hpp"

using namespace carrel::cudart;

cudaError_t cudaGraphAddHostNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                 const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                 const cudaHostNodeParams* pNodeParams) {
    return call([&] {
        return cuGraphAddHostNode(pGraphNode, graph, pDependencies, numDependencies,
                                  reinterpret_cast<const CUDA_HOST_NODE_PARAMS*>(pNodeParams));
    });
}

cudaError_t cudaGraphHostNodeGetParams(cudaGraphNode_t node, cudaHostNodeParams* pNodeParams) {
    return call([&] {
        return cuGraphHostNodeGetParams(node,
                                        reinterpret_cast<CUDA_HOST_NODE_PARAMS*>(pNodeParams));
    });
}

cudaError_t cudaGraphHostNodeSetParams(cudaGraphNode_t node,
                                       const cudaHostNodeParams* pNodeParams) {
    return call([&] {
        return cuGraphHostNodeSetParams(
            node, reinterpret_cast<const CUDA_HOST_NODE_PARAMS*>(pNodeParams));
    });
}

cudaError_t cudaGraphExecHostNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                           const cudaHostNodeParams* pNodeParams) {
    return call([&] {
        return cuGraphExecHostNodeSetParams(
            hGraphExec, node, reinterpret_cast<const CUDA_HOST_NODE_PARAMS*>(pNodeParams));
    });
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                       const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                       cudaGraph_t childGraph) {
    return call([&] {
        return cuGraphAddChildGraphNode(pGraphNode, graph, pDependencies, numDependencies,
                                        childGraph);
    });
}

cudaError_t cudaGraphChildGraphNodeGetGraph(cudaGraphNode_t node, cudaGraph_t* pGraph) {
    return call([&] { return cuGraphChildGraphNodeGetGraph(node, pGraph); });
}

cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                                 cudaGraph_t childGraph) {
    return call([&] { return cuGraphExecChildGraphNodeSetParams(hGraphExec, node, childGraph); });
}

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                  const cudaGraphNode_t* pDependencies, size_t numDependencies) {
    return call(
        [&] { return cuGraphAddEmptyNode(pGraphNode, graph, pDependencies, numDependencies); });
}

cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                        const cudaGraphNode_t* pDependencies,
                                        size_t numDependencies, cudaEvent_t event) {
    return call([&] {
        return cuGraphAddEventRecordNode(pGraphNode, graph, pDependencies, numDependencies, event);
    });
}

cudaError_t cudaGraphEventRecordNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* event_out) {
    return call([&] { return cuGraphEventRecordNodeGetEvent(node, event_out); });
}

cudaError_t cudaGraphEventRecordNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
    return call([&] { return cuGraphEventRecordNodeSetEvent(node, event); });
}

cudaError_t cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t hGraphExec, cudaGraphNode_t hNode,
                                                 cudaEvent_t event) {
    return call([&] { return cuGraphExecEventRecordNodeSetEvent(hGraphExec, hNode, event); });
}

cudaError_t cudaGraphAddEventWaitNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                      const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                      cudaEvent_t event) {
    return call([&] {
        return cuGraphAddEventWaitNode(pGraphNode, graph, pDependencies, numDependencies, event);
    });
}

cudaError_t cudaGraphEventWaitNodeGetEvent(cudaGraphNode_t node, cudaEvent_t* event_out) {
    return call([&] { return cuGraphEventWaitNodeGetEvent(node, event_out); });
}

cudaError_t cudaGraphEventWaitNodeSetEvent(cudaGraphNode_t node, cudaEvent_t event) {
    return call([&] { return cuGraphEventWaitNodeSetEvent(node, event); });
}

cudaError_t cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t hGraphExec, cudaGraphNode_t hNode,
                                               cudaEvent_t event) {
    return call([&] { return cuGraphExecEventWaitNodeSetEvent(hGraphExec, hNode, event); });
}

cudaError_t cudaGraphAddMemAllocNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                     const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                     cudaMemAllocNodeParams* nodeParams) {
    return call([&] {
        return cuGraphAddMemAllocNode(pGraphNode, graph, pDependencies, numDependencies,
                                      reinterpret_cast<CUDA_MEM_ALLOC_NODE_PARAMS*>(nodeParams));
    });
}

cudaError_t cudaGraphMemAllocNodeGetParams(cudaGraphNode_t node,
                                           cudaMemAllocNodeParams* params_out) {
    return call([&] {
        return cuGraphMemAllocNodeGetParams(
            node, reinterpret_cast<CUDA_MEM_ALLOC_NODE_PARAMS*>(params_out));
    });
}

cudaError_t cudaGraphAddMemFreeNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                    const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                    void* dptr) {
    return call([&] {
        return cuGraphAddMemFreeNode(pGraphNode, graph, pDependencies, numDependencies,
                                     device(dptr));
    });
}

cudaError_t cudaGraphMemFreeNodeGetParams(cudaGraphNode_t node, void* dptr_out) {
    return call(
        [&] { return cuGraphMemFreeNodeGetParams(node, static_cast<CUdeviceptr*>(dptr_out)); });
}
