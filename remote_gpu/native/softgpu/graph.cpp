#include "softgpu/graph.hpp"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <thread>
#include <unordered_map>

#include "softgpu/failure.hpp"
#include "softgpu/pool.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {
namespace {

constexpr CUgraphNodeType kTypes[] = {
    CU_GRAPH_NODE_TYPE_KERNEL,     CU_GRAPH_NODE_TYPE_MEMCPY,       CU_GRAPH_NODE_TYPE_MEMSET,
    CU_GRAPH_NODE_TYPE_HOST,       CU_GRAPH_NODE_TYPE_GRAPH,        CU_GRAPH_NODE_TYPE_EMPTY,
    CU_GRAPH_NODE_TYPE_WAIT_EVENT, CU_GRAPH_NODE_TYPE_EVENT_RECORD, CU_GRAPH_NODE_TYPE_MEM_ALLOC,
    CU_GRAPH_NODE_TYPE_MEM_FREE,   CU_GRAPH_NODE_TYPE_BATCH_MEM_OP};
constexpr const char* kTypeNames[] = {"KERNEL",    "MEMCPY",   "MEMSET",      "HOST",
                                      "CHILD",     "EMPTY",    "EVENT_WAIT",  "EVENT_RECORD",
                                      "MEM_ALLOC", "MEM_FREE", "BATCH_MEM_OP"};

template <class Value>
bool satisfied(Value now, Value value, unsigned flags) {
    switch (flags & 3) {
        case CU_STREAM_WAIT_VALUE_GEQ:
            return static_cast<std::make_signed_t<Value>>(now - value) >= 0;
        case CU_STREAM_WAIT_VALUE_EQ:
            return now == value;
        case CU_STREAM_WAIT_VALUE_AND:
            return (now & value) != 0;
        default:
            return static_cast<Value>(~(now | value)) != 0;
    }
}

template <class Value>
void perform_value(const ValueOperation& operation, Context& context) {
    auto* word = reinterpret_cast<Value*>(operation.address);
    const auto value = static_cast<Value>(operation.value);
    if (!operation.waits) {
        __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
        return;
    }
    while (!satisfied(__atomic_load_n(word, __ATOMIC_SEQ_CST), value, operation.flags)) {
        if (context.error() != CUDA_SUCCESS || context.abort) return;
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

void release_memory(std::uint64_t address) {
    const auto gone = Runtime::get().addresses().remove(
        address, [](const Allocation& each) { return each.kind == MemoryKind::device; });
    if (!gone) return;
    gone->context->device_heap().free(gone->base);
    if (gone->pool) gone->pool->used -= gone->bytes;
}

// What a node does that is neither a child graph nor about events.
struct TaskOf {
    Context& context;
    Task operator()(const KernelLaunch& launch) const { return launch.task(); }
    Task operator()(const Copy& copy) const {
        return [copy] { copy.perform(); };
    }
    Task operator()(const Fill& fill) const {
        return [fill] { fill.perform(); };
    }
    Task operator()(const HostCall& call) const {
        return [call] { call.function(call.data); };
    }
    Task operator()(const MemoryAllocation& each) const {
        // Holds the memory while the launch is under way.
        return [memory = each.memory] { (void)memory; };
    }
    Task operator()(const MemoryRelease& release) const {
        return [address = release.address] {
            // A graph keeps its own memory for the next launch.
            const auto known = Runtime::get().addresses().find(address);
            if (known && known->base == address && !known->of_graph) release_memory(address);
        };
    }
    Task operator()(const ValueOperation& operation) const {
        return [operation, self = context.shared_from_this()] { operation.perform(*self); };
    }
    Task operator()(const Nothing& nothing) const { return Task(nothing.takes); }
    template <class Other>
    Task operator()(const Other&) const {
        return {};
    }
};

// Queues the nodes of a graph behind `entry`; the operations that nothing else waits for.
std::vector<OperationPtr> submit(const Graph& graph, Context& context,
                                 const std::vector<OperationPtr>& entry) {
    std::unordered_map<const Node*, std::vector<OperationPtr>> ends;
    std::unordered_map<const Node*, bool> followed;
    for (const Node* node : graph.ordered()) {
        std::vector<OperationPtr> after;
        for (const Node* each : node->dependencies) {
            followed[each] = true;
            after.insert(after.end(), ends[each].begin(), ends[each].end());
        }
        if (after.empty()) after = entry;
        if (!node->enabled) {
            ends[node] = std::move(after);
        } else if (const auto* child = std::get_if<ChildGraph>(&node->parameters)) {
            ends[node] = submit(*child->graph, context, after);
        } else if (const auto* wait = std::get_if<EventWait>(&node->parameters)) {
            after.push_back(wait->event->recorded());
            ends[node] = {context.follow({}, after, true)};
        } else if (const auto* record = std::get_if<EventRecord>(&node->parameters)) {
            const std::lock_guard lock(record->event->mutex);
            record->event->operation = context.follow({}, after, true);
            ends[node] = {record->event->operation};
        } else {
            ends[node] = {
                context.follow(std::visit(TaskOf{context}, node->parameters), after, false)};
        }
    }
    std::vector<OperationPtr> last;
    for (const auto& node : graph.nodes)
        if (!followed[node.get()])
            last.insert(last.end(), ends[node.get()].begin(), ends[node.get()].end());
    return last.empty() ? entry : last;
}

CUgraphNode handle_of(const Node* node) {
    return HandleTable<Node, CUgraphNode>::handle_of(node);
}

}  // namespace

CUgraphNodeType type_of(const NodeParameters& parameters) {
    return kTypes[parameters.index()];
}

void ValueOperation::perform(Context& context) const {
    if (bytes == 8) {
        perform_value<std::uint64_t>(*this, context);
    } else {
        perform_value<std::uint32_t>(*this, context);
    }
}

GraphMemory::GraphMemory(std::shared_ptr<Context> owner, std::uint64_t size)
    : context(std::move(owner)), bytes(size) {
    Allocation made;
    made.base = address = context->device_heap().allocate(bytes);
    made.bytes = bytes;
    made.context = context.get();
    made.device = context->device().ordinal();
    made.of_graph = true;
    Runtime::get().addresses().add(std::move(made));
    allocation = Runtime::get().addresses().find(address)->id;
}

GraphMemory::~GraphMemory() {
    const auto now = Runtime::get().addresses().find(address);
    if (now && now->id == allocation) release_memory(address);
}

void UserObject::release(std::uint64_t count) {
    if (references.fetch_sub(count) == count) destroy(object);
}

Graph::Graph() {
    static std::atomic<unsigned> next{1};
    id = next++;
}

Graph::~Graph() {
    for (const auto& [object, count] : user_objects) object->release(count);
}

Node* Graph::add(NodeParameters parameters, std::span<Node* const> dependencies) {
    static std::atomic<std::uint64_t> next{1};
    for (const Node* each : dependencies) require(each && each->graph == this);
    auto node = std::make_shared<Node>();
    node->graph = this;
    node->id = next++;
    node->local_id = static_cast<unsigned>(nodes.size());
    node->parameters = std::move(parameters);
    for (Node* each : dependencies)
        if (std::find(node->dependencies.begin(), node->dependencies.end(), each) ==
            node->dependencies.end())
            node->dependencies.push_back(each);
    nodes.push_back(node);
    if (published) Runtime::get().graph_nodes.add(node);
    return node.get();
}

void Graph::remove(Node* node) {
    for (const auto& each : nodes) std::erase(each->dependencies, node);
    Runtime::get().graph_nodes.remove(handle_of(node));
    std::erase_if(nodes, [&](const auto& each) { return each.get() == node; });
}

bool Graph::reaches(const Node* from, const Node* to) const {
    std::vector<const Node*> open{to}, seen;
    while (!open.empty()) {
        const Node* node = open.back();
        open.pop_back();
        if (node == from) return true;
        if (std::find(seen.begin(), seen.end(), node) != seen.end()) continue;
        seen.push_back(node);
        open.insert(open.end(), node->dependencies.begin(), node->dependencies.end());
    }
    return false;
}

void Graph::add_edge(Node* from, Node* to) {
    require(from && to && from->graph == this && to->graph == this);
    auto& known = to->dependencies;
    require(std::find(known.begin(), known.end(), from) == known.end());
    require(!reaches(to, from));
    known.push_back(from);
}

void Graph::remove_edge(Node* from, Node* to) {
    require(from && to && from->graph == this && to->graph == this);
    require(std::erase(to->dependencies, from) != 0);
}

std::vector<Node*> Graph::ordered() const {
    std::unordered_map<const Node*, std::size_t> waiting;
    std::unordered_map<const Node*, std::vector<Node*>> after;
    std::vector<Node*> order;
    for (const auto& node : nodes) {
        waiting[node.get()] = node->dependencies.size();
        for (const Node* each : node->dependencies) after[each].push_back(node.get());
        if (node->dependencies.empty()) order.push_back(node.get());
    }
    for (std::size_t i = 0; i < order.size(); ++i)
        for (Node* next : after[order[i]])
            if (--waiting[next] == 0) order.push_back(next);
    return order;
}

std::vector<Node*> Graph::followers(const Node* node) const {
    std::vector<Node*> found;
    for (const auto& each : nodes)
        if (std::find(each->dependencies.begin(), each->dependencies.end(), node) !=
            each->dependencies.end())
            found.push_back(each.get());
    return found;
}

std::shared_ptr<Graph> Graph::clone() const {
    auto copy = std::make_shared<Graph>();
    std::unordered_map<const Node*, Node*> twin;
    for (const auto& node : nodes) {
        auto made = std::make_shared<Node>();
        made->graph = copy.get();
        made->id = node->id;
        made->local_id = node->local_id;
        made->enabled = node->enabled;
        made->parameters = node->parameters;
        if (auto* child = std::get_if<ChildGraph>(&made->parameters))
            child->graph = child->graph->clone();
        twin[node.get()] = made.get();
        copy->nodes.push_back(std::move(made));
    }
    for (const auto& node : nodes)
        for (const Node* each : node->dependencies)
            twin[node.get()]->dependencies.push_back(twin[each]);
    copy->user_objects = user_objects;
    for (const auto& [object, count] : user_objects) object->references += count;
    return copy;
}

Node* Graph::copy_of(const Node* original) const {
    for (const auto& node : nodes) {
        if (node->id == original->id) return node.get();
        if (const auto* child = std::get_if<ChildGraph>(&node->parameters))
            if (Node* found = child->graph->copy_of(original)) return found;
    }
    return nullptr;
}

void Graph::publish() {
    if (published) return;
    published = true;
    Runtime::get().graphs.add(shared_from_this());
    for (const auto& node : nodes) {
        Runtime::get().graph_nodes.add(node);
        if (const auto* child = std::get_if<ChildGraph>(&node->parameters)) child->graph->publish();
    }
}

void Graph::withdraw() {
    if (!published) return;
    published = false;
    for (const auto& node : nodes) {
        Runtime::get().graph_nodes.remove(handle_of(node.get()));
        if (const auto* child = std::get_if<ChildGraph>(&node->parameters))
            child->graph->withdraw();
    }
    Runtime::get().graphs.remove(HandleTable<Graph, CUgraph>::handle_of(this));
}

void GraphExec::launch(Stream& stream) {
    Context& context = stream.context;
    context.require_usable();
    const std::lock_guard lock(mutex);
    const OperationPtr entry = context.enqueue(stream, {}, {&last, 1});
    const auto ends = submit(*graph, context, {entry});
    last = context.enqueue_always(stream, {}, ends);
}

CUgraphExecUpdateResultInfo update(GraphExec& exec, const Graph& from) {
    CUgraphExecUpdateResultInfo info{};
    const auto differs = [&](CUgraphExecUpdateResult why, const Node* node) {
        info.result = why;
        info.errorNode = node ? handle_of(node) : nullptr;
        return info;
    };
    const std::lock_guard lock(exec.mutex);
    const auto& old = exec.graph->nodes;
    if (old.size() != from.nodes.size())
        return differs(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, nullptr);
    std::unordered_map<const Node*, std::size_t> place, old_place;
    for (std::size_t i = 0; i < old.size(); ++i) {
        place[from.nodes[i].get()] = i;
        old_place[old[i].get()] = i;
    }
    for (std::size_t i = 0; i < old.size(); ++i) {
        const Node& now = *from.nodes[i];
        std::vector<std::size_t> wanted, had;
        for (const Node* each : now.dependencies) wanted.push_back(place[each]);
        for (const Node* each : old[i]->dependencies) had.push_back(old_place[each]);
        std::sort(wanted.begin(), wanted.end());
        std::sort(had.begin(), had.end());
        if (wanted != had) return differs(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, &now);
        if (now.parameters.index() != old[i]->parameters.index())
            return differs(CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED, &now);
        if (std::holds_alternative<MemoryAllocation>(now.parameters))
            return differs(CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED, &now);
    }
    for (std::size_t i = 0; i < old.size(); ++i) {
        old[i]->id = from.nodes[i]->id;
        old[i]->parameters = from.nodes[i]->parameters;
        if (auto* child = std::get_if<ChildGraph>(&old[i]->parameters))
            child->graph = child->graph->clone();
    }
    return info;
}

std::string dot_of(const Graph& graph) {
    std::ostringstream out;
    out << "digraph dot {\nsubgraph cluster_" << graph.id << " {\nlabel=\"graph_" << graph.id
        << "\"\n";
    const auto name = [&](const Node* node) {
        return "\"graph_" + std::to_string(graph.id) + "_node_" + std::to_string(node->local_id) +
               "\"";
    };
    for (const auto& node : graph.nodes) {
        out << name(node.get()) << "[label=\"" << node->local_id << "\n"
            << kTypeNames[node->parameters.index()];
        if (const auto* launch = std::get_if<KernelLaunch>(&node->parameters))
            out << "\n" << launch->function->kernel.name;
        out << "\"];\n";
    }
    for (const auto& node : graph.nodes)
        for (const Node* each : node->dependencies)
            out << name(each) << " -> " << name(node.get()) << ";\n";
    out << "}\n}\n";
    return out.str();
}

}  // namespace carrel::softgpu
