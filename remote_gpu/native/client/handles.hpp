// The handles that programs hold: minted here, sent as names, validated on every use. A handle is
// its name plus an offset that no small integer or stream constant reaches. Slots are never given
// back to the system, so that a stale handle is an error and never a crash.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

#include "cuda_abi.hpp"

namespace carrel::client {

enum class Kind : uint8_t {
    none,
    context,
    module,
    function,
    library,
    kernel,
    stream,
    event,
    link,
    pool,
    forwarded,  // of a library: the object is its kind and note (bridge.cpp)
    graph,
    graph_node,
    graph_exec,
    user_object,
    other,
};

template <class H>
inline constexpr Kind kKindOf = Kind::other;
template <>
inline constexpr Kind kKindOf<CUcontext> = Kind::context;
template <>
inline constexpr Kind kKindOf<CUmodule> = Kind::module;
template <>
inline constexpr Kind kKindOf<CUfunction> = Kind::function;
template <>
inline constexpr Kind kKindOf<CUlibrary> = Kind::library;
template <>
inline constexpr Kind kKindOf<CUkernel> = Kind::kernel;
template <>
inline constexpr Kind kKindOf<CUstream> = Kind::stream;
template <>
inline constexpr Kind kKindOf<CUevent> = Kind::event;
template <>
inline constexpr Kind kKindOf<CUlinkState> = Kind::link;
template <>
inline constexpr Kind kKindOf<CUmemoryPool> = Kind::pool;
template <>
inline constexpr Kind kKindOf<CUgraph> = Kind::graph;
template <>
inline constexpr Kind kKindOf<CUgraphNode> = Kind::graph_node;
template <>
inline constexpr Kind kKindOf<CUgraphExec> = Kind::graph_exec;

// Thrown while a call is encoded; post() and call() turn it into CUDA_ERROR_INVALID_HANDLE.
struct BadHandle {};

class Handles {
  public:
    static constexpr uint64_t kOffset = uint64_t{1} << 40;

    Handles() = default;
    Handles(const Handles&) = delete;
    Handles& operator=(const Handles&) = delete;
    ~Handles();

    // A new name for an object of this kind; 0 when the table is full. The object, if any, must
    // outlive the process' use of the handle: it is never deleted.
    uint32_t create(Kind kind, void* object = nullptr, uint32_t context = 0);
    // False when there is no such object.
    bool erase(uint32_t name);
    // The kind of a live name; none for anything else.
    Kind kind(uint32_t name) const;
    void* object(uint32_t name) const;
    void set_object(uint32_t name, void* object);
    uint32_t context(uint32_t name) const;
    // Drops every live handle that belongs to a context.
    void erase_context(uint32_t context);

    // The name behind a program's handle; 0 when it cannot be one.
    static uint32_t name(const void* handle) {
        const auto value = reinterpret_cast<uint64_t>(handle);
        return (value >> 32) == (kOffset >> 32) ? static_cast<uint32_t>(value) : 0;
    }
    template <class H>
    static H handle(uint32_t name) {
        return reinterpret_cast<H>(kOffset + name);
    }

  private:
    static constexpr uint32_t kIndexBits = 22;
    static constexpr uint32_t kIndexMask = (1u << kIndexBits) - 1;
    static constexpr uint32_t kChunk = 1024;

    struct Slot {
        std::atomic<uint32_t> name{0};  // 0 while free
        std::atomic<Kind> kind{Kind::none};
        std::atomic<void*> object{nullptr};
        std::atomic<uint32_t> context{0};
        uint32_t generation = 0;
    };
    const Slot* find(uint32_t name) const;

    mutable std::mutex mutex_;
    std::deque<uint32_t> free_;
    uint32_t next_ = 16;  // small names are reserved: streams 0..2, the primary context
    std::atomic<Slot*> chunks_[(1u << kIndexBits) / kChunk] = {};
};

Handles& handles();

}  // namespace carrel::client
