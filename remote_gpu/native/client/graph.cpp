#include "client/graph.hpp"

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <unordered_map>

#include "client/forward.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

namespace {

struct GraphState {
    std::vector<uint32_t> nodes;  // names, to be retired with the graph
    std::vector<CUgraph> children;
    std::shared_ptr<GraphMemory> memory;
};

std::mutex mutex;                                 // guards everything below
std::unordered_map<uint32_t, GraphState> graphs;  // by name; only those with something to keep
std::unordered_map<uint32_t, std::shared_ptr<GraphMemory>> execs;
std::set<GraphMemory*> memories;

}  // namespace

// Made under the lock, ended without it.
GraphMemory::GraphMemory() {
    memories.insert(this);
    detail::graph_memories.store(static_cast<uint32_t>(memories.size()), std::memory_order_relaxed);
}

GraphMemory::~GraphMemory() {
    {
        const std::lock_guard lock(mutex);
        memories.erase(this);
        detail::graph_memories.store(static_cast<uint32_t>(memories.size()),
                                     std::memory_order_relaxed);
    }
    for (const CUdeviceptr pointer : pointers_) free_device(pointer);
}

void GraphMemory::add(CUdeviceptr pointer) {
    const std::lock_guard lock(mutex);
    pointers_.insert(pointer);
}

bool GraphMemory::holds(CUdeviceptr pointer) {
    const std::lock_guard lock(mutex);
    return pointers_.contains(pointer);
}

void GraphMemory::forget(CUdeviceptr pointer) {
    pointers_.erase(pointer);
}

void GraphMemory::forget_all() {
    pointers_.clear();
}

void detail::forget_graph_memory(CUdeviceptr pointer) {
    const std::lock_guard lock(mutex);
    for (GraphMemory* memory : memories) memory->forget(pointer);
}

std::shared_ptr<GraphMemory> memory_of(CUgraph graph) {
    const std::lock_guard lock(mutex);
    auto& memory = graphs[Handles::name(graph)].memory;
    if (!memory) memory = std::make_shared<GraphMemory>();
    return memory;
}

CUgraphNode mint_node(CUgraph graph) {
    const CUgraphNode node = mint<CUgraphNode>();
    const std::lock_guard lock(mutex);
    graphs[Handles::name(graph)].nodes.push_back(Handles::name(node));
    return node;
}

void retire_graph(CUgraph graph) {
    std::vector<CUgraph> children;
    std::shared_ptr<GraphMemory> memory;  // ends without the lock
    {
        const std::lock_guard lock(mutex);
        const auto found = graphs.find(Handles::name(graph));
        if (found != graphs.end()) {
            for (const uint32_t node : found->second.nodes) handles().erase(node);
            children = std::move(found->second.children);
            memory = std::move(found->second.memory);
            graphs.erase(found);
        }
    }
    retire(graph);
    for (const CUgraph child : children) retire_graph(child);
}

std::vector<CUgraphNode> read_nodes(wire::Reader& in, CUgraph graph,
                                    std::function<void()>* name_them) {
    const auto token = in.get<uint64_t>();
    std::vector<CUgraphNode> nodes(in.get<uint32_t>());
    std::vector<uint64_t> names;
    for (CUgraphNode& node : nodes) {
        const auto name = in.get<uint64_t>();
        node = name    ? Handles::handle<CUgraphNode>(static_cast<uint32_t>(name))
               : graph ? mint_node(graph)
                       : mint<CUgraphNode>();
        if (!name) names.push_back(Handles::name(node));
    }
    if (token) {
        *name_them = [token, names = std::move(names)] {
            post(wire::Internal::graph_names, [&](wire::Writer& w) {
                w.put(token);
                for (const uint64_t name : names) w.put(name);
            });
        };
    }
    return nodes;
}

void put_nodes(wire::Writer& w, const CUgraphNode* nodes, size_t count) {
    w.put(static_cast<uint32_t>(count));
    for (size_t i = 0; i < count; ++i) {
        if (!nodes[i]) throw BadHandle{};
        w.put(name_of(nodes[i]));
    }
}

bool plain_edges(const CUgraphEdgeData* edges, size_t count) {
    return !edges || std::all_of(edges, edges + count, [](const CUgraphEdgeData& edge) {
        return edge.type == 0 && edge.from_port == 0 && edge.to_port == 0;
    });
}

void forget_graphs() {
    std::unordered_map<uint32_t, GraphState> old_graphs;
    std::unordered_map<uint32_t, std::shared_ptr<GraphMemory>> old_execs;
    {
        const std::lock_guard lock(mutex);
        // Their memory goes with all other.
        for (GraphMemory* memory : memories) memory->forget_all();
        old_graphs.swap(graphs);
        old_execs.swap(execs);
    }
}

namespace {

// The nodes that the worker answers for an object.
template <class H>
CUresult fetch(Call which, H of, CUgraph graph, std::vector<CUgraphNode>& nodes,
               uint64_t second = 0) {
    std::function<void()> name_them;
    const CUresult result = call(
        which,
        [&](wire::Writer& w) {
            if (!of) throw BadHandle{};
            w.put(name_of(of));
            if (second) w.put(second);
        },
        [&](wire::Reader& r) { nodes = read_nodes(r, graph, &name_them); });
    if (name_them) name_them();
    return result == CUDA_ERROR_INVALID_HANDLE ? CUDA_ERROR_INVALID_VALUE : result;
}

// As many as there is room for; the rest of the room is cleared.
CUresult hand_out(const std::vector<CUgraphNode>& nodes, CUgraphNode* out, CUgraphEdgeData* edges,
                  size_t* count) {
    if (!out) {
        *count = nodes.size();
        return CUDA_SUCCESS;
    }
    for (size_t i = 0; i < *count; ++i) {
        out[i] = i < nodes.size() ? nodes[i] : nullptr;
        if (edges) edges[i] = {};
    }
    *count = std::min(*count, nodes.size());
    return CUDA_SUCCESS;
}

template <class H>
CUresult list(Call which, H of, CUgraph graph, CUgraphNode* out, CUgraphEdgeData* edges,
              size_t* count) {
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    std::vector<CUgraphNode> nodes;
    if (const CUresult bad = fetch(which, of, graph, nodes)) return bad;
    return hand_out(nodes, out, edges, count);
}

CUresult list_edges(CUgraph graph, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* edges,
                    size_t* count) {
    if (!count || (from == nullptr) != (to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
    std::vector<CUgraphNode> ends;
    if (const CUresult bad = fetch(Call::cuGraphGetEdges_v2, graph, graph, ends)) return bad;
    const size_t half = ends.size() / 2;
    const std::vector<CUgraphNode> starts(ends.begin(), ends.begin() + static_cast<long>(half));
    size_t room = *count;
    hand_out(starts, from, edges, count);
    return hand_out({ends.begin() + static_cast<long>(half), ends.end()}, to, nullptr, &room);
}

CUresult change_edges(Call which, CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                      const CUgraphEdgeData* edges, size_t count) {
    if (!graph || (count && (!from || !to))) return CUDA_ERROR_INVALID_VALUE;
    if (!plain_edges(edges, count)) return unsupported(which);
    return call(
        which,
        [&](wire::Writer& w) {
            w.put(name_of(graph));
            put_nodes(w, from, count);
            put_nodes(w, to, count);
        },
        [](wire::Reader&) {});
}

CUresult instantiate(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
    if (!out || !graph) return CUDA_ERROR_INVALID_VALUE;
    const CUgraphExec exec = mint<CUgraphExec>();
    const CUresult result = call(
        Call::cuGraphInstantiateWithFlags,
        [&](wire::Writer& w) {
            w.put(name_of(exec));
            w.put(name_of(graph));
            w.put(uint64_t{flags});
        },
        [](wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        retire(exec);
        return result;
    }
    const std::lock_guard lock(mutex);
    const auto state = graphs.find(Handles::name(graph));
    if (state != graphs.end() && state->second.memory)
        execs[Handles::name(exec)] = state->second.memory;
    *out = exec;
    return CUDA_SUCCESS;
}

}  // namespace

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuGraphDestroy(CUgraph hGraph) {
    if (!hGraph) return CUDA_ERROR_INVALID_VALUE;
    const CUresult result =
        post(Call::cuGraphDestroy, [&](wire::Writer& w) { w.put(name_of(hGraph)); });
    if (result == CUDA_SUCCESS) retire_graph(hGraph);
    return result == CUDA_ERROR_INVALID_HANDLE ? CUDA_ERROR_INVALID_VALUE : result;
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec hGraphExec) {
    if (!hGraphExec) return CUDA_ERROR_INVALID_VALUE;
    const CUresult result =
        post(Call::cuGraphExecDestroy, [&](wire::Writer& w) { w.put(name_of(hGraphExec)); });
    if (result == CUDA_SUCCESS) {
        std::shared_ptr<GraphMemory> memory;
        {
            const std::lock_guard lock(mutex);
            if (const auto found = execs.find(Handles::name(hGraphExec)); found != execs.end()) {
                memory = std::move(found->second);
                execs.erase(found);
            }
        }
        retire(hGraphExec);
    }
    return result == CUDA_ERROR_INVALID_HANDLE ? CUDA_ERROR_INVALID_VALUE : result;
}

CUresult CUDAAPI cuGraphClone(CUgraph* phGraphClone, CUgraph originalGraph) {
    if (!phGraphClone || !originalGraph) return CUDA_ERROR_INVALID_VALUE;
    const CUgraph copy = mint<CUgraph>();
    const CUresult result = call(
        Call::cuGraphClone,
        [&](wire::Writer& w) {
            w.put(name_of(copy));
            w.put(name_of(originalGraph));
        },
        [](wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        retire(copy);
        return result;
    }
    const std::lock_guard lock(mutex);
    const auto state = graphs.find(Handles::name(originalGraph));
    if (state != graphs.end() && state->second.memory) {
        const auto memory = state->second.memory;
        graphs[Handles::name(copy)].memory = memory;
    }
    *phGraphClone = copy;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph* phGraph) {
    if (!hNode || !phGraph) return CUDA_ERROR_INVALID_VALUE;
    const CUgraph child = mint<CUgraph>();
    const CUresult result = call(
        Call::cuGraphChildGraphNodeGetGraph,
        [&](wire::Writer& w) {
            w.put(name_of(child));
            w.put(name_of(hNode));
        },
        [](wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        retire(child);
        return result;
    }
    *phGraph = child;
    const std::lock_guard lock(mutex);
    for (auto& [name, state] : graphs) {
        if (std::find(state.nodes.begin(), state.nodes.end(), Handles::name(hNode)) !=
            state.nodes.end()) {
            state.children.push_back(child);
            break;
        }
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                             unsigned long long flags) {
    return instantiate(phGraphExec, hGraph, flags);
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) {
    if (!instantiateParams) return CUDA_ERROR_INVALID_VALUE;
    instantiateParams->hErrNode_out = nullptr;
    const unsigned long long flags = instantiateParams->flags;
    const unsigned long long upload = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    CUresult result = instantiate(phGraphExec, hGraph, flags & ~upload);
    if (result == CUDA_SUCCESS && (flags & upload)) {
        result = cuGraphUpload(*phGraphExec, instantiateParams->hUploadStream);
    }
    instantiateParams->result_out =
        result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                      CUgraphExecUpdateResultInfo* resultInfo) {
    if (!hGraphExec || !hGraph || !resultInfo) return CUDA_ERROR_INVALID_VALUE;
    *resultInfo = {};
    return ask(
        Call::cuGraphExecUpdate_v2,
        [&](wire::Writer& w) {
            w.put(name_of(hGraphExec));
            w.put(name_of(hGraph));
        },
        [&](CUresult, wire::Reader& r) {
            if (r.left() < sizeof(int32_t) + sizeof(uint64_t)) return;
            resultInfo->result = static_cast<CUgraphExecUpdateResult>(r.get<int32_t>());
            const auto node = r.get<uint64_t>();
            if (node)
                resultInfo->errorNode = Handles::handle<CUgraphNode>(static_cast<uint32_t>(node));
        });
}

CUresult CUDAAPI cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph,
                                   CUgraphNode* hErrorNode_out,
                                   CUgraphExecUpdateResult* updateResult_out) {
    CUgraphExecUpdateResultInfo info{};
    const CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
    if (hErrorNode_out) *hErrorNode_out = info.errorNode;
    if (updateResult_out) *updateResult_out = info.result;
    return result;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph hGraph, CUgraphNode* nodes, size_t* numNodes) {
    return list(Call::cuGraphGetNodes, hGraph, hGraph, nodes, nullptr, numNodes);
}

CUresult CUDAAPI cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode* rootNodes, size_t* numRootNodes) {
    return list(Call::cuGraphGetRootNodes, hGraph, hGraph, rootNodes, nullptr, numRootNodes);
}

CUresult CUDAAPI cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode* dependencies,
                                            size_t* numDependencies) {
    return list(Call::cuGraphNodeGetDependencies_v2, hNode, nullptr, dependencies, nullptr,
                numDependencies);
}

CUresult CUDAAPI cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode* dependencies,
                                               CUgraphEdgeData* edgeData, size_t* numDependencies) {
    return list(Call::cuGraphNodeGetDependencies_v2, hNode, nullptr, dependencies, edgeData,
                numDependencies);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                              size_t* numDependentNodes) {
    return list(Call::cuGraphNodeGetDependentNodes_v2, hNode, nullptr, dependentNodes, nullptr,
                numDependentNodes);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                                 CUgraphEdgeData* edgeData,
                                                 size_t* numDependentNodes) {
    return list(Call::cuGraphNodeGetDependentNodes_v2, hNode, nullptr, dependentNodes, edgeData,
                numDependentNodes);
}

CUresult CUDAAPI cuGraphNodeFindInClone(CUgraphNode* phNode, CUgraphNode hOriginalNode,
                                        CUgraph hClonedGraph) {
    if (!phNode || !hClonedGraph) return CUDA_ERROR_INVALID_VALUE;
    if (handles().kind(Handles::name(hClonedGraph)) != Kind::graph) return CUDA_ERROR_INVALID_VALUE;
    std::vector<CUgraphNode> found;
    if (const CUresult bad = fetch(Call::cuGraphNodeFindInClone, hOriginalNode, hClonedGraph, found,
                                   Handles::name(hClonedGraph)))
        return bad;
    if (found.empty()) return CUDA_ERROR_INVALID_VALUE;
    *phNode = found[0];
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphGetEdges(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to,
                                 size_t* numEdges) {
    return list_edges(hGraph, from, to, nullptr, numEdges);
}

CUresult CUDAAPI cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to,
                                    CUgraphEdgeData* edgeData, size_t* numEdges) {
    return list_edges(hGraph, from, to, edgeData, numEdges);
}

CUresult CUDAAPI cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode* from,
                                        const CUgraphNode* to, size_t numDependencies) {
    return change_edges(Call::cuGraphAddDependencies_v2, hGraph, from, to, nullptr,
                        numDependencies);
}

CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode* from,
                                           const CUgraphNode* to, const CUgraphEdgeData* edgeData,
                                           size_t numDependencies) {
    return change_edges(Call::cuGraphAddDependencies_v2, hGraph, from, to, edgeData,
                        numDependencies);
}

CUresult CUDAAPI cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode* from,
                                           const CUgraphNode* to, size_t numDependencies) {
    return change_edges(Call::cuGraphRemoveDependencies_v2, hGraph, from, to, nullptr,
                        numDependencies);
}

CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode* from,
                                              const CUgraphNode* to,
                                              const CUgraphEdgeData* edgeData,
                                              size_t numDependencies) {
    return change_edges(Call::cuGraphRemoveDependencies_v2, hGraph, from, to, edgeData,
                        numDependencies);
}

CUresult CUDAAPI cuGraphDestroyNode(CUgraphNode hNode) {
    if (!hNode) return CUDA_ERROR_INVALID_VALUE;
    const CUresult result = call(
        Call::cuGraphDestroyNode, [&](wire::Writer& w) { w.put(name_of(hNode)); },
        [](wire::Reader&) {});
    if (result == CUDA_SUCCESS) retire(hNode);
    return result;
}

// Written here, where the program's files are: with the shape, not with what the nodes do.
CUresult CUDAAPI cuGraphDebugDotPrint(CUgraph hGraph, const char* path, unsigned int) {
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    std::vector<CUgraphNode> nodes, ends;
    if (const CUresult bad = fetch(Call::cuGraphGetNodes, hGraph, hGraph, nodes)) return bad;
    if (const CUresult bad = fetch(Call::cuGraphGetEdges_v2, hGraph, hGraph, ends)) return bad;
    static constexpr const char* kNames[] = {
        "KERNEL",    "MEMCPY",     "MEMSET",       "HOST",           "CHILD",
        "EMPTY",     "EVENT_WAIT", "EVENT_RECORD", "EXT_SEM_SIGNAL", "EXT_SEM_WAIT",
        "MEM_ALLOC", "MEM_FREE",   "BATCH_MEM_OP", "CONDITIONAL"};
    std::map<CUgraphNode, size_t> place;
    std::vector<const char*> labels;
    for (const CUgraphNode node : nodes) {
        place.emplace(node, place.size());
        CUgraphNodeType type{};
        if (const CUresult bad = cuGraphNodeGetType(node, &type)) return bad;
        labels.push_back(static_cast<size_t>(type) < std::size(kNames) ? kNames[type] : "OTHER");
    }
    std::FILE* file = std::fopen(path, "w");
    if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
    std::fprintf(file, "digraph dot {\n");
    for (size_t i = 0; i < labels.size(); ++i)
        std::fprintf(file, "\"node_%zu\"[label=\"%zu\\n%s\"];\n", i, i, labels[i]);
    for (size_t i = 0; i < ends.size() / 2; ++i)
        std::fprintf(file, "\"node_%zu\" -> \"node_%zu\";\n", place[ends[i]],
                     place[ends[i + ends.size() / 2]]);
    std::fprintf(file, "}\n");
    return std::fclose(file) ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_SUCCESS;
}
