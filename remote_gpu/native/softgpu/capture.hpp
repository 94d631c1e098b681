// Stream capture: instead of queueing work, streams add nodes to a graph. Events carry a capture
// from one stream to another. One lock guards the state of all captures.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/graph.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

struct Capture {
    std::uint64_t id = 0;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    std::thread::id thread;  // that began it
    Stream* origin = nullptr;
    std::shared_ptr<Graph> graph;
    bool own_graph = true;  // made for the capture, not given by the program
    bool invalid = false;
    bool ended = false;
    std::vector<Stream*> streams;
};

/// Where a captured event stands.
struct CapturedMark {
    std::shared_ptr<Capture> capture;
    std::vector<Node*> nodes;
};

/// All of a stream's state that a program may ask for. Pointers stay valid until the next question
/// about the stream.
struct CaptureInfo {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    std::uint64_t id = 0;
    std::shared_ptr<Graph> graph;
    std::vector<Node*> nodes;
};

/// Begins a capture into `graph` (null: a new one). Throws Failure.
void begin_capture(Stream& stream, CUstreamCaptureMode mode, std::shared_ptr<Graph> graph,
                   std::vector<Node*> dependencies);
/// Ends the capture that began in the stream. Throws Failure.
[[nodiscard]] std::shared_ptr<Graph> end_capture(Stream& stream);
[[nodiscard]] CaptureInfo capture_info(Stream& stream);
void update_dependencies(Stream& stream, std::span<Node* const> nodes, bool replace);

/// Whether work for the stream goes into a graph. Throws Failure: the stream's capture has become
/// invalid; or the stream is the default one, which must not wait for streams that capture.
[[nodiscard]] bool capturing(Stream& stream);
/// Adds the work to the graph that the stream captures into.
Node* capture(Stream& stream, NodeParameters parameters);
/// The stream captures: marks the event as part of the capture.
void capture_record(Stream& stream, Event& event);
/// The event was recorded outside of captures.
void forget_mark(Event& event);
/// True: the wait is part of a capture. Throws Failure when capture and event do not fit.
[[nodiscard]] bool capture_wait(Stream& stream, Event& event);
/// Throws Failure(CUDA_ERROR_CAPTURED_EVENT) when the event was recorded in a capture.
void require_not_captured(Event& event);
/// Waiting for, or asking about, a stream that captures fails and ends its capture. Throws Failure.
void require_no_capture(Stream& stream);
/// The same of all streams of a context.
void require_no_capture(Context& context);
/// Calls that may wait for other streams are refused while captures of certain modes go on. Throws
/// Failure(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED).
void require_unsafe_call_allowed();
/// The stream is destroyed: what it captured is lost.
void abandon_capture(Stream& stream);
/// Sets the calling thread's mode and returns the one before.
CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode);

}  // namespace carrel::softgpu
