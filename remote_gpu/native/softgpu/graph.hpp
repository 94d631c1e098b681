// Graphs: nodes that say what is to be done, edges that say in which order, and executable copies
// of them. Knows streams only as the place where a graph is launched.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/copy.hpp"
#include "softgpu/launch.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

struct Graph;

struct HostCall {
    CUhostFn function = nullptr;
    void* data = nullptr;
    std::shared_ptr<void> owner{};  // of `data`, when it is not the program's
};
struct ChildGraph {
    std::shared_ptr<Graph> graph;
};
struct Nothing {
    std::chrono::nanoseconds takes{0};  // of a library on a null device
};
struct EventWait {
    std::shared_ptr<Event> event;
};
struct EventRecord {
    std::shared_ptr<Event> event;
};
/// Memory of a graph: there from the node's creation until the last graph with the node is gone, or
/// until the program frees it.
struct GraphMemory {
    GraphMemory(std::shared_ptr<Context> owner, std::uint64_t bytes);
    ~GraphMemory();
    const std::shared_ptr<Context> context;
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
    std::uint64_t allocation = 0;  // number in the address map: the address may be another's by now
};
struct MemoryAllocation {
    std::shared_ptr<GraphMemory> memory;
    CUDA_MEM_ALLOC_NODE_PARAMS given{};
};
struct MemoryRelease {
    std::uint64_t address = 0;
};
/// Waits for, or writes, a value in memory.
struct ValueOperation {
    std::uint64_t address = 0;
    std::uint64_t value = 0;
    unsigned bytes = 4;
    bool waits = false;
    unsigned flags = 0;

    void perform(Context& context) const;
};

/// The alternatives in the order of CUgraphNodeType, as far as they are supported.
using NodeParameters =
    std::variant<KernelLaunch, Copy, Fill, HostCall, ChildGraph, Nothing, EventWait, EventRecord,
                 MemoryAllocation, MemoryRelease, ValueOperation>;
[[nodiscard]] CUgraphNodeType type_of(const NodeParameters& parameters);

struct Node {
    Graph* graph = nullptr;
    std::uint64_t id = 0;   // the same in every copy of the graph
    unsigned local_id = 0;  // place in the graph
    bool enabled = true;    // of executable graphs
    NodeParameters parameters;
    std::vector<Node*> dependencies;
    std::vector<void*> pointers;  // what KernelNodeGetParams points to
};

/// An object of the program that graphs keep alive.
struct UserObject {
    void* object = nullptr;
    CUhostFn destroy = nullptr;
    std::atomic<std::uint64_t> references{0};

    void release(std::uint64_t count);
};

/// A template. Its handles and those of its nodes are in the runtime's tables. Not thread-safe, as
/// in CUDA.
struct Graph : std::enable_shared_from_this<Graph> {
    Graph();
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    unsigned id = 0;
    std::vector<std::shared_ptr<Node>> nodes;
    std::map<std::shared_ptr<UserObject>, std::uint64_t> user_objects;

    Node* add(NodeParameters parameters, std::span<Node* const> dependencies);
    void remove(Node* node);
    /// Throws Failure: a node of another graph, or an edge that closes a circle.
    void add_edge(Node* from, Node* to);
    void remove_edge(Node* from, Node* to);
    [[nodiscard]] bool reaches(const Node* from, const Node* to) const;
    /// Nodes such that each comes after those it depends on.
    [[nodiscard]] std::vector<Node*> ordered() const;
    [[nodiscard]] std::vector<Node*> followers(const Node* node) const;
    [[nodiscard]] std::shared_ptr<Graph> clone() const;
    [[nodiscard]] Node* copy_of(const Node* original) const;  // in a clone; null: none
    /// Makes the graph and its nodes known by handle; children too.
    void publish();
    void withdraw();
    bool published = false;
};

/// A graph that can be launched: a copy of its own.
struct GraphExec {
    GraphExec(const Graph& original, unsigned long long launch_flags)
        : graph(original.clone()), flags(launch_flags) {}

    const std::shared_ptr<Graph> graph;
    const unsigned long long flags;
    std::mutex mutex;
    OperationPtr last;  // launches of one executable graph follow one another

    /// Queues all nodes, in the order of their edges, as one step of the stream.
    void launch(Stream& stream);
};

/// Takes over the parameters of `from` where that is possible without changing the shape.
[[nodiscard]] CUgraphExecUpdateResultInfo update(GraphExec& exec, const Graph& from);

/// A text for graphviz.
[[nodiscard]] std::string dot_of(const Graph& graph);

}  // namespace carrel::softgpu
