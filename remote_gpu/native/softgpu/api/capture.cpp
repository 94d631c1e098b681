// cuStream*Capture*: streams that record a graph.
#include "softgpu/capture.hpp"

#include "cuda_functions.hpp"
#include "softgpu/graph_handles.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

struct Outputs {
    CUstreamCaptureStatus* status = nullptr;
    cuuint64_t* id = nullptr;
    CUgraph* graph = nullptr;
    const CUgraphNode** nodes = nullptr;
    const CUgraphEdgeData** edges = nullptr;
    std::size_t* count = nullptr;
};

CUresult info(CUstream hStream, const Outputs& out) {
    return entry([&] {
        require(out.status != nullptr);
        const auto stream = find_stream(hStream);
        const CaptureInfo now = capture_info(*stream);
        *out.status = now.status;
        if (now.status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return;
        if (out.id) *out.id = now.id;
        if (out.graph) *out.graph = handle_of(*now.graph);
        stream->shown_tail = now.nodes;
        // A node's handle is its address.
        if (out.nodes) *out.nodes = reinterpret_cast<const CUgraphNode*>(stream->shown_tail.data());
        if (out.edges) *out.edges = nullptr;
        if (out.count) *out.count = stream->shown_tail.size();
    });
}

CUresult update(CUstream hStream, CUgraphNode* dependencies, const CUgraphEdgeData* edges,
                std::size_t count, unsigned flags) {
    return entry([&] {
        require(flags <= CU_STREAM_SET_CAPTURE_DEPENDENCIES);
        require_plain_edges(edges, count);
        update_dependencies(*find_stream(hStream), find_nodes(dependencies, count),
                            flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES);
    });
}

}  // namespace

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        begin_capture(*stream, mode, nullptr, {});
    });
}

CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                     const CUgraphNode* dependencies,
                                     const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                     CUstreamCaptureMode mode) {
    return entry([&] {
        const auto stream = find_stream(hStream);
        stream->context.require_usable();
        require_plain_edges(dependencyData, numDependencies);
        auto nodes = find_nodes(dependencies, numDependencies);
        auto graph = find_graph(hGraph);
        for (const Node* node : nodes) require(node->graph == graph.get());
        begin_capture(*stream, mode, std::move(graph), std::move(nodes));
    });
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) {
    return entry([&] {
        require(phGraph != nullptr);
        *phGraph = nullptr;
        *phGraph = handle_of(*end_capture(*find_stream(hStream)));
    });
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) {
    return info(hStream, {captureStatus});
}

CUresult cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                cuuint64_t* id_out) {
    return info(hStream, {captureStatus_out, id_out});
}

CUresult cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                   cuuint64_t* id_out, CUgraph* graph_out,
                                   const CUgraphNode** dependencies_out,
                                   size_t* numDependencies_out) {
    return info(hStream, {captureStatus_out, id_out, graph_out, dependencies_out, nullptr,
                          numDependencies_out});
}

CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                   cuuint64_t* id_out, CUgraph* graph_out,
                                   const CUgraphNode** dependencies_out,
                                   const CUgraphEdgeData** edgeData_out,
                                   size_t* numDependencies_out) {
    return info(hStream, {captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out,
                          numDependencies_out});
}

CUresult cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode* dependencies,
                                           size_t numDependencies, unsigned int flags) {
    return update(hStream, dependencies, nullptr, numDependencies, flags);
}

CUresult cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode* dependencies,
                                              const CUgraphEdgeData* dependencyData,
                                              size_t numDependencies, unsigned int flags) {
    return update(hStream, dependencies, dependencyData, numDependencies, flags);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    return entry([&] {
        require(mode != nullptr);
        *mode = exchange_capture_mode(*mode);
    });
}
