// Graphs on this side: the worker's driver holds them; here is what belongs to the program: handles
// of nodes, and memory that a graph owns.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "cuda_abi.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::client {

// Device memory that lives as long as a graph or an executable copy of it.
class GraphMemory {
  public:
    GraphMemory();
    ~GraphMemory();
    void add(CUdeviceptr pointer);
    bool holds(CUdeviceptr pointer);
    // The program has freed it itself.
    void forget(CUdeviceptr pointer);
    void forget_all();

  private:
    std::set<CUdeviceptr> pointers_;
};

// The memory of a graph, made at the first use.
std::shared_ptr<GraphMemory> memory_of(CUgraph graph);

namespace detail {
inline std::atomic<uint32_t> graph_memories{0};
void forget_graph_memory(CUdeviceptr pointer);
}  // namespace detail

// Before memory is freed by the program.
inline void forget_graph_memory(CUdeviceptr pointer) {
    if (detail::graph_memories.load(std::memory_order_relaxed))
        detail::forget_graph_memory(pointer);
}

// Takes the list that the worker has put, and names the nodes that have no name yet. They belong to
// `graph` (null: to whatever graph; they keep their handles).
std::vector<CUgraphNode> read_nodes(wire::Reader& in, CUgraph graph,
                                    std::function<void()>* name_them);
void put_nodes(wire::Writer& w, const CUgraphNode* nodes, size_t count);
// A new node's handle, which goes with its graph.
CUgraphNode mint_node(CUgraph graph);
// The graph is gone, and so are its nodes' handles.
void retire_graph(CUgraph graph);

// Edges that say more than "after" do not cross the wire.
bool plain_edges(const CUgraphEdgeData* edges, size_t count);

void forget_graphs();  // the context is gone

}  // namespace carrel::client
