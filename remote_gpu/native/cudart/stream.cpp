// Streams, events, and capture.
#include "cudart/runtime.hpp"

using namespace carrel::cudart;

cudaError_t cudaStreamCreate(cudaStream_t* pStream) {
    return call([&] { return cuStreamCreate(pStream, CU_STREAM_DEFAULT); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* pStream, unsigned int flags) {
    return call([&] { return cuStreamCreate(pStream, flags); });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* pStream, unsigned int flags, int priority) {
    return call([&] { return cuStreamCreateWithPriority(pStream, flags, priority); });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return call([&] { return cuStreamDestroy_v2(stream); });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return call([&] { return cuStreamSynchronize(stream); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return call([&] { return cuStreamQuery(stream); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
    return call([&] { return cuStreamWaitEvent(stream, event, flags); });
}

cudaError_t cudaStreamGetPriority(cudaStream_t hStream, int* priority) {
    return call([&] { return cuStreamGetPriority(hStream, priority); });
}

cudaError_t cudaStreamGetFlags(cudaStream_t hStream, unsigned int* flags) {
    return call([&] { return cuStreamGetFlags(hStream, flags); });
}

cudaError_t cudaStreamGetId(cudaStream_t hStream, unsigned long long* streamId) {
    return call([&] { return cuStreamGetId(hStream, streamId); });
}

cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) {
    return call([&] {
        *device = 0;  // a slice is one device
        return CUDA_SUCCESS;
    });
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback,
                                  void* userData, unsigned int flags) {
    // The error that a callback is given has the same number in both APIs.
    return call([&] {
        return cuStreamAddCallback(stream, reinterpret_cast<CUstreamCallback>(callback), userData,
                                   flags);
    });
}

cudaError_t cudaCtxResetPersistingL2Cache() {
    return call([] { return CUDA_SUCCESS; });
}

// ---- attributes --------------------------------------------------------------------------------

cudaError_t cudaStreamCopyAttributes(cudaStream_t dst, cudaStream_t src) {
    return call([&] { return cuStreamCopyAttributes(dst, src); });
}

cudaError_t cudaStreamGetAttribute(cudaStream_t hStream, cudaLaunchAttributeID attr,
                                   cudaLaunchAttributeValue* value_out) {
    static_assert(sizeof(cudaLaunchAttributeValue) == sizeof(CUlaunchAttributeValue));
    return call([&] {
        return cuStreamGetAttribute(hStream, static_cast<CUlaunchAttributeID>(attr),
                                    reinterpret_cast<CUlaunchAttributeValue*>(value_out));
    });
}

cudaError_t cudaStreamSetAttribute(cudaStream_t hStream, cudaLaunchAttributeID attr,
                                   const cudaLaunchAttributeValue* value) {
    return call([&] {
        return cuStreamSetAttribute(hStream, static_cast<CUlaunchAttributeID>(attr),
                                    reinterpret_cast<const CUlaunchAttributeValue*>(value));
    });
}

// ---- events ------------------------------------------------------------------------------------

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return call([&] { return cuEventCreate(event, CU_EVENT_DEFAULT); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
    return call([&] { return cuEventCreate(event, flags); });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return call([&] { return cuEventDestroy_v2(event); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return call([&] { return cuEventRecord(event, stream); });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned int flags) {
    return call([&] { return cuEventRecordWithFlags(event, stream, flags); });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    return call([&] { return cuEventQuery(event); });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return call([&] { return cuEventSynchronize(event); });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    return call([&] { return cuEventElapsedTime_v2(ms, start, end); });
}

// ---- capture -----------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return call(
        [&] { return cuStreamBeginCapture_v2(stream, static_cast<CUstreamCaptureMode>(mode)); });
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t* dependencies,
                                          const cudaGraphEdgeData* dependencyData,
                                          size_t numDependencies, cudaStreamCaptureMode mode) {
    return call([&] {
        return cuStreamBeginCaptureToGraph(stream, graph, dependencies,
                                           reinterpret_cast<const CUgraphEdgeData*>(dependencyData),
                                           numDependencies, static_cast<CUstreamCaptureMode>(mode));
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* pGraph) {
    return call([&] { return cuStreamEndCapture(stream, pGraph); });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* pCaptureStatus) {
    return call([&] {
        return cuStreamIsCapturing(stream,
                                   reinterpret_cast<CUstreamCaptureStatus*>(pCaptureStatus));
    });
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    return call([&] {
        return cuThreadExchangeStreamCaptureMode(reinterpret_cast<CUstreamCaptureMode*>(mode));
    });
}

namespace {

cudaError_t capture_info(cudaStream_t stream, cudaStreamCaptureStatus* status,
                         unsigned long long* id, cudaGraph_t* graph,
                         const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                         size_t* count) {
    return call([&] {
        cuuint64_t number = 0;
        const CUresult result = cuStreamGetCaptureInfo_v3(
            stream, reinterpret_cast<CUstreamCaptureStatus*>(status), &number, graph, dependencies,
            reinterpret_cast<const CUgraphEdgeData**>(edges), count);
        if (id && result == CUDA_SUCCESS) *id = number;
        return result;
    });
}

cudaError_t update_dependencies(cudaStream_t stream, cudaGraphNode_t* dependencies,
                                const cudaGraphEdgeData* edges, size_t count, unsigned int flags) {
    return call([&] {
        return cuStreamUpdateCaptureDependencies_v2(
            stream, dependencies, reinterpret_cast<const CUgraphEdgeData*>(edges), count, flags);
    });
}

}  // namespace

#if CARREL_CUDART_MAJOR >= 13

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
    return capture_info(stream, status, id, graph, dependencies, edges, count);
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* dependencies,
                                                const cudaGraphEdgeData* edges, size_t count,
                                                unsigned int flags) {
    return update_dependencies(stream, dependencies, edges, count, flags);
}

#else

cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies, size_t* count) {
    return capture_info(stream, status, id, graph, dependencies, nullptr, count);
}

cudaError_t cudaStreamGetCaptureInfo_v3(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                        unsigned long long* id, cudaGraph_t* graph,
                                        const cudaGraphNode_t** dependencies,
                                        const cudaGraphEdgeData** edges, size_t* count) {
    return capture_info(stream, status, id, graph, dependencies, edges, count);
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* dependencies,
                                                size_t count, unsigned int flags) {
    return update_dependencies(stream, dependencies, nullptr, count, flags);
}

cudaError_t cudaStreamUpdateCaptureDependencies_v2(cudaStream_t stream,
                                                   cudaGraphNode_t* dependencies,
                                                   const cudaGraphEdgeData* edges, size_t count,
                                                   unsigned int flags) {
    return update_dependencies(stream, dependencies, edges, count, flags);
}

#endif
