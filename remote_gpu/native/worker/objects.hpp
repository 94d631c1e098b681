// The client's names and the driver's handles behind them. Main loop only.
#pragma once
#include <cstdint>
#include <functional>
#include <unordered_map>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "wire/protocol.hpp"
#include "wire/reader.hpp"

namespace carrel::worker {

// The client named something that does not exist or is of another kind.
struct BadHandle {};

enum class Tag : uint8_t {
    context,
    module,
    function,
    library,
    kernel,
    stream,
    event,
    link,
    graph,
    graph_node,
    graph_exec,
    other,
};
template <class H>
inline constexpr Tag kTag = Tag::other;
template <>
inline constexpr Tag kTag<CUcontext> = Tag::context;
template <>
inline constexpr Tag kTag<CUmodule> = Tag::module;
template <>
inline constexpr Tag kTag<CUfunction> = Tag::function;
template <>
inline constexpr Tag kTag<CUlibrary> = Tag::library;
template <>
inline constexpr Tag kTag<CUkernel> = Tag::kernel;
template <>
inline constexpr Tag kTag<CUstream> = Tag::stream;
template <>
inline constexpr Tag kTag<CUevent> = Tag::event;
template <>
inline constexpr Tag kTag<CUlinkState> = Tag::link;
template <>
inline constexpr Tag kTag<CUgraph> = Tag::graph;
template <>
inline constexpr Tag kTag<CUgraphNode> = Tag::graph_node;
template <>
inline constexpr Tag kTag<CUgraphExec> = Tag::graph_exec;

class Objects {
  public:
    static constexpr size_t kMaxObjects = size_t{1} << 22;

    struct Entry {
        Tag tag;
        void* handle;
        uint32_t context;
    };

    explicit Objects(const DriverTable& driver) : driver_(driver) {}

    template <class H>
    H get(uint64_t name) {
        const Entry* entry = find(name, kTag<H>);
        if (!entry) throw BadHandle{};
        return static_cast<H>(entry->handle);
    }

    template <class H>
    void bind(uint64_t name, H handle) {
        if (entries_.size() >= kMaxObjects)
            throw wire::Malformed("more than 4,194,304 live objects");
        entries_[name] = {kTag<H>, handle, context_};
    }

    template <class H>
    void erase(uint64_t name) {
        entries_.erase(name);
    }

    const Entry* find(uint64_t name, Tag tag) const {
        const auto found = entries_.find(name);
        return found != entries_.end() && found->second.tag == tag ? &found->second : nullptr;
    }
    template <class Visit>
    void each(Visit visit) const {
        for (const auto& [name, entry] : entries_) visit(name, entry);
    }
    // The kernel whose function in some context this is; 0: none.
    uint64_t kernel_of(CUfunction function) const {
        for (const auto& [key, known] : functions_)
            if (known == function) return key & 0xffffffff;
        return 0;
    }
    void erase_context(uint32_t context) {
        std::erase_if(entries_, [&](const auto& item) {
            return item.second.context == context && item.second.tag != Tag::context &&
                   item.second.tag != Tag::library && item.second.tag != Tag::kernel;
        });
        std::erase_if(functions_, [&](const auto& item) { return (item.first >> 32) == context; });
    }

    // The context that new objects belong to: that of the call being executed.
    void enter(uint32_t context) { context_ = context; }
    // Told of every stream that a call uses.
    std::function<void(CUstream)> on_stream;
    // The stream that stands for the per-thread default stream in the current context.
    std::function<CUstream()> per_thread_stream;

  private:
    CUfunction function_of_kernel(uint64_t name, CUkernel kernel);

    const DriverTable& driver_;
    uint32_t context_ = wire::kPrimaryContext;
    std::unordered_map<uint64_t, Entry> entries_;
    std::unordered_map<uint64_t, CUfunction> functions_;  // of kernels, by context and name
};

template <>
inline CUstream Objects::get<CUstream>(uint64_t name) {
    CUstream stream;
    if (name <= wire::kLegacyStream) {
        stream = reinterpret_cast<CUstream>(name);
    } else if (name == wire::kPerThreadStream) {
        stream = per_thread_stream();
    } else {
        const Entry* entry = find(name, Tag::stream);
        if (!entry) throw BadHandle{};
        stream = static_cast<CUstream>(entry->handle);
    }
    on_stream(stream);
    return stream;
}

// A kernel serves as its function in the current context.
template <>
inline CUfunction Objects::get<CUfunction>(uint64_t name) {
    if (const Entry* entry = find(name, Tag::function)) {
        return static_cast<CUfunction>(entry->handle);
    }
    const Entry* kernel = find(name, Tag::kernel);
    if (!kernel) throw BadHandle{};
    return function_of_kernel(name, static_cast<CUkernel>(kernel->handle));
}

inline CUfunction Objects::function_of_kernel(uint64_t name, CUkernel kernel) {
    const uint64_t key = (uint64_t{context_} << 32) | name;
    if (const auto known = functions_.find(key); known != functions_.end()) return known->second;
    CUfunction function = nullptr;
    if (invoke(driver_.cuKernelGetFunction, &function, kernel) != CUDA_SUCCESS) throw BadHandle{};
    functions_[key] = function;
    return function;
}

}  // namespace carrel::worker
