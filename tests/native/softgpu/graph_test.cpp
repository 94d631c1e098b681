// Stream capture and graphs: what is captured, in which order it runs, how it can be changed, and
// the errors that captures end in.
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <thread>

#include "driver.hpp"
#include "kernels.hpp"

using namespace carrel::test;

namespace {

constexpr unsigned kCount = 1000;

CUstream make_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
    CUstream stream = nullptr;
    CHECK_EQ(driver().cuStreamCreate(&stream, flags), CUDA_SUCCESS);
    return stream;
}

CUevent make_event() {
    CUevent event = nullptr;
    CHECK_EQ(driver().cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    return event;
}

CUstreamCaptureStatus status_of(CUstream stream) {
    CUstreamCaptureStatus status{};
    CHECK_EQ(driver().cuStreamIsCapturing(stream, &status), CUDA_SUCCESS);
    return status;
}

void begin(CUstream stream, CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL) {
    CHECK_EQ(driver().cuStreamBeginCapture_v2(stream, mode), CUDA_SUCCESS);
}

std::size_t nodes_of(CUgraph graph) {
    std::size_t count = 0;
    CHECK_EQ(driver().cuGraphGetNodes(graph, nullptr, &count), CUDA_SUCCESS);
    return count;
}

struct Exec {
    explicit Exec(CUgraph graph) {
        CHECK_EQ(driver().cuGraphInstantiateWithFlags(&handle, graph, 0), CUDA_SUCCESS);
    }
    ~Exec() { CHECK_EQ(driver().cuGraphExecDestroy(handle), CUDA_SUCCESS); }
    void run(CUstream stream) const {
        CHECK_EQ(driver().cuGraphLaunch(handle, stream), CUDA_SUCCESS);
        CHECK_EQ(driver().cuStreamSynchronize(stream), CUDA_SUCCESS);
    }
    CUgraphExec handle = nullptr;
};

struct Adder {
    Adder() : kernel(kAdd, "add") { data = upload(std::vector<unsigned>(kCount, 1)); }
    CUresult launch(CUstream stream, unsigned value) {
        unsigned n = kCount;
        return kernel(8, 128, stream, {&data, &n, &value});
    }
    CUresult node(CUgraph graph, std::vector<CUgraphNode> after, unsigned value, CUgraphNode* out) {
        unsigned n = kCount;
        void* arguments[] = {&data, &n, &value};
        const CUDA_KERNEL_NODE_PARAMS params{
            kernel.function, 8, 1, 1, 128, 1, 1, 0, arguments, nullptr, nullptr, nullptr};
        return driver().cuGraphAddKernelNode_v2(out, graph, after.data(), after.size(), &params);
    }
    unsigned value() const {
        const auto all = download<unsigned>(data, kCount);
        for (const unsigned each : all) CHECK_EQ(each, all[0]);
        return all[0];
    }
    Loaded kernel;
    CUdeviceptr data = 0;
};

TEST(a_captured_stream_does_nothing_until_its_graph_is_launched) {
    WithContext with;
    Adder adder;
    const CUstream stream = make_stream();
    begin(stream);
    CHECK_EQ(status_of(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_EQ(adder.launch(stream, 5), CUDA_SUCCESS);
    CHECK_EQ(adder.launch(stream, 7), CUDA_SUCCESS);
    cuuint64_t id = 0;
    CUstreamCaptureStatus status{};
    std::size_t tail = 0;
    const CUgraphNode* nodes = nullptr;
    CUgraph graph = nullptr, same = nullptr;
    CHECK_EQ(driver().cuStreamGetCaptureInfo_v2(stream, &status, &id, &same, &nodes, &tail),
             CUDA_SUCCESS);
    CHECK(id != 0 && tail == 1 && nodes[0] != nullptr);
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    CHECK(graph == same);
    CHECK_EQ(status_of(stream), CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(adder.value(), 1u);
    CHECK_EQ(nodes_of(graph), 2u);
    {
        const Exec exec(graph);
        CHECK_EQ(driver().cuGraphDestroy(graph), CUDA_SUCCESS);
        for (int i = 0; i < 3; ++i) exec.run(stream);
    }
    CHECK_EQ(adder.value(), 37u);
    CHECK_EQ(driver().cuGraphDestroy(graph), CUDA_ERROR_INVALID_VALUE);
}

TEST(copies_sets_and_host_functions_are_captured_and_read_the_host_at_each_launch) {
    WithContext with;
    const CUstream stream = make_stream();
    CUdeviceptr device = 0;
    void* memory = nullptr;
    REQUIRE(driver().cuMemAlloc_v2(&device, 64) == CUDA_SUCCESS);
    REQUIRE(driver().cuMemHostAlloc(&memory, 128, 0) == CUDA_SUCCESS);
    auto* from = static_cast<unsigned*>(memory);
    unsigned* to = from + 16;
    int calls = 0;
    const auto count = [](void* data) { ++*static_cast<int*>(data); };
    begin(stream);
    CHECK_EQ(driver().cuMemcpyHtoDAsync_v2(device, from, 64, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemsetD32Async(device + 32, 9, 8, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyDtoHAsync_v2(to, device, 64, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchHostFunc(stream, count, &calls), CUDA_SUCCESS);
    CUgraph graph = nullptr;
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    CHECK_EQ(calls, 0);
    const Exec exec(graph);
    for (unsigned round = 1; round < 4; ++round) {
        for (unsigned i = 0; i < 16; ++i) from[i] = round * 100 + i;
        exec.run(stream);
        for (unsigned i = 0; i < 16; ++i) CHECK_EQ(to[i], i < 8 ? round * 100 + i : 9u);
        CHECK_EQ(calls, static_cast<int>(round));
    }
    CHECK_EQ(driver().cuGraphDestroy(graph), CUDA_SUCCESS);
}

TEST(events_carry_a_capture_to_another_stream_and_back) {
    WithContext with;
    Adder adder;
    const CUstream first = make_stream(), second = make_stream();
    const CUevent fork = make_event(), join = make_event();
    begin(first);
    CHECK_EQ(adder.launch(first, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventRecord(fork, first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(second, fork, 0), CUDA_SUCCESS);
    CHECK_EQ(status_of(second), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CUgraph graph = nullptr;
    CHECK_EQ(driver().cuStreamEndCapture(second, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    CHECK_EQ(adder.launch(second, 2), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventRecord(join, second), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(first, join, 0), CUDA_SUCCESS);
    CHECK_EQ(adder.launch(first, 3), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_SUCCESS);
    CHECK_EQ(status_of(second), CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK_EQ(nodes_of(graph), 3u);
    std::size_t edges = 0;
    CHECK_EQ(driver().cuGraphGetEdges(graph, nullptr, nullptr, &edges), CUDA_SUCCESS);
    CHECK_EQ(edges, 3u);  // first to second, first to third, second to third
    CHECK_EQ(driver().cuEventQuery(fork), CUDA_ERROR_CAPTURED_EVENT);
    const Exec exec(graph);
    exec.run(first);
    CHECK_EQ(adder.value(), 7u);
    CHECK_EQ(driver().cuEventRecord(fork, first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuEventSynchronize(fork), CUDA_SUCCESS);
}

TEST(captures_end_in_the_errors_of_cuda) {
    WithContext with;
    Adder adder;
    const CUstream first = make_stream(), second = make_stream(), third = make_stream();
    const CUevent event = make_event(), outside = make_event();
    CUgraph graph = nullptr;
    CHECK_EQ(driver().cuStreamBeginCapture_v2(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL),
             CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_ERROR_ILLEGAL_STATE);

    begin(first);  // a branch that does not come back
    CHECK_EQ(driver().cuStreamBeginCapture_v2(first, CU_STREAM_CAPTURE_MODE_GLOBAL),
             CUDA_ERROR_ILLEGAL_STATE);
    CHECK_EQ(driver().cuEventRecord(event, first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(second, event, 0), CUDA_SUCCESS);
    CHECK_EQ(adder.launch(second, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    CHECK(graph == nullptr);

    begin(first);  // waiting for a captured stream
    CHECK_EQ(driver().cuStreamSynchronize(first), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(status_of(first), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CHECK_EQ(adder.launch(first, 1), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin(first);  // depending on what is not captured
    CHECK_EQ(driver().cuEventRecord(outside, third), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(first, outside, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin(first);  // two captures in one stream
    begin(second);
    CHECK_EQ(driver().cuEventRecord(event, second), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamWaitEvent(first, event, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(driver().cuStreamEndCapture(second, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    const CUstream blocking = make_stream(CU_STREAM_DEFAULT);  // the default stream would wait
    begin(blocking);
    CHECK_EQ(adder.launch(nullptr, 1), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CHECK_EQ(driver().cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin(first);  // ended by another thread
    std::thread([&] {
        CHECK_EQ(driver().cuCtxSetCurrent(with.context), CUDA_SUCCESS);
        CUgraph other = nullptr;
        CHECK_EQ(driver().cuStreamEndCapture(first, &other),
                 CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    }).join();
    CHECK_EQ(driver().cuStreamEndCapture(first, &graph), CUDA_SUCCESS);
    CHECK_EQ(adder.value(), 1u);
}

TEST(modes_decide_which_calls_are_refused_meanwhile) {
    WithContext with;
    const CUstream stream = make_stream();
    CUgraph graph = nullptr;
    CUdeviceptr memory = 0;
    begin(stream);
    CHECK_EQ(driver().cuMemAlloc_v2(&memory, 64), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CHECK_EQ(driver().cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
    CHECK_EQ(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    begin(stream);
    CHECK_EQ(driver().cuMemAlloc_v2(&memory, 64), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(memory), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    CHECK_EQ(driver().cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);

    begin(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    std::thread([&] {
        CHECK_EQ(driver().cuCtxSetCurrent(with.context), CUDA_SUCCESS);
        CHECK_EQ(driver().cuMemAlloc_v2(&memory, 64), CUDA_SUCCESS);
    }).join();
    CHECK_EQ(driver().cuMemFree_v2(memory), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(driver().cuMemFree_v2(memory), CUDA_SUCCESS);
}

TEST(graphs_are_built_node_by_node_and_changed) {
    WithContext with;
    Adder adder;
    const CUstream stream = make_stream();
    CUgraph graph = nullptr;
    REQUIRE(driver().cuGraphCreate(&graph, 0) == CUDA_SUCCESS);
    CUgraphNode first = nullptr, second = nullptr, set = nullptr, child = nullptr, empty = nullptr;
    CHECK_EQ(adder.node(graph, {}, 10, &first), CUDA_SUCCESS);
    const CUDA_MEMSET_NODE_PARAMS zero{adder.data, 0, 2, 4, kCount, 1};
    CHECK_EQ(driver().cuGraphAddMemsetNode(&set, graph, nullptr, 0, &zero, with.context),
             CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphAddDependencies(graph, &set, &first, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphAddDependencies(graph, &first, &set, 1), CUDA_ERROR_INVALID_VALUE);
    CUgraph inner = nullptr;
    REQUIRE(driver().cuGraphCreate(&inner, 0) == CUDA_SUCCESS);
    CHECK_EQ(adder.node(inner, {}, 100, &second), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphAddChildGraphNode(&child, graph, &first, 1, inner), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphAddEmptyNode(&empty, graph, &child, 1), CUDA_SUCCESS);
    CUgraphNodeType type{};
    CHECK_EQ(driver().cuGraphNodeGetType(child, &type), CUDA_SUCCESS);
    CHECK_EQ(type, CU_GRAPH_NODE_TYPE_GRAPH);
    CUgraphNode roots[4] = {};
    std::size_t count = 4;
    CHECK_EQ(driver().cuGraphGetRootNodes(graph, roots, &count), CUDA_SUCCESS);
    CHECK(count == 1 && roots[0] == set);

    const Exec exec(graph);
    exec.run(stream);
    CHECK_EQ(adder.value(), 112u);  // 2 + 10 + 100

    CUDA_KERNEL_NODE_PARAMS params{};
    CHECK_EQ(driver().cuGraphKernelNodeGetParams_v2(first, &params), CUDA_SUCCESS);
    CHECK(params.func == adder.kernel.function && params.blockDimX == 128);
    CHECK_EQ(*static_cast<unsigned*>(params.kernelParams[2]), 10u);
    unsigned n = kCount, value = 20;
    void* arguments[] = {&adder.data, &n, &value};
    params.kernelParams = arguments;
    CHECK_EQ(driver().cuGraphExecKernelNodeSetParams_v2(exec.handle, first, &params), CUDA_SUCCESS);
    exec.run(stream);
    CHECK_EQ(adder.value(), 122u);
    CHECK_EQ(driver().cuGraphNodeSetEnabled(exec.handle, first, 0), CUDA_SUCCESS);
    exec.run(stream);
    CHECK_EQ(adder.value(), 102u);

    CUgraph copy = nullptr;
    CUgraphNode twin = nullptr;
    CHECK_EQ(driver().cuGraphClone(&copy, graph), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphNodeFindInClone(&twin, first, copy), CUDA_SUCCESS);
    value = 30;
    CHECK_EQ(driver().cuGraphKernelNodeSetParams_v2(twin, &params), CUDA_SUCCESS);
    CUgraphExecUpdateResultInfo info{};
    CHECK_EQ(driver().cuGraphExecUpdate_v2(exec.handle, copy, &info), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphNodeSetEnabled(exec.handle, twin, 1), CUDA_SUCCESS);
    exec.run(stream);
    CHECK_EQ(adder.value(), 132u);
    CHECK_EQ(driver().cuGraphDestroyNode(empty), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphExecUpdate_v2(exec.handle, graph, &info),
             CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    CHECK_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    for (const CUgraph each : {graph, inner, copy})
        CHECK_EQ(driver().cuGraphDestroy(each), CUDA_SUCCESS);
}

TEST(memory_of_a_graph_is_there_at_each_launch_and_gone_with_it) {
    WithContext with;
    Adder adder;
    const CUstream stream = make_stream();
    const std::size_t before = free_memory();
    CUdeviceptr scratch = 0;
    CUgraph graph = nullptr;
    constexpr std::size_t kBytes = std::size_t{8} << 20;
    begin(stream);
    CHECK_EQ(driver().cuMemAllocAsync(&scratch, kBytes, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyDtoDAsync_v2(scratch, adder.data, kCount * 4, stream), CUDA_SUCCESS);
    CHECK_EQ(adder.launch(stream, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyDtoDAsync_v2(adder.data, scratch, kCount * 4, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFreeAsync(scratch, stream), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    CHECK_EQ(nodes_of(graph), 5u);
    {
        const Exec exec(graph);
        exec.run(stream);
        exec.run(stream);
        CHECK_EQ(adder.value(), 1u);
    }
    CHECK(free_memory() < before);
    CHECK_EQ(driver().cuGraphDestroy(graph), CUDA_SUCCESS);
    CHECK_EQ(free_memory(), before);
}

TEST(user_objects_live_as_long_as_the_graphs_that_hold_them) {
    WithContext with;
    int destroyed = 0;
    CUuserObject object = nullptr;
    const auto count = [](void* data) { ++*static_cast<int*>(data); };
    CHECK_EQ(driver().cuUserObjectCreate(&object, &destroyed, count, 1,
                                         CU_USER_OBJECT_NO_DESTRUCTOR_SYNC),
             CUDA_SUCCESS);
    CUgraph graph = nullptr;
    REQUIRE(driver().cuGraphCreate(&graph, 0) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE),
             CUDA_SUCCESS);
    {
        const Exec exec(graph);
        CHECK_EQ(driver().cuGraphDestroy(graph), CUDA_SUCCESS);
        CHECK_EQ(destroyed, 0);
    }
    CHECK_EQ(destroyed, 1);
}

TEST(a_graph_is_printed_for_graphviz) {
    WithContext with;
    Adder adder;
    CUgraph graph = nullptr;
    REQUIRE(driver().cuGraphCreate(&graph, 0) == CUDA_SUCCESS);
    CUgraphNode first = nullptr, second = nullptr;
    CHECK_EQ(adder.node(graph, {}, 1, &first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuGraphAddEmptyNode(&second, graph, &first, 1), CUDA_SUCCESS);
    const std::string path = "/tmp/carrel_graph_" + std::to_string(getpid()) + ".dot";
    CHECK_EQ(driver().cuGraphDebugDotPrint(graph, path.c_str(), 0), CUDA_SUCCESS);
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    unlink(path.c_str());
    CHECK(text.str().find("add") != std::string::npos);
    CHECK(text.str().find("->") != std::string::npos);
}

}  // namespace

CARREL_TEST_MAIN
