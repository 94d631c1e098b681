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

namespace {

// Only conditional nodes are added in this way by the libraries we know; their parameters lie in
// memory as the driver's do.
cudaError_t add_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
                     const cudaGraphEdgeData* edges, size_t count, cudaGraphNodeParams* params) {
    static_assert(sizeof(cudaGraphNodeParams) == sizeof(CUgraphNodeParams));
    if (!params || params->type != cudaGraphNodeTypeConditional) {
        return unsupported("cudaGraphAddNode of this kind");
    }
    return call([&] {
        return cuGraphAddNode_v2(node, graph, dependencies,
                                 reinterpret_cast<const CUgraphEdgeData*>(edges), count,
                                 reinterpret_cast<CUgraphNodeParams*>(params));
    });
}

}  // namespace

#if CARREL_CUDART_MAJOR >= 13

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* pDependencies,
                                         cudaGraphEdgeData* edgeData, size_t* pNumDependencies) {
    return call([&] {
        return cuGraphNodeGetDependencies_v2(
            node, pDependencies, reinterpret_cast<CUgraphEdgeData*>(edgeData), pNumDependencies);
    });
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                             const cudaGraphNode_t* pDependencies,
                             const cudaGraphEdgeData* dependencyData, size_t numDependencies,
                             cudaGraphNodeParams* nodeParams) {
    return add_node(pGraphNode, graph, pDependencies, dependencyData, numDependencies, nodeParams);
}

#else

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* pDependencies,
                                         size_t* pNumDependencies) {
    return call([&] {
        return cuGraphNodeGetDependencies_v2(node, pDependencies, nullptr, pNumDependencies);
    });
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                             const cudaGraphNode_t* pDependencies, size_t numDependencies,
                             cudaGraphNodeParams* nodeParams) {
    return add_node(pGraphNode, graph, pDependencies, nullptr, numDependencies, nodeParams);
}

#endif
