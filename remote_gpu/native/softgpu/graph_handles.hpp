// From the handles of graphs and nodes to the objects, and back.
#pragma once

#include <memory>
#include <vector>

#include "softgpu/graph.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {

inline CUgraph handle_of(const Graph& graph) {
    return HandleTable<Graph, CUgraph>::handle_of(&graph);
}

inline CUgraphNode handle_of(const Node& node) {
    return HandleTable<Node, CUgraphNode>::handle_of(&node);
}

inline std::shared_ptr<Graph> find_graph(CUgraph handle) {
    return Runtime::get().graphs.get(handle, CUDA_ERROR_INVALID_VALUE);
}

inline std::shared_ptr<Node> find_node(CUgraphNode handle) {
    return Runtime::get().graph_nodes.get(handle, CUDA_ERROR_INVALID_VALUE);
}

inline std::vector<Node*> find_nodes(const CUgraphNode* handles, std::size_t count) {
    require(count == 0 || handles != nullptr);
    std::vector<Node*> nodes;
    for (std::size_t i = 0; i < count; ++i) nodes.push_back(find_node(handles[i]).get());
    return nodes;
}

/// Edges that mean "after", and nothing finer.
inline void require_plain_edges(const CUgraphEdgeData* edges, std::size_t count) {
    for (std::size_t i = 0; edges && i < count; ++i)
        require(edges[i].type == 0 && edges[i].from_port == 0 && edges[i].to_port == 0,
                CUDA_ERROR_NOT_SUPPORTED);
}

}  // namespace carrel::softgpu
