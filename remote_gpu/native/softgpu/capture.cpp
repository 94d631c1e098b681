#include "softgpu/capture.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

#include "softgpu/failure.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {
namespace {

std::mutex mutex;  // guards everything here, streams' and events' capture state included
std::atomic<unsigned> live{0};
std::vector<std::shared_ptr<Capture>>& captures() {
    static auto* const all = new std::vector<std::shared_ptr<Capture>>;
    return *all;
}

CUstreamCaptureMode& thread_mode() {
    thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    return mode;
}

bool none() {
    return live.load(std::memory_order_acquire) == 0;
}

void join(Stream& stream, const std::shared_ptr<Capture>& capture, std::vector<Node*> nodes) {
    stream.capture = capture;
    stream.capture_tail = std::move(nodes);
    capture->streams.push_back(&stream);
}

void merge(std::vector<Node*>& into, const std::vector<Node*>& nodes) {
    for (Node* node : nodes)
        if (std::find(into.begin(), into.end(), node) == into.end()) into.push_back(node);
}

// The capture is over: its streams go back to doing work.
void dissolve(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) {
        stream->capture = nullptr;
        stream->capture_tail.clear();
    }
    capture->streams.clear();
    capture->ended = true;
    std::erase(captures(), capture);
    live.store(static_cast<unsigned>(captures().size()), std::memory_order_release);
    if (capture->invalid && capture->own_graph) capture->graph->withdraw();
}

// Nodes that are behind the given ones, themselves included.
std::set<const Node*> ancestors(const std::vector<Node*>& nodes) {
    std::set<const Node*> seen;
    std::vector<const Node*> open(nodes.begin(), nodes.end());
    while (!open.empty()) {
        const Node* node = open.back();
        open.pop_back();
        if (!seen.insert(node).second) continue;
        open.insert(open.end(), node->dependencies.begin(), node->dependencies.end());
    }
    return seen;
}

bool joined(const Capture& capture) {
    const auto reached = ancestors(capture.origin->capture_tail);
    for (const Stream* stream : capture.streams)
        for (const Node* node : stream->capture_tail)
            if (!reached.contains(node)) return false;
    return true;
}

}  // namespace

void begin_capture(Stream& stream, CUstreamCaptureMode mode, std::shared_ptr<Graph> graph,
                   std::vector<Node*> dependencies) {
    static std::atomic<std::uint64_t> next_id{1};
    require(mode >= CU_STREAM_CAPTURE_MODE_GLOBAL && mode <= CU_STREAM_CAPTURE_MODE_RELAXED);
    require(!stream.legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    const std::lock_guard lock(mutex);
    require(!stream.capture, CUDA_ERROR_ILLEGAL_STATE);
    auto made = std::make_shared<Capture>();
    made->id = next_id++;
    made->mode = mode;
    made->thread = std::this_thread::get_id();
    made->origin = &stream;
    made->own_graph = graph == nullptr;
    made->graph = graph ? std::move(graph) : std::make_shared<Graph>();
    made->graph->publish();
    join(stream, made, std::move(dependencies));
    captures().push_back(std::move(made));
    live.store(static_cast<unsigned>(captures().size()), std::memory_order_release);
}

std::shared_ptr<Graph> end_capture(Stream& stream) {
    const std::lock_guard lock(mutex);
    const std::shared_ptr<Capture> capture = stream.capture;
    require(capture != nullptr, CUDA_ERROR_ILLEGAL_STATE);
    require(capture->origin == &stream, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    require(capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED ||
                capture->thread == std::this_thread::get_id(),
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    const bool was_invalid = capture->invalid;
    if (!was_invalid) capture->invalid = !joined(*capture);
    dissolve(capture);
    // Events may remember the capture for long; the graph is the program's.
    auto graph = std::move(capture->graph);
    require(!was_invalid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    require(!capture->invalid, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    return graph;
}

CaptureInfo capture_info(Stream& stream) {
    if (none()) return {};
    const std::lock_guard lock(mutex);
    if (!stream.capture) {
        // Asking about the default stream is using it.
        if (stream.legacy)
            for (const auto& each : captures())
                for (const Stream* other : each->streams)
                    require(!(other->blocking() && &other->context == &stream.context),
                            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        return {};
    }
    if (stream.capture->invalid) return {CU_STREAM_CAPTURE_STATUS_INVALIDATED, 0, nullptr, {}};
    return {CU_STREAM_CAPTURE_STATUS_ACTIVE, stream.capture->id, stream.capture->graph,
            stream.capture_tail};
}

void update_dependencies(Stream& stream, std::span<Node* const> nodes, bool replace) {
    const std::lock_guard lock(mutex);
    require(stream.capture != nullptr, CUDA_ERROR_ILLEGAL_STATE);
    require(!stream.capture->invalid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    for (const Node* node : nodes) require(node->graph == stream.capture->graph.get());
    if (replace) stream.capture_tail.clear();
    merge(stream.capture_tail, {nodes.begin(), nodes.end()});
}

bool capturing(Stream& stream) {
    if (none()) return false;
    const std::lock_guard lock(mutex);
    if (stream.capture) {
        require(!stream.capture->invalid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        return true;
    }
    if (!stream.legacy) return false;
    bool implicit = false;
    for (const auto& each : captures())
        for (const Stream* other : each->streams)
            if (!each->invalid && other->blocking() && &other->context == &stream.context)
                implicit = each->invalid = true;
    require(!implicit, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    return false;
}

Node* capture(Stream& stream, NodeParameters parameters) {
    const std::lock_guard lock(mutex);
    require(stream.capture && !stream.capture->invalid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    Node* node = stream.capture->graph->add(std::move(parameters), stream.capture_tail);
    stream.capture_tail = {node};
    return node;
}

void capture_record(Stream& stream, Event& event) {
    const std::lock_guard lock(mutex);
    event.mark = std::make_shared<CapturedMark>(CapturedMark{stream.capture, stream.capture_tail});
}

void forget_mark(Event& event) {
    const std::lock_guard lock(mutex);
    event.mark = nullptr;
}

bool capture_wait(Stream& stream, Event& event) {
    const std::lock_guard lock(mutex);
    const auto mark = event.mark;
    if (!mark) {
        if (!stream.capture) return false;
        require(!stream.capture->invalid, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // Recorded outside: the graph would depend on what is not in it.
        if (event.recorded()) {
            stream.capture->invalid = true;
            throw Failure(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        }
        return true;
    }
    require(!mark->capture->ended, CUDA_ERROR_CAPTURED_EVENT);
    if (mark->capture->invalid || (stream.capture && stream.capture->invalid))
        throw Failure(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (!stream.capture) {
        if (stream.legacy) {
            mark->capture->invalid = true;
            throw Failure(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        join(stream, mark->capture, mark->nodes);
        return true;
    }
    if (stream.capture != mark->capture) {
        stream.capture->invalid = mark->capture->invalid = true;
        throw Failure(CUDA_ERROR_STREAM_CAPTURE_MERGE);
    }
    merge(stream.capture_tail, mark->nodes);
    return true;
}

void require_not_captured(Event& event) {
    const std::lock_guard lock(mutex);
    if (!event.mark) return;
    if (!event.mark->capture->ended) event.mark->capture->invalid = true;
    throw Failure(CUDA_ERROR_CAPTURED_EVENT);
}

void require_no_capture(Stream& stream) {
    if (none()) return;
    {
        const std::lock_guard lock(mutex);
        if (stream.capture) {
            const bool known = stream.capture->invalid;
            stream.capture->invalid = true;
            throw Failure(known ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    (void)capturing(stream);  // the default stream waits for others
}

void require_no_capture(Context& context) {
    if (none()) return;
    const std::lock_guard lock(mutex);
    bool found = false;
    for (const auto& each : captures())
        if (&each->origin->context == &context) found = each->invalid = true;
    require(!found, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

void require_unsafe_call_allowed() {
    if (none() || thread_mode() == CU_STREAM_CAPTURE_MODE_RELAXED) return;
    const std::lock_guard lock(mutex);
    bool refused = false;
    for (const auto& each : captures()) {
        const bool own = each->thread == std::this_thread::get_id() &&
                         each->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        const bool others = thread_mode() == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                            each->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (own || others) refused = each->invalid = true;
    }
    require(!refused, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

void abandon_capture(Stream& stream) {
    if (none()) return;
    const std::lock_guard lock(mutex);
    const auto capture = stream.capture;
    if (!capture) return;
    capture->invalid = true;
    stream.capture = nullptr;
    stream.capture_tail.clear();
    std::erase(capture->streams, &stream);
    if (capture->origin == &stream) dissolve(capture);
}

CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode) {
    require(mode >= CU_STREAM_CAPTURE_MODE_GLOBAL && mode <= CU_STREAM_CAPTURE_MODE_RELAXED);
    return std::exchange(thread_mode(), mode);
}

}  // namespace carrel::softgpu
