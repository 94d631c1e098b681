#include "worker/graphs.hpp"

#include <algorithm>

#include "wire/protocol.hpp"

namespace carrel::worker {

Graphs::~Graphs() {
    // The driver is on its way out with everything that could still run.
    for (const auto& [ticket, kept] : by_ticket_) delete kept;
}

CUgraph Graphs::graph_of(CUstream stream, uint64_t* id) const {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    cuuint64_t number = 0;
    CUgraph graph = nullptr;
    CUresult result;
    if (driver_.cuStreamGetCaptureInfo_v3) {
        result = driver_.cuStreamGetCaptureInfo_v3(stream, &status, &number, &graph, nullptr,
                                                   nullptr, nullptr);
    } else {
        result = invoke(driver_.cuStreamGetCaptureInfo_v2, stream, &status, &number, &graph,
                        static_cast<const CUgraphNode**>(nullptr), static_cast<size_t*>(nullptr));
    }
    if (result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return nullptr;
    if (id) *id = number;
    return graph;
}

bool Graphs::captures(CUstream stream) const {
    if (origins_.empty() || reinterpret_cast<uint64_t>(stream) <= wire::kLegacyStream) return false;
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    return invoke(driver_.cuStreamIsCapturing, stream, &status) == CUDA_SUCCESS &&
           status != CU_STREAM_CAPTURE_STATUS_NONE;
}

void Graphs::sweep() {
    std::erase_if(origins_, [this](CUstream stream) { return !captures(stream); });
}

void Graphs::forget(CUstream stream) {
    std::erase(origins_, stream);
}

// ---- nodes -------------------------------------------------------------------------------------

void Graphs::bind(uint64_t name, CUgraphNode node) {
    objects_.bind(name, node);
    names_.try_emplace(node, name);
}

uint64_t Graphs::name_of(CUgraphNode node) const {
    const auto found = names_.find(node);
    return found == names_.end() ? 0 : found->second;
}

void Graphs::put(wire::Writer& out, std::span<const CUgraphNode> nodes) {
    std::vector<CUgraphNode> unnamed;
    for (const CUgraphNode node : nodes)
        if (!name_of(node)) unnamed.push_back(node);
    uint64_t token = 0;
    if (!unnamed.empty()) {
        if (unnamed_.size() >= 256) throw wire::Malformed("nodes are asked for and never named");
        unnamed_[token = ++last_token_] = std::move(unnamed);
    }
    out.put(token);
    out.put(static_cast<uint32_t>(nodes.size()));
    for (const CUgraphNode node : nodes) out.put(name_of(node));
}

void Graphs::name(wire::Reader& in) {
    const auto found = unnamed_.find(in.get<uint64_t>());
    if (found == unnamed_.end()) throw wire::Malformed("names for nodes that have them");
    for (const CUgraphNode node : found->second) bind(in.get<uint64_t>(), node);
    unnamed_.erase(found);
}

void Graphs::forget(CUgraphNode node) {
    const auto found = names_.find(node);
    if (found == names_.end()) return;
    objects_.erase<CUgraphNode>(found->second);
    names_.erase(found);
}

void Graphs::forget(CUgraph graph) {
    size_t count = 0;
    if (invoke(driver_.cuGraphGetNodes, graph, static_cast<CUgraphNode*>(nullptr), &count) !=
        CUDA_SUCCESS)
        return;
    std::vector<CUgraphNode> nodes(count);
    if (count) invoke(driver_.cuGraphGetNodes, graph, nodes.data(), &count);
    for (const CUgraphNode node : nodes) {
        CUgraphNodeType type{};
        CUgraph child = nullptr;
        if (invoke(driver_.cuGraphNodeGetType, node, &type) == CUDA_SUCCESS &&
            type == CU_GRAPH_NODE_TYPE_GRAPH &&
            invoke(driver_.cuGraphChildGraphNodeGetGraph, node, &child) == CUDA_SUCCESS) {
            forget(child);
        }
        forget(node);
        for (auto& [token, waiting] : unnamed_) std::erase(waiting, node);
    }
}

// ---- what a replay needs of the client
// -----------------------------------------------------------

// Runs in the driver's stream: the data goes out ahead of whatever the program waits for next.
void CUDAAPI Graphs::run_send(void* data) {
    const auto* kept = static_cast<const Kept*>(data);
    kept->graphs->outbox_.host_data(kept->ticket.number,
                                    {kept->buffer.data(), kept->buffer.size()});
}

void CUDAAPI Graphs::dropped(void* data) {
    auto* kept = static_cast<Kept*>(data);
    Graphs& graphs = *kept->graphs;
    graphs.outbox_.host_call(kept->ticket.number, CUDA_ERROR_NOT_FOUND);
    const std::lock_guard lock(graphs.mutex_);
    graphs.dropped_.push_back(kept);
}

void Graphs::collect() {
    std::vector<Kept*> gone;
    {
        const std::lock_guard lock(mutex_);
        gone.swap(dropped_);
    }
    for (Kept* kept : gone) {
        by_ticket_.erase(kept->ticket.number);
        buffer_bytes_ -= kept->buffer.size();
        delete kept;
    }
}

CUresult Graphs::keep(CUgraph graph, std::unique_ptr<Kept> kept, Kept** out) {
    collect();
    if (by_ticket_.contains(kept->ticket.number)) throw wire::Malformed("a ticket is used twice");
    if (by_ticket_.size() >= Objects::kMaxObjects) throw wire::Malformed("too many graph copies");
    CUuserObject object = nullptr;
    const CUresult made =
        invoke(driver_.cuUserObjectCreate, &object, static_cast<void*>(kept.get()),
               &Graphs::dropped, 1u, static_cast<unsigned>(CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    if (made != CUDA_SUCCESS) return made;
    Kept* const raw = kept.release();
    by_ticket_[raw->ticket.number] = raw;
    buffer_bytes_ += raw->buffer.size();
    raw->object = object;
    const CUresult retained = invoke(driver_.cuGraphRetainUserObject, graph, object, 1u,
                                     static_cast<unsigned>(CU_GRAPH_USER_OBJECT_MOVE));
    if (retained != CUDA_SUCCESS) {
        invoke(driver_.cuUserObjectRelease, object, 1u);
        return retained;
    }
    *out = raw;
    return CUDA_SUCCESS;
}

CUresult Graphs::host_node(CUgraph graph, uint64_t ticket, CUDA_HOST_NODE_PARAMS* out) {
    auto made = std::make_unique<Kept>();
    made->ticket = {&host_calls_, ticket, true};
    made->graphs = this;
    Kept* kept = nullptr;
    if (const CUresult bad = keep(graph, std::move(made), &kept)) return bad;
    *out = {&HostCalls::run, &kept->ticket};
    return CUDA_SUCCESS;
}

CUresult Graphs::keep_ticket(CUgraph graph, uint64_t ticket) {
    auto made = std::make_unique<Kept>();
    made->ticket = {&host_calls_, ticket, true};
    made->graphs = this;
    Kept* kept = nullptr;
    return keep(graph, std::move(made), &kept);
}

CUresult Graphs::release_ticket(CUgraph graph, uint64_t ticket) {
    collect();
    const auto found = by_ticket_.find(ticket);
    if (found == by_ticket_.end()) return CUDA_ERROR_INVALID_VALUE;
    return invoke(driver_.cuGraphReleaseUserObject, graph, found->second->object, 1u);
}

CUresult Graphs::capture_host_call(CUstream stream, uint64_t ticket) {
    const CUgraph graph = graph_of(stream);
    if (!graph) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    CUDA_HOST_NODE_PARAMS node{};
    if (const CUresult bad = host_node(graph, ticket, &node)) return bad;
    return invoke(driver_.cuLaunchHostFunc, stream, node.fn, node.userData);
}

CUresult Graphs::capture_copy(CUstream stream, bool to_host, CUdeviceptr device, uint64_t bytes,
                              uint64_t ticket) {
    if (!bytes || bytes > kMaxCopy) return CUDA_ERROR_NOT_SUPPORTED;
    collect();
    if (bytes > kMaxBuffers - buffer_bytes_) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUgraph graph = graph_of(stream);
    if (!graph) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    auto made = std::make_unique<Kept>();
    made->ticket = {&host_calls_, ticket, true};
    made->graphs = this;
    made->buffer = HostBuffer(driver_, bytes);
    made->to_host = to_host;
    Kept* kept = nullptr;
    if (const CUresult bad = keep(graph, std::move(made), &kept)) return bad;
    if (to_host) {
        const CUresult copied =
            invoke(driver_.cuMemcpyDtoHAsync_v2, static_cast<void*>(kept->buffer.data()), device,
                   size_t{bytes}, stream);
        if (copied != CUDA_SUCCESS) return copied;
        return invoke(driver_.cuLaunchHostFunc, stream, &Graphs::run_send,
                      static_cast<void*>(kept));
    }
    const CUresult asked = invoke(driver_.cuLaunchHostFunc, stream, &HostCalls::run,
                                  static_cast<void*>(&kept->ticket));
    if (asked != CUDA_SUCCESS) return asked;
    return invoke(driver_.cuMemcpyHtoDAsync_v2, device,
                  static_cast<const void*>(kept->buffer.data()), size_t{bytes}, stream);
}

bool Graphs::receive(wire::Channel& from, uint64_t ticket, uint64_t bytes) {
    const auto found = by_ticket_.find(ticket);
    if (found == by_ticket_.end() || found->second->to_host ||
        found->second->buffer.size() != bytes)
        throw wire::Malformed("data for a copy that does not ask for it");
    return from.receive(found->second->buffer.data(), bytes);
}

}  // namespace carrel::worker
