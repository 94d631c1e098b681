// Streams and events as CUDA means them, told to the scheduler as operations that follow one
// another.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/scheduler.hpp"

namespace carrel::softgpu {

class Context;
struct Capture;
struct CapturedMark;
struct Node;

/// A queue of operations of one context. `last` and `destroyed` belong to the context's stream
/// lock.
struct Stream {
    Stream(Context& owner, unsigned stream_flags, int stream_priority, std::uint64_t number)
        : context(owner), flags(stream_flags), priority(stream_priority), id(number) {}

    Context& context;
    const unsigned flags;
    const int priority;  // 0 lowest, kGreatestPriority highest
    const std::uint64_t id;
    bool legacy = false;  // the default stream that waits for the others
    OperationPtr last;
    bool destroyed = false;

    // What belongs to the lock of stream capture (capture.cpp).
    std::shared_ptr<Capture> capture;  // null: work is done, not captured
    std::vector<Node*> capture_tail;   // nodes that the next one depends on
    std::vector<Node*> shown_tail;     // as last shown to the program

    static constexpr int kGreatestPriority = -5;
    [[nodiscard]] bool blocking() const { return !(flags & CU_STREAM_NON_BLOCKING); }
};

/// A mark in a stream; holds the operation that was recorded last.
struct Event {
    Event(std::shared_ptr<Context> owner, unsigned event_flags)
        : context(std::move(owner)), flags(event_flags) {}

    const std::shared_ptr<Context> context;
    const unsigned flags;
    [[nodiscard]] bool timed() const { return !(flags & CU_EVENT_DISABLE_TIMING); }
    [[nodiscard]] OperationPtr recorded() {
        const std::lock_guard lock(mutex);
        return operation;
    }

    std::mutex mutex;
    OperationPtr operation;              // null: never recorded
    std::shared_ptr<CapturedMark> mark;  // recorded in a capture; belongs to the captures' lock
};

}  // namespace carrel::softgpu
