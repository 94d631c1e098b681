// Graphs: the driver's, one to one.
#include "cudart/registry.hpp"

using namespace carrel::cudart;

cudaError_t cudaGraphCreate(cudaGraph_t* pGraph, unsigned int flags) {
    return call([&] { return cuGraphCreate(pGraph, flags); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return call([&] { return cuGraphDestroy(graph); });
}

cudaError_t cudaGraphClone(cudaGraph_t* pGraphClone, cudaGraph_t originalGraph) {
    return call([&] { return cuGraphClone(pGraphClone, originalGraph); });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* pGraphExec, cudaGraph_t graph,
                                          unsigned long long flags) {
    return call([&] { return cuGraphInstantiateWithFlags(pGraphExec, graph, flags); });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* pGraphExec, cudaGraph_t graph,
                                 unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(pGraphExec, graph, flags);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graphExec) {
    return call([&] { return cuGraphExecDestroy(graphExec); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graphExec, cudaStream_t stream) {
    return call([&] { return cuGraphLaunch(graphExec, stream); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t graphExec, cudaStream_t stream) {
    return call([&] { return cuGraphUpload(graphExec, stream); });
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t hGraphExec, cudaGraph_t hGraph,
                                cudaGraphExecUpdateResultInfo* resultInfo) {
    static_assert(sizeof(cudaGraphExecUpdateResultInfo) == sizeof(CUgraphExecUpdateResultInfo));
    return call([&] {
        return cuGraphExecUpdate_v2(hGraphExec, hGraph,
                                    reinterpret_cast<CUgraphExecUpdateResultInfo*>(resultInfo));
    });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* numNodes) {
    return call([&] { return cuGraphGetNodes(graph, nodes, numNodes); });
}

cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* numNodes) {
    return call([&] { return cuGraphGetRootNodes(graph, nodes, numNodes); });
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* pType) {
    return call(
        [&] { return cuGraphNodeGetType(node, reinterpret_cast<CUgraphNodeType*>(pType)); });
}

cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned int flags) {
    return call([&] { return cuGraphDebugDotPrint(graph, path, flags); });
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* pHandle_out,
                                             cudaGraph_t graph, unsigned int defaultLaunchValue,
                                             unsigned int flags) {
    return call([&] {
        CUcontext current = nullptr;
        cuCtxGetCurrent(&current);
        cuuint64_t handle = 0;
        const CUresult result =
            cuGraphConditionalHandleCreate(&handle, graph, current, defaultLaunchValue, flags);
        if (result == CUDA_SUCCESS) *pHandle_out = handle;
        return result;
    });
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object_out, void* ptr, cudaHostFn_t destroy,
                                 unsigned int initialRefcount, unsigned int flags) {
    return call(
        [&] { return cuUserObjectCreate(object_out, ptr, destroy, initialRefcount, flags); });
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned int count) {
    return call([&] { return cuUserObjectRelease(object, count); });
}

cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned int count) {
    return call([&] { return cuUserObjectRetain(object, count); });
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                      unsigned int count, unsigned int flags) {
    return call([&] { return cuGraphRetainUserObject(graph, object, count, flags); });
}

cudaError_t cudaDeviceGetGraphMemAttribute(int device, cudaGraphMemAttributeType attr,
                                           void* value) {
    return call([&] {
        return cuDeviceGetGraphMemAttribute(device, static_cast<CUgraphMem_attribute>(attr), value);
    });
}

cudaError_t cudaDeviceSetGraphMemAttribute(int device, cudaGraphMemAttributeType attr,
                                           void* value) {
    return call([&] {
        return cuDeviceSetGraphMemAttribute(device, static_cast<CUgraphMem_attribute>(attr), value);
    });
}

cudaError_t cudaDeviceGraphMemTrim(int device) {
    return call([&] { return cuDeviceGraphMemTrim(device); });
}

cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* pGraphExec, cudaGraph_t graph,
                                           cudaGraphInstantiateParams* instantiateParams) {
    static_assert(sizeof(cudaGraphInstantiateParams) == sizeof(CUDA_GRAPH_INSTANTIATE_PARAMS));
    return call([&] {
        return cuGraphInstantiateWithParams(
            pGraphExec, graph, reinterpret_cast<CUDA_GRAPH_INSTANTIATE_PARAMS*>(instantiateParams));
    });
}

cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t graphExec, unsigned long long* flags) {
    return call([&] {
        cuuint64_t value = 0;
        const CUresult result = cuGraphExecGetFlags(graphExec, &value);
        if (result == CUDA_SUCCESS && flags) *flags = value;
        return result;
    });
}

cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t object,
                                       unsigned int count) {
    return call([&] { return cuGraphReleaseUserObject(graph, object, count); });
}

cudaError_t cudaGraphDestroyNode(cudaGraphNode_t node) {
    return call([&] { return cuGraphDestroyNode(node); });
}

cudaError_t cudaGraphNodeFindInClone(cudaGraphNode_t* pNode, cudaGraphNode_t originalNode,
                                     cudaGraph_t clonedGraph) {
    return call([&] { return cuGraphNodeFindInClone(pNode, originalNode, clonedGraph); });
}

cudaError_t cudaGraphNodeSetEnabled(cudaGraphExec_t hGraphExec, cudaGraphNode_t hNode,
                                    unsigned int isEnabled) {
    return call([&] { return cuGraphNodeSetEnabled(hGraphExec, hNode, isEnabled); });
}

cudaError_t cudaGraphNodeGetEnabled(cudaGraphExec_t hGraphExec, cudaGraphNode_t hNode,
                                    unsigned int* isEnabled) {
    return call([&] { return cuGraphNodeGetEnabled(hGraphExec, hNode, isEnabled); });
}

// ---- edges -------------------------------------------------------------------------------------

namespace {

const CUgraphEdgeData* edges(const cudaGraphEdgeData* data) {
    return reinterpret_cast<const CUgraphEdgeData*>(data);
}

CUgraphEdgeData* edges(cudaGraphEdgeData* data) {
    return reinterpret_cast<CUgraphEdgeData*>(data);
}

}  // namespace

#if CARREL_CUDART_MAJOR >= 13

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* pDependencies,
                                         cudaGraphEdgeData* edgeData, size_t* pNumDependencies) {
    return call([&] {
        return cuGraphNodeGetDependencies_v2(node, pDependencies, edges(edgeData),
                                             pNumDependencies);
    });
}

cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* pDependentNodes,
                                           cudaGraphEdgeData* edgeData,
                                           size_t* pNumDependentNodes) {
    return call([&] {
        return cuGraphNodeGetDependentNodes_v2(node, pDependentNodes, edges(edgeData),
                                               pNumDependentNodes);
    });
}

cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                              cudaGraphEdgeData* edgeData, size_t* numEdges) {
    return call([&] { return cuGraphGetEdges_v2(graph, from, to, edges(edgeData), numEdges); });
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to, const cudaGraphEdgeData* edgeData,
                                     size_t numDependencies) {
    return call([&] {
        return cuGraphAddDependencies_v2(graph, from, to, edges(edgeData), numDependencies);
    });
}

cudaError_t cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to,
                                        const cudaGraphEdgeData* edgeData, size_t numDependencies) {
    return call([&] {
        return cuGraphRemoveDependencies_v2(graph, from, to, edges(edgeData), numDependencies);
    });
}

#else

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* pDependencies,
                                         size_t* pNumDependencies) {
    return call([&] {
        return cuGraphNodeGetDependencies_v2(node, pDependencies, nullptr, pNumDependencies);
    });
}

cudaError_t cudaGraphNodeGetDependencies_v2(cudaGraphNode_t node, cudaGraphNode_t* pDependencies,
                                            cudaGraphEdgeData* edgeData, size_t* pNumDependencies) {
    return call([&] {
        return cuGraphNodeGetDependencies_v2(node, pDependencies, edges(edgeData),
                                             pNumDependencies);
    });
}

cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* pDependentNodes,
                                           size_t* pNumDependentNodes) {
    return call([&] {
        return cuGraphNodeGetDependentNodes_v2(node, pDependentNodes, nullptr, pNumDependentNodes);
    });
}

cudaError_t cudaGraphNodeGetDependentNodes_v2(cudaGraphNode_t node,
                                              cudaGraphNode_t* pDependentNodes,
                                              cudaGraphEdgeData* edgeData,
                                              size_t* pNumDependentNodes) {
    return call([&] {
        return cuGraphNodeGetDependentNodes_v2(node, pDependentNodes, edges(edgeData),
                                               pNumDependentNodes);
    });
}

cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                              size_t* numEdges) {
    return call([&] { return cuGraphGetEdges_v2(graph, from, to, nullptr, numEdges); });
}

cudaError_t cudaGraphGetEdges_v2(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to,
                                 cudaGraphEdgeData* edgeData, size_t* numEdges) {
    return call([&] { return cuGraphGetEdges_v2(graph, from, to, edges(edgeData), numEdges); });
}

cudaError_t cudaGraphAddDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to, size_t numDependencies) {
    return call(
        [&] { return cuGraphAddDependencies_v2(graph, from, to, nullptr, numDependencies); });
}

cudaError_t cudaGraphAddDependencies_v2(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to,
                                        const cudaGraphEdgeData* edgeData, size_t numDependencies) {
    return call([&] {
        return cuGraphAddDependencies_v2(graph, from, to, edges(edgeData), numDependencies);
    });
}

cudaError_t cudaGraphRemoveDependencies(cudaGraph_t graph, const cudaGraphNode_t* from,
                                        const cudaGraphNode_t* to, size_t numDependencies) {
    return call(
        [&] { return cuGraphRemoveDependencies_v2(graph, from, to, nullptr, numDependencies); });
}

cudaError_t cudaGraphRemoveDependencies_v2(cudaGraph_t graph, const cudaGraphNode_t* from,
                                           const cudaGraphNode_t* to,
                                           const cudaGraphEdgeData* edgeData,
                                           size_t numDependencies) {
    return call([&] {
        return cuGraphRemoveDependencies_v2(graph, from, to, edges(edgeData), numDependencies);
    });
}

#endif
