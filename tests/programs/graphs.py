"""CUDA graphs: capture, replays that read and write the host, nodes, updates, objects, errors."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
from cuda.bindings import driver, nvrtc

SOURCE = rb"""
extern "C" __global__ void add(float *y, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += value;
}
"""
N = 5000
TYPES = (ctypes.c_void_p, ctypes.c_float, ctypes.c_int)
BLOCKS = (N + 255) // 256
Status = driver.CUstreamCaptureStatus
Mode = driver.CUstreamCaptureMode
Result = driver.CUresult


def ok(answer):
    """The values of a call's answer, after its status has been checked."""
    status, *values = answer
    assert int(status) == 0, status
    return values[0] if len(values) == 1 else values


def fails(answer, expected) -> None:
    assert answer[0] == expected, (answer[0], expected)


def compiled() -> bytes:
    program = ok(nvrtc.nvrtcCreateProgram(SOURCE, b"add.cu", 0, [], []))
    ok(nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=compute_80"]))
    ptx = b" " * ok(nvrtc.nvrtcGetPTXSize(program))
    ok(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx


class Adder:
    """A device array, and a kernel that adds to all of it."""

    def __init__(self, function):
        self.function = function
        self.data = ok(driver.cuMemAlloc(4 * N))
        ok(driver.cuMemsetD32(self.data, 0, N))
        ok(driver.cuCtxSynchronize())

    def launch(self, stream, value):
        values = (int(self.data), value, N)
        ok(
            driver.cuLaunchKernel(
                self.function, BLOCKS, 1, 1, 256, 1, 1, 0, stream, (values, TYPES), 0
            )
        )

    def value(self) -> float:
        host = np.empty(N, np.float32)
        ok(driver.cuMemcpyDtoH(host.ctypes.data, self.data, host.nbytes))
        assert (host == host[0]).all()
        return float(host[0])


def end(stream):
    graph = ok(driver.cuStreamEndCapture(stream))
    return graph, ok(driver.cuGraphInstantiate(graph, 0))


def run(executable, stream, times=1) -> None:
    for _ in range(times):
        ok(driver.cuGraphLaunch(executable, stream))
    ok(driver.cuStreamSynchronize(stream))


def capture_and_replay(function) -> None:
    adder = Adder(function)
    stream = ok(driver.cuStreamCreate(1))
    adder.launch(stream, 1)
    ok(driver.cuStreamSynchronize(stream))
    ok(driver.cuStreamBeginCapture(stream, Mode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    status, number, *_ = ok(driver.cuStreamGetCaptureInfo(stream))
    assert status == Status.CU_STREAM_CAPTURE_STATUS_ACTIVE
    assert number
    adder.launch(stream, 2)
    adder.launch(stream, 3)
    graph, executable = end(stream)
    assert ok(driver.cuStreamIsCapturing(stream)) == Status.CU_STREAM_CAPTURE_STATUS_NONE
    assert adder.value() == 1
    nodes, count = ok(driver.cuGraphGetNodes(graph, 2))
    assert count == 2
    assert all(
        ok(driver.cuGraphNodeGetType(node)) == driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        for node in nodes
    )
    again, _ = ok(driver.cuGraphGetNodes(graph, 2))
    assert [int(node) for node in again] == [int(node) for node in nodes]
    run(executable, stream, 100)
    assert adder.value() == 501
    params = ok(driver.cuGraphKernelNodeGetParams(nodes[0]))
    assert params.gridDimX == BLOCKS
    assert int(params.func) == int(function)
    ok(driver.cuGraphDestroy(graph))
    run(executable, stream)
    assert adder.value() == 506
    ok(driver.cuGraphExecDestroy(executable))
    ok(driver.cuStreamDestroy(stream))


def fork_and_join(function) -> None:
    adder = Adder(function)
    first, second = ok(driver.cuStreamCreate(1)), ok(driver.cuStreamCreate(1))
    fork, join = ok(driver.cuEventCreate(2)), ok(driver.cuEventCreate(2))
    ok(driver.cuStreamBeginCapture(first, Mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    ok(driver.cuEventRecord(fork, first))
    ok(driver.cuStreamWaitEvent(second, fork, 0))
    adder.launch(second, 5)
    assert ok(driver.cuStreamIsCapturing(second)) == Status.CU_STREAM_CAPTURE_STATUS_ACTIVE
    ok(driver.cuEventRecord(join, second))
    ok(driver.cuStreamWaitEvent(first, join, 0))
    adder.launch(first, 7)
    graph, executable = end(first)
    run(executable, first, 2)
    assert adder.value() == 24
    ok(driver.cuGraphDestroy(graph))
    ok(driver.cuGraphExecDestroy(executable))


def host_memory_at_each_replay(function) -> None:
    stream = ok(driver.cuStreamCreate(1))
    adder = Adder(function)
    pointer = ok(driver.cuMemHostAlloc(8 * N, 0))
    both = np.frombuffer((ctypes.c_float * (2 * N)).from_address(int(pointer)), np.float32)
    source, target = both[:N], both[N:]
    seen = []
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(float(target[0])))
    address = ctypes.cast(call, ctypes.c_void_p).value
    ok(driver.cuStreamBeginCapture(stream, Mode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    ok(driver.cuMemcpyHtoDAsync(adder.data, source.ctypes.data, 4 * N, stream))
    adder.launch(stream, 0.5)
    ok(driver.cuMemcpyDtoHAsync(target.ctypes.data, adder.data, 4 * N, stream))
    ok(driver.cuLaunchHostFunc(stream, driver.CUhostFn(address), 0))
    graph, executable = end(stream)
    assert not seen
    for round_ in range(5):
        source[:] = np.arange(N) + round_
        run(executable, stream)
        assert (target == source + 0.5).all()
        assert seen == [r + 0.5 for r in range(round_ + 1)]
    ok(driver.cuGraphDestroy(graph))
    source[:] = 40
    run(executable, stream, 2)
    assert (target == 40.5).all()
    assert len(seen) == 7
    ok(driver.cuGraphExecDestroy(executable))


def memory_of_a_graph(function) -> None:
    adder = Adder(function)
    stream = ok(driver.cuStreamCreate(1))
    ok(driver.cuStreamBeginCapture(stream, Mode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    scratch = ok(driver.cuMemAllocAsync(4 * N, stream))
    ok(driver.cuMemcpyDtoDAsync(scratch, adder.data, 4 * N, stream))
    adder.launch(stream, 3)
    ok(driver.cuMemcpyDtoDAsync(adder.data, scratch, 4 * N, stream))
    ok(driver.cuMemFreeAsync(scratch, stream))
    graph, executable = end(stream)
    other = ok(driver.cuMemAlloc(4 * N))
    assert int(other) != int(scratch)
    run(executable, stream, 3)
    assert adder.value() == 0
    ok(driver.cuGraphDestroy(graph))
    ok(driver.cuGraphExecDestroy(executable))


def nodes_by_hand(function, context) -> None:
    adder = Adder(function)
    stream = ok(driver.cuStreamCreate(1))
    graph = ok(driver.cuGraphCreate(0))
    fill = driver.CUDA_MEMSET_NODE_PARAMS()
    fill.dst, fill.elementSize, fill.width, fill.height = adder.data, 4, N, 1
    zero = ok(driver.cuGraphAddMemsetNode(graph, None, 0, fill, context))

    def params(value):
        p = driver.CUDA_KERNEL_NODE_PARAMS()
        p.func = function
        p.gridDimX, p.gridDimY, p.gridDimZ = BLOCKS, 1, 1
        p.blockDimX, p.blockDimY, p.blockDimZ = 256, 1, 1
        p.kernelParams = ((int(adder.data), value, N), TYPES)
        return p

    first = ok(driver.cuGraphAddKernelNode(graph, [zero], 1, params(4)))
    inner = ok(driver.cuGraphCreate(0))
    ok(driver.cuGraphAddKernelNode(inner, None, 0, params(10)))
    child = ok(driver.cuGraphAddChildGraphNode(graph, [first], 1, inner))
    empty = ok(driver.cuGraphAddEmptyNode(graph, [child], 1))
    roots, count = ok(driver.cuGraphGetRootNodes(graph, 1))
    assert count == 1
    assert int(roots[0]) == int(zero)
    starts, ends, _, count = ok(driver.cuGraphGetEdges(graph, 3))
    assert count == 3
    assert {(int(a), int(b)) for a, b in zip(starts, ends, strict=True)} == {
        (int(zero), int(first)),
        (int(first), int(child)),
        (int(child), int(empty)),
    }
    executable = ok(driver.cuGraphInstantiate(graph, 0))
    run(executable, stream)
    assert adder.value() == 14
    ok(driver.cuGraphExecKernelNodeSetParams(executable, first, params(5)))
    run(executable, stream)
    assert adder.value() == 15
    ok(driver.cuGraphNodeSetEnabled(executable, first, 0))
    run(executable, stream)
    assert adder.value() == 10
    copy = ok(driver.cuGraphClone(graph))
    twin = ok(driver.cuGraphNodeFindInClone(first, copy))
    ok(driver.cuGraphKernelNodeSetParams(twin, params(6)))
    ok(driver.cuGraphExecUpdate(executable, copy))
    run(executable, stream)
    ok(driver.cuGraphDestroyNode(empty))
    fails(driver.cuGraphExecUpdate(executable, graph), Result.CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE)
    for each in (graph, inner, copy):
        ok(driver.cuGraphDestroy(each))
    ok(driver.cuGraphExecDestroy(executable))


def threads_capture_at_once(function) -> None:
    """Each with pending work in the stream that it captures, and work in another meanwhile."""
    context = ok(driver.cuCtxGetCurrent())
    pairs = [(Adder(function), Adder(function)) for _ in range(3)]
    rounds = 25
    done = []

    def work(captured: Adder, other: Adder) -> None:
        ok(driver.cuCtxSetCurrent(context))
        stream, aside = ok(driver.cuStreamCreate(1)), ok(driver.cuStreamCreate(1))
        for _ in range(rounds):
            captured.launch(stream, 1)
            other.launch(aside, 1)
            ok(driver.cuStreamBeginCapture(stream, Mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
            captured.launch(stream, 1)
            other.launch(aside, 1)
            graph, executable = end(stream)
            ok(driver.cuGraphLaunch(executable, stream))
            ok(driver.cuGraphLaunch(executable, stream))
            ok(driver.cuGraphExecDestroy(executable))
            ok(driver.cuGraphDestroy(graph))
        ok(driver.cuStreamSynchronize(stream))
        ok(driver.cuStreamSynchronize(aside))
        done.append(captured)

    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(pairs)
    for captured, other in pairs:
        assert captured.value() == 3 * rounds
        assert other.value() == 2 * rounds


def user_objects(function) -> None:
    adder = Adder(function)
    stream = ok(driver.cuStreamCreate(1))
    gone = threading.Event()
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: gone.set())
    address = ctypes.cast(call, ctypes.c_void_p).value
    flag = driver.CUuserObject_flags.CU_USER_OBJECT_NO_DESTRUCTOR_SYNC
    thing = ok(driver.cuUserObjectCreate(0, driver.CUhostFn(address), 1, flag))
    ok(driver.cuStreamBeginCapture(stream, Mode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    adder.launch(stream, 1)
    graph, executable = end(stream)
    move = driver.CUuserObjectRetain_flags.CU_GRAPH_USER_OBJECT_MOVE
    ok(driver.cuGraphRetainUserObject(graph, thing, 1, move))
    second = ok(driver.cuGraphInstantiate(graph, 0))
    ok(driver.cuGraphExecDestroy(executable))
    ok(driver.cuGraphDestroy(graph))
    run(second, stream)
    assert not gone.is_set()
    ok(driver.cuGraphExecDestroy(second))
    ok(driver.cuStreamSynchronize(stream))
    assert gone.wait(30)

    gone.clear()
    graph = ok(driver.cuGraphCreate(0))
    thing = ok(driver.cuUserObjectCreate(0, driver.CUhostFn(address), 2, flag))
    ok(driver.cuGraphRetainUserObject(graph, thing, 2, move))
    ok(driver.cuGraphReleaseUserObject(graph, thing, 1))
    ok(driver.cuStreamSynchronize(stream))
    assert not gone.is_set()
    ok(driver.cuGraphReleaseUserObject(graph, thing, 1))
    ok(driver.cuStreamSynchronize(stream))
    assert gone.wait(30)
    ok(driver.cuGraphDestroy(graph))


def errors(function) -> None:
    adder = Adder(function)
    stream, other = ok(driver.cuStreamCreate(1)), ok(driver.cuStreamCreate(1))
    event = ok(driver.cuEventCreate(2))
    globally = Mode.CU_STREAM_CAPTURE_MODE_GLOBAL
    unsupported = Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    invalidated = Result.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

    fails(driver.cuStreamEndCapture(stream), Result.CUDA_ERROR_ILLEGAL_STATE)
    fails(driver.cuStreamBeginCapture(0, globally), unsupported)

    ok(driver.cuStreamBeginCapture(stream, globally))
    fails(driver.cuMemAlloc(64), unsupported)
    assert ok(driver.cuStreamIsCapturing(stream)) == Status.CU_STREAM_CAPTURE_STATUS_INVALIDATED
    fails(driver.cuStreamEndCapture(stream), invalidated)

    ok(driver.cuStreamBeginCapture(stream, globally))
    fails(driver.cuStreamSynchronize(stream), unsupported)
    fails(driver.cuStreamEndCapture(stream), invalidated)

    ok(driver.cuStreamBeginCapture(stream, globally))
    ok(driver.cuEventRecord(event, stream))
    ok(driver.cuStreamWaitEvent(other, event, 0))
    adder.launch(other, 1)
    fails(driver.cuStreamEndCapture(stream), Result.CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
    fails(driver.cuEventQuery(event), Result.CUDA_ERROR_CAPTURED_EVENT)

    ok(driver.cuStreamBeginCapture(stream, globally))
    wrong = []
    context = ok(driver.cuCtxGetCurrent())

    def elsewhere() -> None:
        ok(driver.cuCtxSetCurrent(context))
        wrong.append(driver.cuStreamEndCapture(stream)[0])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert wrong == [Result.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD]
    ok(driver.cuStreamEndCapture(stream))

    # In relaxed mode, and in another thread of a thread-local capture, nothing is refused.
    before = ok(driver.cuThreadExchangeStreamCaptureMode(Mode.CU_STREAM_CAPTURE_MODE_RELAXED))
    ok(driver.cuStreamBeginCapture(stream, globally))
    adder.launch(stream, 1)
    ok(driver.cuMemFree(ok(driver.cuMemAlloc(64 << 20))))
    host = np.full(N, 2, np.float32)
    ok(driver.cuMemcpyHtoDAsync(adder.data, host.ctypes.data, host.nbytes, other))
    ok(driver.cuStreamSynchronize(other))
    graph, executable = end(stream)
    ok(driver.cuThreadExchangeStreamCaptureMode(before))
    run(executable, stream)
    assert adder.value() == 3
    ok(driver.cuGraphDestroy(graph))


def main() -> None:
    ok(driver.cuInit(0))
    context = ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))
    ok(driver.cuCtxSetCurrent(context))
    module = ok(driver.cuModuleLoadData(compiled()))
    function = ok(driver.cuModuleGetFunction(module, b"add"))
    capture_and_replay(function)
    fork_and_join(function)
    host_memory_at_each_replay(function)
    memory_of_a_graph(function)
    nodes_by_hand(function, context)
    threads_capture_at_once(function)
    user_objects(function)
    errors(function)
    ok(driver.cuDevicePrimaryCtxRelease(ok(driver.cuDeviceGet(0))))


if __name__ == "__main__":
    main()
