// Nodes of graphs: the runtime's parameters as the driver's, and back.
#include <cstring>

#include "cudart/copies.hpp"
#include "cudart/registry.hpp"

using namespace carrel::cudart;

namespace {

static_assert(sizeof(cudaGraphNodeParams) == sizeof(CUgraphNodeParams));
static_assert(sizeof(cudaHostNodeParams) == sizeof(CUDA_HOST_NODE_PARAMS));
static_assert(sizeof(cudaMemAllocNodeParams) == sizeof(CUDA_MEM_ALLOC_NODE_PARAMS));

CUcontext context() {
    CUcontext current = nullptr;
    cuCtxGetCurrent(&current);
    return current;
}

template <class P>
CUresult driver_kernel(const P& params, CUDA_KERNEL_NODE_PARAMS* out) {
    *out = {};
    CUkernel kernel = nullptr;
    if (const CUresult bad = registry().kernel(params.func, &kernel)) return bad;
    out->func = reinterpret_cast<CUfunction>(kernel);
    out->gridDimX = params.gridDim.x, out->gridDimY = params.gridDim.y;
    out->gridDimZ = params.gridDim.z;
    out->blockDimX = params.blockDim.x, out->blockDimY = params.blockDim.y;
    out->blockDimZ = params.blockDim.z;
    out->sharedMemBytes = params.sharedMemBytes;
    out->kernelParams = params.kernelParams;
    out->extra = params.extra;
    return CUDA_SUCCESS;
}

CUDA_MEMSET_NODE_PARAMS driver_memset(const auto& params) {
    CUDA_MEMSET_NODE_PARAMS out{};
    out.dst = device(params.dst), out.pitch = params.pitch;
    out.value = params.value, out.elementSize = params.elementSize;
    out.width = params.width, out.height = params.height;
    return out;
}

// A plain copy of bytes.
CUDA_MEMCPY3D line(void* to, const void* from, size_t count, cudaMemcpyKind kind) {
    cudaMemcpy3DParms params{};
    params.srcPtr = {const_cast<void*>(from), count, count, 1};
    params.dstPtr = {to, count, count, 1};
    params.extent = {count, 1, 1};
    params.kind = kind;
    return solid(params);
}

CUresult line_to_symbol(const void* symbol, const void* from, size_t count, size_t offset,
                        cudaMemcpyKind kind, CUDA_MEMCPY3D* out) {
    char* to = nullptr;
    const CUresult bad = inside(symbol, offset, count, &to);
    if (bad == CUDA_SUCCESS) *out = line(to, from, count, kind);
    return bad;
}

CUresult line_from_symbol(void* to, const void* symbol, size_t count, size_t offset,
                          cudaMemcpyKind kind, CUDA_MEMCPY3D* out) {
    char* from = nullptr;
    const CUresult bad = inside(symbol, offset, count, &from);
    if (bad == CUDA_SUCCESS) *out = line(to, from, count, kind);
    return bad;
}

cudaMemcpy3DParms runtime_copy(const CUDA_MEMCPY3D& c) {
    cudaMemcpy3DParms out{};
    const bool from_host = c.srcMemoryType == CU_MEMORYTYPE_HOST;
    const bool to_host = c.dstMemoryType == CU_MEMORYTYPE_HOST;
    out.srcArray = c.srcMemoryType == CU_MEMORYTYPE_ARRAY ? c.srcArray : nullptr;
    out.dstArray = c.dstMemoryType == CU_MEMORYTYPE_ARRAY ? c.dstArray : nullptr;
    out.srcPos = {c.srcXInBytes, c.srcY, c.srcZ};
    out.dstPos = {c.dstXInBytes, c.dstY, c.dstZ};
    void* const from =
        from_host ? const_cast<void*>(c.srcHost) : reinterpret_cast<void*>(c.srcDevice);
    void* const to = to_host ? c.dstHost : reinterpret_cast<void*>(c.dstDevice);
    if (!out.srcArray) out.srcPtr = {from, c.srcPitch, c.WidthInBytes, c.srcHeight};
    if (!out.dstArray) out.dstPtr = {to, c.dstPitch, c.WidthInBytes, c.dstHeight};
    out.extent = {c.WidthInBytes, c.Height, c.Depth};
    if (c.srcMemoryType == CU_MEMORYTYPE_UNIFIED || c.dstMemoryType == CU_MEMORYTYPE_UNIFIED) {
        out.kind = cudaMemcpyDefault;
    } else if (from_host) {
        out.kind = to_host ? cudaMemcpyHostToHost : cudaMemcpyHostToDevice;
    } else {
        out.kind = to_host ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice;
    }
    return out;
}

// Most kinds lie in memory as the driver's do; a kernel is named by its symbol, a copy by kind.
CUresult driver_node(const cudaGraphNodeParams& params, CUgraphNodeParams* out) {
    std::memcpy(out, &params, sizeof *out);
    switch (params.type) {
        case cudaGraphNodeTypeKernel:
            out->kernel = {};
#if CARREL_CUDART_MAJOR >= 13
            if (params.kernel.ctx) return CUDA_ERROR_NOT_SUPPORTED;  // a part of the device
#endif
            return driver_kernel(params.kernel,
                                 reinterpret_cast<CUDA_KERNEL_NODE_PARAMS*>(&out->kernel));
        case cudaGraphNodeTypeMemcpy:
            out->memcpy = {};
            out->memcpy.flags = params.memcpy.flags;
            out->memcpy.copyCtx = context();
            out->memcpy.copyParams = solid(params.memcpy.copyParams);
            return CUDA_SUCCESS;
        case cudaGraphNodeTypeMemset: {
            const CUDA_MEMSET_NODE_PARAMS fill = driver_memset(params.memset);
            out->memset = {};
            std::memcpy(&out->memset, &fill, sizeof fill);
            out->memset.ctx = context();
            return CUDA_SUCCESS;
        }
        default:
            return CUDA_SUCCESS;
    }
}

cudaError_t add_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* dependencies,
                     const cudaGraphEdgeData* edges, size_t count, cudaGraphNodeParams* params) {
    if (!params) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUgraphNodeParams own;
        CUresult result = driver_node(*params, &own);
        if (result == CUDA_SUCCESS)
            result =
                cuGraphAddNode_v2(node, graph, dependencies,
                                  reinterpret_cast<const CUgraphEdgeData*>(edges), count, &own);
        if (result != CUDA_SUCCESS) return result;
        // Outputs.
        if (params->type == cudaGraphNodeTypeConditional)
            std::memcpy(&params->conditional, &own.conditional, sizeof params->conditional);
        if (params->type == cudaGraphNodeTypeMemAlloc)
            params->alloc.dptr = reinterpret_cast<void*>(own.alloc.dptr);
        return result;
    });
}

}  // namespace

#if CARREL_CUDART_MAJOR >= 13

cudaError_t cudaGraphAddNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                             const cudaGraphNode_t* pDependencies,
                             const cudaGraphEdgeData* dependencyData, size_t numDependencies,
                             cudaGraphNodeParams* nodeParams) {
    return add_node(pGraphNode, graph, pDependencies, dependencyData, numDependencies, nodeParams);
}

#else

cudaError_t cudaGraphAddNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                             const cudaGraphNode_t* pDependencies, size_t numDependencies,
                             cudaGraphNodeParams* nodeParams) {
    return add_node(pGraphNode, graph, pDependencies, nullptr, numDependencies, nodeParams);
}

cudaError_t cudaGraphAddNode_v2(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                const cudaGraphNode_t* pDependencies,
                                const cudaGraphEdgeData* dependencyData, size_t numDependencies,
                                cudaGraphNodeParams* nodeParams) {
    return add_node(pGraphNode, graph, pDependencies, dependencyData, numDependencies, nodeParams);
}

#endif

cudaError_t cudaGraphNodeSetParams(cudaGraphNode_t node, cudaGraphNodeParams* nodeParams) {
    if (!nodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUgraphNodeParams own;
        const CUresult bad = driver_node(*nodeParams, &own);
        return bad ? bad : cuGraphNodeSetParams(node, &own);
    });
}

cudaError_t cudaGraphExecNodeSetParams(cudaGraphExec_t graphExec, cudaGraphNode_t node,
                                       cudaGraphNodeParams* nodeParams) {
    if (!nodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUgraphNodeParams own;
        const CUresult bad = driver_node(*nodeParams, &own);
        return bad ? bad : cuGraphExecNodeSetParams(graphExec, node, &own);
    });
}

// ---- kernels -----------------------------------------------------------------------------------

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                   const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                   const cudaKernelNodeParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_KERNEL_NODE_PARAMS own;
        const CUresult bad = driver_kernel(*pNodeParams, &own);
        return bad ? bad
                   : cuGraphAddKernelNode_v2(pGraphNode, graph, pDependencies, numDependencies,
                                             &own);
    });
}

cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_KERNEL_NODE_PARAMS own{};
        if (const CUresult bad = cuGraphKernelNodeGetParams_v2(node, &own)) return bad;
        const CUkernel kernel = own.kern ? own.kern : reinterpret_cast<CUkernel>(own.func);
        pNodeParams->func = const_cast<void*>(registry().symbol(kernel));
        pNodeParams->gridDim = {own.gridDimX, own.gridDimY, own.gridDimZ};
        pNodeParams->blockDim = {own.blockDimX, own.blockDimY, own.blockDimZ};
        pNodeParams->sharedMemBytes = own.sharedMemBytes;
        pNodeParams->kernelParams = own.kernelParams;
        pNodeParams->extra = own.extra;
        return CUDA_SUCCESS;
    });
}

cudaError_t cudaGraphKernelNodeSetParams(cudaGraphNode_t node,
                                         const cudaKernelNodeParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_KERNEL_NODE_PARAMS own;
        const CUresult bad = driver_kernel(*pNodeParams, &own);
        return bad ? bad : cuGraphKernelNodeSetParams_v2(node, &own);
    });
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_KERNEL_NODE_PARAMS own;
        const CUresult bad = driver_kernel(*pNodeParams, &own);
        return bad ? bad : cuGraphExecKernelNodeSetParams_v2(hGraphExec, node, &own);
    });
}

cudaError_t cudaGraphKernelNodeCopyAttributes(cudaGraphNode_t hDst, cudaGraphNode_t hSrc) {
    // To, from, as in the driver; the names in CUDA 12's header are the other way round, and 13's
    // corrected.
    return call([&] { return cuGraphKernelNodeCopyAttributes(hDst, hSrc); });
}

// ---- copies ------------------------------------------------------------------------------------

cudaError_t cudaGraphAddMemcpyNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                   const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                   const cudaMemcpy3DParms* pCopyParams) {
    if (!pCopyParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMCPY3D copy = solid(*pCopyParams);
        return cuGraphAddMemcpyNode(pGraphNode, graph, pDependencies, numDependencies, &copy,
                                    context());
    });
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                     const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                     void* dst, const void* src, size_t count,
                                     cudaMemcpyKind kind) {
    return call([&] {
        const CUDA_MEMCPY3D copy = line(dst, src, count, kind);
        return cuGraphAddMemcpyNode(pGraphNode, graph, pDependencies, numDependencies, &copy,
                                    context());
    });
}

cudaError_t cudaGraphAddMemcpyNodeToSymbol(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                           const cudaGraphNode_t* pDependencies,
                                           size_t numDependencies, const void* symbol,
                                           const void* src, size_t count, size_t offset,
                                           cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_to_symbol(symbol, src, count, offset, kind, &copy);
        return bad ? bad
                   : cuGraphAddMemcpyNode(pGraphNode, graph, pDependencies, numDependencies, &copy,
                                          context());
    });
}

cudaError_t cudaGraphAddMemcpyNodeFromSymbol(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                             const cudaGraphNode_t* pDependencies,
                                             size_t numDependencies, void* dst, const void* symbol,
                                             size_t count, size_t offset, cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_from_symbol(dst, symbol, count, offset, kind, &copy);
        return bad ? bad
                   : cuGraphAddMemcpyNode(pGraphNode, graph, pDependencies, numDependencies, &copy,
                                          context());
    });
}

cudaError_t cudaGraphMemcpyNodeGetParams(cudaGraphNode_t node, cudaMemcpy3DParms* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_MEMCPY3D copy{};
        const CUresult result = cuGraphMemcpyNodeGetParams(node, &copy);
        if (result == CUDA_SUCCESS) *pNodeParams = runtime_copy(copy);
        return result;
    });
}

cudaError_t cudaGraphMemcpyNodeSetParams(cudaGraphNode_t node,
                                         const cudaMemcpy3DParms* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMCPY3D copy = solid(*pNodeParams);
        return cuGraphMemcpyNodeSetParams(node, &copy);
    });
}

cudaError_t cudaGraphMemcpyNodeSetParams1D(cudaGraphNode_t node, void* dst, const void* src,
                                           size_t count, cudaMemcpyKind kind) {
    return call([&] {
        const CUDA_MEMCPY3D copy = line(dst, src, count, kind);
        return cuGraphMemcpyNodeSetParams(node, &copy);
    });
}

cudaError_t cudaGraphMemcpyNodeSetParamsToSymbol(cudaGraphNode_t node, const void* symbol,
                                                 const void* src, size_t count, size_t offset,
                                                 cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_to_symbol(symbol, src, count, offset, kind, &copy);
        return bad ? bad : cuGraphMemcpyNodeSetParams(node, &copy);
    });
}

cudaError_t cudaGraphMemcpyNodeSetParamsFromSymbol(cudaGraphNode_t node, void* dst,
                                                   const void* symbol, size_t count, size_t offset,
                                                   cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_from_symbol(dst, symbol, count, offset, kind, &copy);
        return bad ? bad : cuGraphMemcpyNodeSetParams(node, &copy);
    });
}

cudaError_t cudaGraphExecMemcpyNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                             const cudaMemcpy3DParms* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMCPY3D copy = solid(*pNodeParams);
        return cuGraphExecMemcpyNodeSetParams(hGraphExec, node, &copy, context());
    });
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                               void* dst, const void* src, size_t count,
                                               cudaMemcpyKind kind) {
    return call([&] {
        const CUDA_MEMCPY3D copy = line(dst, src, count, kind);
        return cuGraphExecMemcpyNodeSetParams(hGraphExec, node, &copy, context());
    });
}

cudaError_t cudaGraphExecMemcpyNodeSetParamsToSymbol(cudaGraphExec_t hGraphExec,
                                                     cudaGraphNode_t node, const void* symbol,
                                                     const void* src, size_t count, size_t offset,
                                                     cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_to_symbol(symbol, src, count, offset, kind, &copy);
        return bad ? bad : cuGraphExecMemcpyNodeSetParams(hGraphExec, node, &copy, context());
    });
}

cudaError_t cudaGraphExecMemcpyNodeSetParamsFromSymbol(cudaGraphExec_t hGraphExec,
                                                       cudaGraphNode_t node, void* dst,
                                                       const void* symbol, size_t count,
                                                       size_t offset, cudaMemcpyKind kind) {
    return call([&] {
        CUDA_MEMCPY3D copy;
        const CUresult bad = line_from_symbol(dst, symbol, count, offset, kind, &copy);
        return bad ? bad : cuGraphExecMemcpyNodeSetParams(hGraphExec, node, &copy, context());
    });
}

// ---- fills -------------------------------------------------------------------------------------

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* pGraphNode, cudaGraph_t graph,
                                   const cudaGraphNode_t* pDependencies, size_t numDependencies,
                                   const cudaMemsetParams* pMemsetParams) {
    if (!pMemsetParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMSET_NODE_PARAMS own = driver_memset(*pMemsetParams);
        return cuGraphAddMemsetNode(pGraphNode, graph, pDependencies, numDependencies, &own,
                                    context());
    });
}

cudaError_t cudaGraphMemsetNodeGetParams(cudaGraphNode_t node, cudaMemsetParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        CUDA_MEMSET_NODE_PARAMS own{};
        const CUresult result = cuGraphMemsetNodeGetParams(node, &own);
        if (result == CUDA_SUCCESS)
            *pNodeParams = {reinterpret_cast<void*>(own.dst),
                            own.pitch,
                            own.value,
                            own.elementSize,
                            own.width,
                            own.height};
        return result;
    });
}

cudaError_t cudaGraphMemsetNodeSetParams(cudaGraphNode_t node,
                                         const cudaMemsetParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMSET_NODE_PARAMS own = driver_memset(*pNodeParams);
        return cuGraphMemsetNodeSetParams(node, &own);
    });
}

cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t hGraphExec, cudaGraphNode_t node,
                                             const cudaMemsetParams* pNodeParams) {
    if (!pNodeParams) return finish(cudaErrorInvalidValue);
    return call([&] {
        const CUDA_MEMSET_NODE_PARAMS own = driver_memset(*pNodeParams);
        return cuGraphExecMemsetNodeSetParams(hGraphExec, node, &own, context());
    });
}
