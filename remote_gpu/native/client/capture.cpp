#include "client/capture.hpp"

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "client/forward.hpp"
#include "client/graph.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

namespace {

struct Capture {
    CUstream origin;
    CUstreamCaptureMode mode;
    std::thread::id thread;
    CUgraph graph;
    uint64_t id;
    bool own_graph;
    bool invalid = false;  // by a call that was refused here
};

std::mutex mutex;  // guards the list
std::vector<Capture>& live_captures() {
    static auto* const all = new std::vector<Capture>;
    return *all;
}

thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

void count() {
    detail::captures.store(static_cast<uint32_t>(live_captures().size()),
                           std::memory_order_relaxed);
}

std::optional<Capture> find(CUstream stream) {
    if (!captures_exist()) return std::nullopt;
    const std::lock_guard lock(mutex);
    for (const Capture& each : live_captures())
        if (each.origin == stream) return each;
    return std::nullopt;
}

std::optional<Capture> find_id(uint64_t id) {
    const std::lock_guard lock(mutex);
    for (const Capture& each : live_captures())
        if (each.id == id) return each;
    return std::nullopt;
}

void drop(CUstream origin) {
    const std::lock_guard lock(mutex);
    std::erase_if(live_captures(), [&](const Capture& each) { return each.origin == origin; });
    count();
}

bool is_default(CUstream stream) {
    return reinterpret_cast<uint64_t>(stream) <= wire::kLegacyStream;
}

bool known(CUstream stream) {
    return reinterpret_cast<uint64_t>(stream) <= wire::kPerThreadStream ||
           handles().kind(Handles::name(stream)) == Kind::stream;
}

struct State {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    uint64_t id = 0;
    CUgraph graph = nullptr;
    std::vector<CUgraphNode> tail;
};

// Asks the worker; the tail is wanted, or the stream is not one that a capture began in.
CUresult ask_state(CUstream stream, State& state) {
    std::function<void()> name_them;
    const CUresult result = call(
        Call::cuStreamGetCaptureInfo_v3, [&](wire::Writer& w) { w.put(name_of(stream)); },
        [&](wire::Reader& r) {
            state.status = static_cast<CUstreamCaptureStatus>(r.get<int32_t>());
            state.id = r.get<uint64_t>();
            const auto capture = find_id(state.id);
            if (capture) state.graph = capture->graph;
            state.tail = read_nodes(r, state.graph, &name_them);
        });
    if (name_them) name_them();
    if (result == CUDA_SUCCESS && state.status == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        const auto capture = find_id(state.id);
        if (capture && capture->invalid) state.status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    }
    return result;
}

CUresult state_of(CUstream stream, bool with_tail, State& state) {
    if (!current_context()) return no_context();
    if (const CUresult bad = session().status()) return bad;
    if (!known(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!captures_exist()) return CUDA_SUCCESS;
    if (const auto capture = find(stream); capture && !with_tail) {
        state.status = capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                        : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        state.id = capture->id;
        state.graph = capture->graph;
        return CUDA_SUCCESS;
    }
    return ask_state(stream, state);
}

CUresult begin(CUstream stream, CUstreamCaptureMode mode, CUgraph into,
               const CUgraphNode* dependencies, size_t dependency_count) {
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const CUgraph graph = into ? into : mint<CUgraph>();
    uint64_t id = 0;
    const Call which = into ? Call::cuStreamBeginCaptureToGraph : Call::cuStreamBeginCapture_v2;
    const CUresult result = call(
        which,
        [&](wire::Writer& w) {
            w.put(name_of(stream));
            w.put(name_of(graph));
            if (into) put_nodes(w, dependencies, dependency_count);
        },
        [&](wire::Reader& r) { id = r.get<uint64_t>(); });
    if (result != CUDA_SUCCESS) {
        if (!into) retire(graph);
        return result;
    }
    const std::lock_guard lock(mutex);
    live_captures().push_back({stream, mode, std::this_thread::get_id(), graph, id, !into});
    count();
    return CUDA_SUCCESS;
}

CUresult info(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
              const CUgraphNode** nodes, const CUgraphEdgeData** edges, size_t* node_count) {
    if (!status) return CUDA_ERROR_INVALID_VALUE;
    State state;
    if (const CUresult bad = state_of(stream, nodes || node_count, state)) return bad;
    *status = state.status;
    if (state.status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
    // Valid until this thread asks again.
    static thread_local std::vector<CUgraphNode> shown;
    shown = std::move(state.tail);
    if (id) *id = state.id;
    if (graph) *graph = state.graph;
    if (nodes) *nodes = shown.data();
    if (edges) *edges = nullptr;
    if (node_count) *node_count = shown.size();
    return CUDA_SUCCESS;
}

CUresult update(CUstream stream, const CUgraphNode* nodes, const CUgraphEdgeData* edges,
                size_t node_count, unsigned int flags) {
    if (node_count && !nodes) return CUDA_ERROR_INVALID_VALUE;
    if (!plain_edges(edges, node_count)) {
        return unsupported(Call::cuStreamUpdateCaptureDependencies_v2);
    }
    return call(
        Call::cuStreamUpdateCaptureDependencies_v2,
        [&](wire::Writer& w) {
            w.put(name_of(stream));
            w.put(uint32_t{flags});
            put_nodes(w, nodes, node_count);
        },
        [](wire::Reader&) {});
}

}  // namespace

CUresult detail::refuse_unsafe_call() {
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
    const std::lock_guard lock(mutex);
    bool refused = false;
    for (Capture& each : live_captures()) {
        const bool own = each.thread == std::this_thread::get_id() &&
                         each.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        const bool others = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                            each.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (own || others) refused = each.invalid = true;
    }
    return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult check_capture(CUstream stream, bool* captured) {
    *captured = false;
    if (is_default(stream)) return refuse_unsafe_call();
    State state;
    if (const CUresult bad = state_of(stream, false, state)) return bad;
    if (state.status == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    *captured = state.status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult capture_allocation(size_t bytes, CUdeviceptr* out, CUstream stream) {
    State state;
    if (const CUresult bad = state_of(stream, false, state)) return bad;
    const auto memory = memory_of(state.graph);
    if (const CUresult bad = allocate_device(bytes, out)) return bad;
    memory->add(*out);
    return CUDA_SUCCESS;
}

CUresult capture_release(CUdeviceptr pointer, CUstream stream) {
    if (!pointer) return CUDA_SUCCESS;
    State state;
    if (const CUresult bad = state_of(stream, false, state)) return bad;
    // Its own memory the graph keeps for the next replay. Freeing what was allocated outside, at a
    // replay, is not supported.
    return memory_of(state.graph)->holds(pointer) ? CUDA_SUCCESS
                                                  : unsupported(Call::cuMemFreeAsync);
}

void forget_captures() {
    const std::lock_guard lock(mutex);
    live_captures().clear();
    count();
}

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    return begin(hStream, mode, nullptr, nullptr, 0);
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                             const CUgraphNode* dependencies,
                                             const CUgraphEdgeData* dependencyData,
                                             size_t numDependencies, CUstreamCaptureMode mode) {
    if (!hGraph || (numDependencies && !dependencies)) return CUDA_ERROR_INVALID_VALUE;
    if (!plain_edges(dependencyData, numDependencies)) {
        return unsupported(Call::cuStreamBeginCaptureToGraph);
    }
    return begin(hStream, mode, hGraph, dependencies, numDependencies);
}

CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) {
    if (!phGraph) return CUDA_ERROR_INVALID_VALUE;
    *phGraph = nullptr;
    const auto capture = find(hStream);
    if (capture && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
        capture->thread != std::this_thread::get_id()) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    // Without a capture that began here the driver says what is wrong.
    const CUresult result = call(
        Call::cuStreamEndCapture,
        [&](wire::Writer& w) {
            w.put(name_of(hStream));
            w.put(capture && capture->own_graph ? name_of(capture->graph) : uint64_t{0});
        },
        [](wire::Reader&) {});
    if (!capture) return result;
    drop(hStream);
    if (result == CUDA_SUCCESS && !capture->invalid) {
        *phGraph = capture->graph;
        return CUDA_SUCCESS;
    }
    if (!capture->own_graph) return result ? result : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (result != CUDA_SUCCESS) {
        retire_graph(capture->graph);  // it is gone in the worker
        return result;
    }
    cuGraphDestroy(capture->graph);
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) {
    return info(hStream, captureStatus, nullptr, nullptr, nullptr, nullptr, nullptr);
}

CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus* captureStatus_out,
                                        cuuint64_t* id_out) {
    return info(hStream, captureStatus_out, id_out, nullptr, nullptr, nullptr, nullptr);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v2(CUstream hStream,
                                           CUstreamCaptureStatus* captureStatus_out,
                                           cuuint64_t* id_out, CUgraph* graph_out,
                                           const CUgraphNode** dependencies_out,
                                           size_t* numDependencies_out) {
    return info(hStream, captureStatus_out, id_out, graph_out, dependencies_out, nullptr,
                numDependencies_out);
}

CUresult CUDAAPI cuStreamGetCaptureInfo_v3(CUstream hStream,
                                           CUstreamCaptureStatus* captureStatus_out,
                                           cuuint64_t* id_out, CUgraph* graph_out,
                                           const CUgraphNode** dependencies_out,
                                           const CUgraphEdgeData** edgeData_out,
                                           size_t* numDependencies_out) {
    return info(hStream, captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out,
                numDependencies_out);
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode* dependencies,
                                                   size_t numDependencies, unsigned int flags) {
    return update(hStream, dependencies, nullptr, numDependencies, flags);
}

CUresult CUDAAPI cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode* dependencies,
                                                      const CUgraphEdgeData* dependencyData,
                                                      size_t numDependencies, unsigned int flags) {
    return update(hStream, dependencies, dependencyData, numDependencies, flags);
}

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    if (!mode || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    std::swap(*mode, thread_mode);
    return CUDA_SUCCESS;
}
