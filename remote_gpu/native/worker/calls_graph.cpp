// Stream capture and graphs: the calls that need more of the worker than one driver function.
#include "worker/node_spec.hpp"
#include "worker/server.hpp"

namespace carrel::worker {

namespace {

constexpr size_t kMaxNodes = size_t{1} << 20;  // in one list

CUgraph containing(const DriverTable& driver, CUgraphNode node) {
    CUgraph graph = nullptr;
    invoke(driver.cuGraphNodeGetContainingGraph, node, &graph);
    return graph;
}

}  // namespace

std::vector<CUgraphNode> Server::node_list(wire::Reader& in) {
    const auto count = in.get<uint32_t>();
    if (count > kMaxNodes) throw wire::Malformed("too many nodes");
    std::vector<CUgraphNode> nodes(count);
    for (CUgraphNode& node : nodes) node = objects_.get<CUgraphNode>(in.get<uint64_t>());
    return nodes;
}

void Server::begin_capture(Call call, wire::Reader& in, Reply& out) {
    const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
    const auto name = in.get<uint64_t>();
    CUgraph graph = nullptr;
    std::vector<CUgraphNode> nodes;
    if (call == Call::cuStreamBeginCaptureToGraph) {
        graph = objects_.get<CUgraph>(name);
        nodes = node_list(in);
    }
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    invoke(driver_.cuThreadExchangeStreamCaptureMode, &mode);
    activity_.hold([this](CUstream each) { return graphs_.captures(each); });
    const CUresult result =
        graph ? invoke(driver_.cuStreamBeginCaptureToGraph, stream, graph,
                       static_cast<const CUgraphNode*>(nodes.data()),
                       static_cast<const CUgraphEdgeData*>(nullptr), nodes.size(),
                       CU_STREAM_CAPTURE_MODE_RELAXED)
              : invoke(driver_.cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_RELAXED);
    uint64_t id = 0;
    if (result == CUDA_SUCCESS) {
        graphs_.began(stream);
        const CUgraph into = graphs_.graph_of(stream, &id);
        if (!graph) objects_.bind(name, into);
    } else if (!graphs_.capturing()) {
        activity_.release();
    }
    out.result(result);
    out.writer().put(id);
}

void Server::end_capture(wire::Reader& in, Reply& out) {
    const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
    const auto name = in.get<uint64_t>();
    CUgraph graph = nullptr;
    const CUresult result = invoke(driver_.cuStreamEndCapture, stream, &graph);
    graphs_.sweep();
    if (!graphs_.capturing()) activity_.release();
    if (name && result != CUDA_SUCCESS) objects_.erase<CUgraph>(name);
    graphs_.collect();
    out.result(result);
}

void Server::update_capture(wire::Reader& in, Reply& out) {
    const auto stream = objects_.get<CUstream>(in.get<uint64_t>());
    const auto flags = in.get<uint32_t>();
    std::vector<CUgraphNode> nodes = node_list(in);
    if (driver_.cuStreamUpdateCaptureDependencies_v2) {
        out.result(driver_.cuStreamUpdateCaptureDependencies_v2(stream, nodes.data(), nullptr,
                                                                nodes.size(), flags));
    } else {
        out.result(invoke(driver_.cuStreamUpdateCaptureDependencies, stream, nodes.data(),
                          nodes.size(), flags));
    }
}

void Server::add_node(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
    const std::vector<CUgraphNode> nodes = node_list(in);
    const CUgraphNode* after = nodes.data();
    const size_t count = nodes.size();
    const auto spec = std::make_unique<NodeSpec>();
    CUresult result = read_node(objects_, graphs_, graph, in, *spec);
    CUgraphNode node = nullptr;
    if (result == CUDA_SUCCESS) {
        switch (spec->type) {
            case CU_GRAPH_NODE_TYPE_KERNEL:
                result = invoke(driver_.cuGraphAddKernelNode_v2, &node, graph, after, count,
                                static_cast<const CUDA_KERNEL_NODE_PARAMS*>(&spec->kernel));
                break;
            case CU_GRAPH_NODE_TYPE_MEMCPY:
                result = invoke(driver_.cuGraphAddMemcpyNode, &node, graph, after, count,
                                static_cast<const CUDA_MEMCPY3D*>(&spec->copy), spec->context);
                break;
            case CU_GRAPH_NODE_TYPE_MEMSET:
                result =
                    invoke(driver_.cuGraphAddMemsetNode, &node, graph, after, count,
                           static_cast<const CUDA_MEMSET_NODE_PARAMS*>(&spec->fill), spec->context);
                break;
            case CU_GRAPH_NODE_TYPE_HOST:
                result = invoke(driver_.cuGraphAddHostNode, &node, graph, after, count,
                                static_cast<const CUDA_HOST_NODE_PARAMS*>(&spec->host));
                break;
            case CU_GRAPH_NODE_TYPE_GRAPH:
                result = invoke(driver_.cuGraphAddChildGraphNode, &node, graph, after, count,
                                spec->graph);
                break;
            case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
                result = invoke(driver_.cuGraphAddEventWaitNode, &node, graph, after, count,
                                spec->event);
                break;
            case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
                result = invoke(driver_.cuGraphAddEventRecordNode, &node, graph, after, count,
                                spec->event);
                break;
            default:
                result = invoke(driver_.cuGraphAddEmptyNode, &node, graph, after, count);
                break;
        }
    }
    if (result == CUDA_SUCCESS) graphs_.bind(name, node);
    out.result(result);
}

void Server::set_node(wire::Reader& in, Reply& out) {
    const auto node = objects_.get<CUgraphNode>(in.get<uint64_t>());
    const auto spec = std::make_unique<NodeSpec>();
    CUresult result = read_node(objects_, graphs_, containing(driver_, node), in, *spec);
    if (result == CUDA_SUCCESS) {
        switch (spec->type) {
            case CU_GRAPH_NODE_TYPE_KERNEL:
                result = invoke(driver_.cuGraphKernelNodeSetParams_v2, node,
                                static_cast<const CUDA_KERNEL_NODE_PARAMS*>(&spec->kernel));
                break;
            case CU_GRAPH_NODE_TYPE_MEMCPY:
                result = invoke(driver_.cuGraphMemcpyNodeSetParams, node,
                                static_cast<const CUDA_MEMCPY3D*>(&spec->copy));
                break;
            case CU_GRAPH_NODE_TYPE_MEMSET:
                result = invoke(driver_.cuGraphMemsetNodeSetParams, node,
                                static_cast<const CUDA_MEMSET_NODE_PARAMS*>(&spec->fill));
                break;
            case CU_GRAPH_NODE_TYPE_HOST:
                result = invoke(driver_.cuGraphHostNodeSetParams, node,
                                static_cast<const CUDA_HOST_NODE_PARAMS*>(&spec->host));
                break;
            default:
                result = CUDA_ERROR_NOT_SUPPORTED;
                break;
        }
    }
    out.result(result);
}

void Server::set_exec_node(wire::Reader& in, Reply& out) {
    const auto exec = objects_.get<CUgraphExec>(in.get<uint64_t>());
    const auto node = objects_.get<CUgraphNode>(in.get<uint64_t>());
    const auto spec = std::make_unique<NodeSpec>();
    // The template's graph keeps what a host function needs: it must outlive the executable one.
    CUresult result = read_node(objects_, graphs_, containing(driver_, node), in, *spec);
    if (result == CUDA_SUCCESS) {
        switch (spec->type) {
            case CU_GRAPH_NODE_TYPE_KERNEL:
                result = invoke(driver_.cuGraphExecKernelNodeSetParams_v2, exec, node,
                                static_cast<const CUDA_KERNEL_NODE_PARAMS*>(&spec->kernel));
                break;
            case CU_GRAPH_NODE_TYPE_MEMCPY:
                result = invoke(driver_.cuGraphExecMemcpyNodeSetParams, exec, node,
                                static_cast<const CUDA_MEMCPY3D*>(&spec->copy), spec->context);
                break;
            case CU_GRAPH_NODE_TYPE_MEMSET:
                result =
                    invoke(driver_.cuGraphExecMemsetNodeSetParams, exec, node,
                           static_cast<const CUDA_MEMSET_NODE_PARAMS*>(&spec->fill), spec->context);
                break;
            default:
                result = CUDA_ERROR_NOT_SUPPORTED;
                break;
        }
    }
    out.result(result);
}

// One list of nodes: the client keeps what it asked for.
void Server::list_nodes(Call call, wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    CUgraph graph = nullptr;
    CUgraphNode node = nullptr;
    CUstream stream = nullptr;
    const CUgraphNode* tail = nullptr;
    size_t count = 0;
    std::vector<CUgraphNode> nodes;
    const auto fetch = [&](auto&& query) {
        CUresult result = query(nullptr, &count);
        if (result == CUDA_SUCCESS && count > kMaxNodes) result = CUDA_ERROR_NOT_SUPPORTED;
        if (result != CUDA_SUCCESS) return result;
        nodes.resize(count);
        return count ? query(nodes.data(), &count) : CUDA_SUCCESS;
    };
    CUresult result;
    switch (call) {
        case Call::cuGraphGetNodes:
            graph = objects_.get<CUgraph>(name);
            result = fetch([&](CUgraphNode* to, size_t* n) {
                return invoke(driver_.cuGraphGetNodes, graph, to, n);
            });
            break;
        case Call::cuGraphGetRootNodes:
            graph = objects_.get<CUgraph>(name);
            result = fetch([&](CUgraphNode* to, size_t* n) {
                return invoke(driver_.cuGraphGetRootNodes, graph, to, n);
            });
            break;
        case Call::cuGraphNodeGetDependencies_v2:
            node = objects_.get<CUgraphNode>(name);
            result = fetch([&](CUgraphNode* to, size_t* n) {
                return driver_.cuGraphNodeGetDependencies_v2
                           ? driver_.cuGraphNodeGetDependencies_v2(node, to, nullptr, n)
                           : invoke(driver_.cuGraphNodeGetDependencies, node, to, n);
            });
            break;
        case Call::cuGraphNodeGetDependentNodes_v2:
            node = objects_.get<CUgraphNode>(name);
            result = fetch([&](CUgraphNode* to, size_t* n) {
                return driver_.cuGraphNodeGetDependentNodes_v2
                           ? driver_.cuGraphNodeGetDependentNodes_v2(node, to, nullptr, n)
                           : invoke(driver_.cuGraphNodeGetDependentNodes, node, to, n);
            });
            break;
        case Call::cuGraphNodeFindInClone: {
            node = objects_.get<CUgraphNode>(name);
            CUgraphNode twin = nullptr;
            result = invoke(driver_.cuGraphNodeFindInClone, &twin, node,
                            objects_.get<CUgraph>(in.get<uint64_t>()));
            if (result == CUDA_SUCCESS) nodes.push_back(twin);
            break;
        }
        default: {  // cuStreamGetCaptureInfo_v3
            stream = objects_.get<CUstream>(name);
            CUstreamCaptureStatus status{};
            cuuint64_t id = 0;
            CUgraph into = nullptr;
            const CUgraphEdgeData* edges = nullptr;
            result = driver_.cuStreamGetCaptureInfo_v3
                         ? driver_.cuStreamGetCaptureInfo_v3(stream, &status, &id, &into, &tail,
                                                             &edges, &count)
                         : invoke(driver_.cuStreamGetCaptureInfo_v2, stream, &status, &id, &into,
                                  &tail, &count);
            const bool active =
                result == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_ACTIVE && tail;
            if (active) nodes.assign(tail, tail + count);
            out.result(result);
            out.writer().put(static_cast<int32_t>(status));
            out.writer().put(uint64_t{id});
            graphs_.put(out.writer(), nodes);
            return;
        }
    }
    out.result(result);
    if (result == CUDA_SUCCESS) graphs_.put(out.writer(), nodes);
}

// The ends of all edges: first those they start from, then those they lead to.
void Server::list_edges(wire::Reader& in, Reply& out) {
    const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
    const auto query = [&](CUgraphNode* from, CUgraphNode* to, size_t* n) {
        return driver_.cuGraphGetEdges_v2 ? driver_.cuGraphGetEdges_v2(graph, from, to, nullptr, n)
                                          : invoke(driver_.cuGraphGetEdges, graph, from, to, n);
    };
    size_t count = 0;
    CUresult result = query(nullptr, nullptr, &count);
    if (result == CUDA_SUCCESS && count > kMaxNodes) result = CUDA_ERROR_NOT_SUPPORTED;
    std::vector<CUgraphNode> ends(result == CUDA_SUCCESS ? 2 * count : 0);
    if (!ends.empty()) result = query(ends.data(), ends.data() + count, &count);
    out.result(result);
    if (result == CUDA_SUCCESS) graphs_.put(out.writer(), ends);
}

void Server::change_edges(Call call, wire::Reader& in, Reply& out) {
    const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
    const std::vector<CUgraphNode> from = node_list(in), to = node_list(in);
    if (from.size() != to.size()) throw wire::Malformed("edges with one end");
    const CUgraphNode *starts = from.data(), *ends = to.data();
    if (call == Call::cuGraphAddDependencies_v2) {
        out.result(driver_.cuGraphAddDependencies_v2
                       ? driver_.cuGraphAddDependencies_v2(graph, starts, ends, nullptr, to.size())
                       : invoke(driver_.cuGraphAddDependencies, graph, starts, ends, to.size()));
    } else {
        out.result(
            driver_.cuGraphRemoveDependencies_v2
                ? driver_.cuGraphRemoveDependencies_v2(graph, starts, ends, nullptr, to.size())
                : invoke(driver_.cuGraphRemoveDependencies, graph, starts, ends, to.size()));
    }
}

void Server::describe_kernel_node(wire::Reader& in, Reply& out) {
    const auto node = objects_.get<CUgraphNode>(in.get<uint64_t>());
    CUDA_KERNEL_NODE_PARAMS p{};
    const CUresult result = invoke(driver_.cuGraphKernelNodeGetParams_v2, node, &p);
    out.result(result);
    if (result != CUDA_SUCCESS) return;
    uint64_t name = 0;
    const CUkernel kernel = p.kern;
    objects_.each([&](uint64_t each, const Objects::Entry& entry) {
        const bool same = (entry.tag == Tag::function && entry.handle == p.func) ||
                          (entry.tag == Tag::kernel && kernel && entry.handle == kernel);
        if (same && (!name || each < name)) name = each;
    });
    if (!name) name = objects_.kernel_of(p.func);
    wire::Writer& w = out.writer();
    w.put(name);
    for (const unsigned int each : {p.gridDimX, p.gridDimY, p.gridDimZ, p.blockDimX, p.blockDimY,
                                    p.blockDimZ, p.sharedMemBytes})
        w.put(uint32_t{each});
    // As far as the driver tells the layout: the client knows how many parameters there are.
    for (size_t i = 0; p.kernelParams; ++i) {
        size_t offset = 0, size = 0;
        if (invoke(driver_.cuFuncGetParamInfo, p.func, i, &offset, &size) != CUDA_SUCCESS) break;
        w.bytes(p.kernelParams[i], size);
    }
}

void Server::instantiate(wire::Reader& in, Reply& out) {
    const auto name = in.get<uint64_t>();
    const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
    CUgraphExec exec = nullptr;
    const CUresult result = invoke(driver_.cuGraphInstantiateWithFlags, &exec, graph,
                                   static_cast<unsigned long long>(in.get<uint64_t>()));
    if (result == CUDA_SUCCESS) objects_.bind(name, exec);
    out.result(result);
}

void Server::dispatch_graph(Call call, wire::Reader& in, Reply& out) {
    switch (call) {
        case Call::cuStreamBeginCapture_v2:
        case Call::cuStreamBeginCaptureToGraph:
            begin_capture(call, in, out);
            break;
        case Call::cuStreamEndCapture:
            end_capture(in, out);
            break;
        case Call::cuStreamUpdateCaptureDependencies_v2:
            update_capture(in, out);
            break;
        case Call::cuGraphAddNode_v2:
            add_node(in, out);
            break;
        case Call::cuGraphNodeSetParams:
            set_node(in, out);
            break;
        case Call::cuGraphExecNodeSetParams:
            set_exec_node(in, out);
            break;
        case Call::cuStreamGetCaptureInfo_v3:
        case Call::cuGraphGetNodes:
        case Call::cuGraphGetRootNodes:
        case Call::cuGraphNodeGetDependencies_v2:
        case Call::cuGraphNodeGetDependentNodes_v2:
        case Call::cuGraphNodeFindInClone:
            list_nodes(call, in, out);
            break;
        case Call::cuGraphGetEdges_v2:
            list_edges(in, out);
            break;
        case Call::cuGraphAddDependencies_v2:
        case Call::cuGraphRemoveDependencies_v2:
            change_edges(call, in, out);
            break;
        case Call::cuGraphKernelNodeGetParams_v2:
            describe_kernel_node(in, out);
            break;
        case Call::cuGraphInstantiateWithFlags:
            instantiate(in, out);
            break;
        case Call::cuGraphExecUpdate_v2: {
            const auto exec = objects_.get<CUgraphExec>(in.get<uint64_t>());
            CUgraphExecUpdateResultInfo info{};
            out.result(invoke(driver_.cuGraphExecUpdate_v2, exec,
                              objects_.get<CUgraph>(in.get<uint64_t>()), &info));
            out.writer().put(static_cast<int32_t>(info.result));
            out.writer().put(graphs_.name_of(info.errorNode));
            break;
        }
        case Call::cuGraphClone: {
            const auto name = in.get<uint64_t>();
            CUgraph copy = nullptr;
            const CUresult result =
                invoke(driver_.cuGraphClone, &copy, objects_.get<CUgraph>(in.get<uint64_t>()));
            if (result == CUDA_SUCCESS) objects_.bind(name, copy);
            out.result(result);
            break;
        }
        case Call::cuGraphChildGraphNodeGetGraph: {
            const auto name = in.get<uint64_t>();
            CUgraph child = nullptr;
            const CUresult result = invoke(driver_.cuGraphChildGraphNodeGetGraph,
                                           objects_.get<CUgraphNode>(in.get<uint64_t>()), &child);
            if (result == CUDA_SUCCESS) objects_.bind(name, child);
            out.result(result);
            break;
        }
        case Call::cuGraphRetainUserObject: {
            const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
            out.result(graphs_.keep_ticket(graph, in.get<uint64_t>()));
            break;
        }
        case Call::cuGraphReleaseUserObject: {
            const auto graph = objects_.get<CUgraph>(in.get<uint64_t>());
            out.result(graphs_.release_ticket(graph, in.get<uint64_t>()));
            break;
        }
        case Call::cuGraphDestroyNode: {
            const auto node = objects_.get<CUgraphNode>(in.get<uint64_t>());
            graphs_.forget(node);
            out.result(invoke(driver_.cuGraphDestroyNode, node));
            break;
        }
        case Call::cuGraphExecDestroy: {
            const auto name = in.get<uint64_t>();
            const auto exec = objects_.get<CUgraphExec>(name);
            objects_.erase<CUgraphExec>(name);
            out.result(invoke(driver_.cuGraphExecDestroy, exec));
            graphs_.collect();
            break;
        }
        case Call::cuGraphDestroy: {
            const auto name = in.get<uint64_t>();
            const auto graph = objects_.get<CUgraph>(name);
            graphs_.forget(graph);
            objects_.erase<CUgraph>(name);
            out.result(invoke(driver_.cuGraphDestroy, graph));
            graphs_.collect();
            break;
        }
        default:
            throw wire::Malformed(std::string("the call ") + call_name(call) +
                                  " does not cross the wire");
    }
}

}  // namespace carrel::worker
