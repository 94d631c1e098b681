// cuGraph*: making graphs, their shape, user objects.
#include "softgpu/graph.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "cuda_functions.hpp"
#include "softgpu/graph_handles.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

// As many as fit go to `out`; the rest of it is cleared. `count` is the room, then the number.
template <class Range>
void list(const Range& nodes, CUgraphNode* out, CUgraphEdgeData* edges, std::size_t* count) {
    require(count != nullptr);
    if (!out) {
        *count = nodes.size();
        return;
    }
    for (std::size_t i = 0; i < *count; ++i) {
        out[i] = i < nodes.size() ? handle_of(*nodes[i]) : nullptr;
        if (edges) edges[i] = {};
    }
    *count = std::min(*count, nodes.size());
}

CUresult edges_of(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* data,
                  std::size_t* count) {
    return entry([&] {
        require(count && (from == nullptr) == (to == nullptr));
        const auto graph = find_graph(hGraph);
        std::size_t n = 0;
        for (const auto& node : graph->nodes)
            for (const Node* each : node->dependencies) {
                if (from && n < *count) {
                    from[n] = handle_of(*each);
                    to[n] = handle_of(*node);
                    if (data) data[n] = {};
                }
                ++n;
            }
        *count = from ? std::min(*count, n) : n;
    });
}

template <class Change>
CUresult change_edges(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                      const CUgraphEdgeData* data, std::size_t count, Change change) {
    return entry([&] {
        const auto graph = find_graph(hGraph);
        require_plain_edges(data, count);
        const auto starts = find_nodes(from, count), ends = find_nodes(to, count);
        for (std::size_t i = 0; i < count; ++i) change(*graph, starts[i], ends[i]);
    });
}

CUresult add_edges(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                   const CUgraphEdgeData* data, std::size_t count) {
    return change_edges(graph, from, to, data, count,
                        [](Graph& g, Node* a, Node* b) { g.add_edge(a, b); });
}

CUresult remove_edges(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                      const CUgraphEdgeData* data, std::size_t count) {
    return change_edges(graph, from, to, data, count,
                        [](Graph& g, Node* a, Node* b) { g.remove_edge(a, b); });
}

CUresult dependencies_of(CUgraphNode hNode, CUgraphNode* out, CUgraphEdgeData* edges,
                         std::size_t* count) {
    return entry([&] { list(find_node(hNode)->dependencies, out, edges, count); });
}

CUresult followers_of(CUgraphNode hNode, CUgraphNode* out, CUgraphEdgeData* edges,
                      std::size_t* count) {
    return entry([&] {
        const auto node = find_node(hNode);
        list(node->graph->followers(node.get()), out, edges, count);
    });
}

}  // namespace

CUresult cuGraphCreate(CUgraph* phGraph, unsigned int flags) {
    return entry([&] {
        require(phGraph && flags == 0);
        const auto graph = std::make_shared<Graph>();
        graph->publish();
        *phGraph = handle_of(*graph);
    });
}

CUresult cuGraphDestroy(CUgraph hGraph) {
    return entry([&] { find_graph(hGraph)->withdraw(); });
}

CUresult cuGraphClone(CUgraph* phGraphClone, CUgraph originalGraph) {
    return entry([&] {
        require(phGraphClone != nullptr);
        const auto copy = find_graph(originalGraph)->clone();
        copy->publish();
        *phGraphClone = handle_of(*copy);
    });
}

CUresult cuGraphNodeFindInClone(CUgraphNode* phNode, CUgraphNode hOriginalNode,
                                CUgraph hClonedGraph) {
    return entry([&] {
        require(phNode != nullptr);
        const Node* found = find_graph(hClonedGraph)->copy_of(find_node(hOriginalNode).get());
        require(found != nullptr);
        *phNode = handle_of(*found);
    });
}

CUresult cuGraphGetId(CUgraph hGraph, unsigned int* graphId) {
    return entry([&] {
        require(graphId != nullptr);
        *graphId = find_graph(hGraph)->id;
    });
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode* nodes, size_t* numNodes) {
    return entry([&] { list(find_graph(hGraph)->nodes, nodes, nullptr, numNodes); });
}

CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode* rootNodes, size_t* numRootNodes) {
    return entry([&] {
        std::vector<std::shared_ptr<Node>> roots;
        for (const auto& node : find_graph(hGraph)->nodes)
            if (node->dependencies.empty()) roots.push_back(node);
        list(roots, rootNodes, nullptr, numRootNodes);
    });
}

CUresult cuGraphGetEdges(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to, size_t* numEdges) {
    return edges_of(hGraph, from, to, nullptr, numEdges);
}

CUresult cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to,
                            CUgraphEdgeData* edgeData, size_t* numEdges) {
    return edges_of(hGraph, from, to, edgeData, numEdges);
}

CUresult cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode* dependencies,
                                    size_t* numDependencies) {
    return dependencies_of(hNode, dependencies, nullptr, numDependencies);
}

CUresult cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode* dependencies,
                                       CUgraphEdgeData* edgeData, size_t* numDependencies) {
    return dependencies_of(hNode, dependencies, edgeData, numDependencies);
}

CUresult cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                      size_t* numDependentNodes) {
    return followers_of(hNode, dependentNodes, nullptr, numDependentNodes);
}

CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                         CUgraphEdgeData* edgeData, size_t* numDependentNodes) {
    return followers_of(hNode, dependentNodes, edgeData, numDependentNodes);
}

CUresult cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                size_t numDependencies) {
    return add_edges(hGraph, from, to, nullptr, numDependencies);
}

CUresult cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                   const CUgraphEdgeData* edgeData, size_t numDependencies) {
    return add_edges(hGraph, from, to, edgeData, numDependencies);
}

CUresult cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                   size_t numDependencies) {
    return remove_edges(hGraph, from, to, nullptr, numDependencies);
}

CUresult cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode* from,
                                      const CUgraphNode* to, const CUgraphEdgeData* edgeData,
                                      size_t numDependencies) {
    return remove_edges(hGraph, from, to, edgeData, numDependencies);
}

CUresult cuGraphDestroyNode(CUgraphNode hNode) {
    return entry([&] {
        const auto node = find_node(hNode);
        node->graph->remove(node.get());
    });
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType* type) {
    return entry([&] {
        require(type != nullptr);
        *type = type_of(find_node(hNode)->parameters);
    });
}

CUresult cuGraphNodeGetContainingGraph(CUgraphNode hNode, CUgraph* phGraph) {
    return entry([&] {
        require(phGraph != nullptr);
        *phGraph = handle_of(*find_node(hNode)->graph);
    });
}

CUresult cuGraphNodeGetLocalId(CUgraphNode hNode, unsigned int* nodeId) {
    return entry([&] {
        require(nodeId != nullptr);
        *nodeId = find_node(hNode)->local_id;
    });
}

CUresult cuGraphNodeGetToolsId(CUgraphNode hNode, unsigned long long* toolsNodeId) {
    return entry([&] {
        require(toolsNodeId != nullptr);
        *toolsNodeId = find_node(hNode)->id;
    });
}

CUresult cuGraphDebugDotPrint(CUgraph hGraph, const char* path, unsigned int) {
    return entry([&] {
        require(path != nullptr);
        std::ofstream file(path);
        file << dot_of(*find_graph(hGraph));
        require(file.good(), CUDA_ERROR_OPERATING_SYSTEM);
    });
}

CUresult cuUserObjectCreate(CUuserObject* object_out, void* ptr, CUhostFn destroy,
                            unsigned int initialRefcount, unsigned int flags) {
    return entry([&] {
        require(object_out && destroy && initialRefcount > 0 &&
                flags == CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
        auto object = std::make_shared<UserObject>();
        object->object = ptr;
        object->destroy = destroy;
        object->references = initialRefcount;
        *object_out = Runtime::get().user_objects.add(std::move(object));
    });
}

CUresult cuUserObjectRetain(CUuserObject object, unsigned int count) {
    return entry([&] { Runtime::get().user_objects.get(object)->references += count; });
}

CUresult cuUserObjectRelease(CUuserObject object, unsigned int count) {
    return entry([&] {
        const auto known = Runtime::get().user_objects.get(object);
        require(known->references >= count);
        known->release(count);
        if (known->references == 0) Runtime::get().user_objects.remove(object);
    });
}

CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count,
                                 unsigned int flags) {
    return entry([&] {
        require(count > 0 && flags <= CU_GRAPH_USER_OBJECT_MOVE);
        const auto target = find_graph(graph);
        const auto known = Runtime::get().user_objects.get(object);
        if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) known->references += count;
        target->user_objects[known] += count;
    });
}

CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count) {
    return entry([&] {
        const auto target = find_graph(graph);
        const auto known = Runtime::get().user_objects.get(object);
        const auto held = target->user_objects.find(known);
        require(held != target->user_objects.end() && held->second >= count);
        held->second -= count;
        if (held->second == 0) target->user_objects.erase(held);
        known->release(count);
    });
}
