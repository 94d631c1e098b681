// cuGraphInstantiate*, cuGraphLaunch, cuGraphExec*: graphs that run.
#include "cuda_functions.hpp"
#include "softgpu/capture.hpp"
#include "softgpu/graph.hpp"
#include "softgpu/graph_handles.hpp"
#include "softgpu/graph_node.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

std::shared_ptr<GraphExec> find_exec(CUgraphExec handle) {
    return Runtime::get().graph_execs.get(handle, CUDA_ERROR_INVALID_VALUE);
}

CUgraphExec instantiate(CUgraph hGraph, unsigned long long flags) {
    constexpr unsigned long long kKnown = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                          CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                          CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    require(!(flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH), CUDA_ERROR_NOT_SUPPORTED);
    require((flags & ~kKnown) == 0);
    return Runtime::get().graph_execs.add(std::make_shared<GraphExec>(*find_graph(hGraph), flags));
}

// The executable graph's copy of a node of the graph that it was made of.
template <class Change>
CUresult change(CUgraphExec hGraphExec, CUgraphNode hNode, Change apply) {
    return entry_in_context([&](Context&) {
        const auto exec = find_exec(hGraphExec);
        const std::lock_guard lock(exec->mutex);
        Node* node = exec->graph->copy_of(find_node(hNode).get());
        require(node != nullptr);
        apply(*node);
    });
}

template <class Params>
CUresult set(CUgraphExec hGraphExec, CUgraphNode hNode, const Params* params) {
    return change(hGraphExec, hNode, [&](Node& node) {
        require(params != nullptr);
        replace(node, parameters_of(*params));
    });
}

}  // namespace

CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                     unsigned long long flags) {
    return entry_in_context([&](Context&) {
        require(phGraphExec != nullptr);
        *phGraphExec = instantiate(hGraph, flags);
    });
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) {
    return entry_in_context([&](Context&) {
        require(phGraphExec && instantiateParams);
        instantiateParams->hErrNode_out = nullptr;
        instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
        *phGraphExec = instantiate(hGraph, instantiateParams->flags);
        instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    });
}

CUresult cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t* flags) {
    return entry([&] {
        require(flags != nullptr);
        *flags = find_exec(hGraphExec)->flags;
    });
}

CUresult cuGraphExecGetId(CUgraphExec hGraphExec, unsigned int* graphId) {
    return entry([&] {
        require(graphId != nullptr);
        *graphId = find_exec(hGraphExec)->graph->id;
    });
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
    return entry([&] { require(Runtime::get().graph_execs.remove(hGraphExec) != nullptr); });
}

// Nothing has to be brought anywhere.
CUresult cuGraphUpload(CUgraphExec hGraphExec, CUstream hStream) {
    return entry([&] {
        (void)find_exec(hGraphExec);
        (void)find_stream(hStream);
    });
}

CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) {
    return entry([&] {
        const auto exec = find_exec(hGraphExec);
        const auto stream = find_stream(hStream);
        if (capturing(*stream)) {
            // In a capture the graph becomes a node of another.
            capture(*stream, ChildGraph{exec->graph->clone()});
            return;
        }
        exec->launch(*stream);
    });
}

CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                              CUgraphExecUpdateResultInfo* resultInfo) {
    return entry([&] {
        require(resultInfo != nullptr);
        *resultInfo = update(*find_exec(hGraphExec), *find_graph(hGraph));
        return resultInfo->result == CU_GRAPH_EXEC_UPDATE_SUCCESS
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    });
}

CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode* hErrorNode_out,
                           CUgraphExecUpdateResult* updateResult_out) {
    CUgraphExecUpdateResultInfo info{};
    const CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
    if (hErrorNode_out) *hErrorNode_out = info.errorNode;
    if (updateResult_out) *updateResult_out = info.result;
    return result;
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                           const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
    return set(hGraphExec, hNode, nodeParams);
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS_v1* p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    const CUDA_KERNEL_NODE_PARAMS wide{
        p->func,      p->gridDimX,       p->gridDimY,     p->gridDimZ, p->blockDimX, p->blockDimY,
        p->blockDimZ, p->sharedMemBytes, p->kernelParams, p->extra,    nullptr,      nullptr};
    return set(hGraphExec, hNode, &wide);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMCPY3D* copyParams, CUcontext) {
    return set(hGraphExec, hNode, copyParams);
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext) {
    return set(hGraphExec, hNode, memsetParams);
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                      const CUDA_HOST_NODE_PARAMS* nodeParams) {
    return set(hGraphExec, hNode, nodeParams);
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUgraph childGraph) {
    return change(hGraphExec, hNode,
                  [&](Node& node) { replace(node, ChildGraph{find_graph(childGraph)->clone()}); });
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUevent event) {
    return change(hGraphExec, hNode, [&](Node& node) {
        replace(node, EventRecord{Runtime::get().events.get(event)});
    });
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                          CUevent event) {
    return change(hGraphExec, hNode,
                  [&](Node& node) { replace(node, EventWait{Runtime::get().events.get(event)}); });
}

CUresult cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  CUgraphNodeParams* nodeParams) {
    return set(hGraphExec, hNode, nodeParams);
}

CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled) {
    return change(hGraphExec, hNode, [&](Node& node) {
        const CUgraphNodeType type = type_of(node.parameters);
        require(type == CU_GRAPH_NODE_TYPE_KERNEL || type == CU_GRAPH_NODE_TYPE_MEMCPY ||
                type == CU_GRAPH_NODE_TYPE_MEMSET);
        node.enabled = isEnabled != 0;
    });
}

CUresult cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int* isEnabled) {
    return change(hGraphExec, hNode, [&](Node& node) {
        require(isEnabled != nullptr);
        *isEnabled = node.enabled;
    });
}

CUresult cuDeviceGraphMemTrim(CUdevice device) {
    return entry([&] { (void)Runtime::get().device(device); });
}
