// The library's one global: devices, scheduler, page table and the tables of live handles. Made by
// cuInit, never destroyed: threads may be at work when the process exits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/context.hpp"
#include "softgpu/device.hpp"
#include "softgpu/failure.hpp"
#include "softgpu/handles.hpp"
#include "softgpu/memory.hpp"
#include "softgpu/scheduler.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

class Module;
struct Function;
struct Library;
struct Kernel;
struct LinkState;
struct MemoryPool;
struct Graph;
struct GraphExec;
struct Node;
struct UserObject;

inline constexpr int kDriverVersion = 13000;

class Runtime {
  public:
    /// cuInit. The first call decides.
    static CUresult initialise() noexcept;
    /// CUDA_SUCCESS, or why nothing works: before cuInit, or in a child after fork.
    static CUresult readiness() noexcept;
    /// Only when ready.
    static Runtime& get() { return *instance_; }

    [[nodiscard]] std::size_t device_count() const { return devices_.size(); }
    /// Throws Failure(CUDA_ERROR_INVALID_DEVICE).
    [[nodiscard]] Device& device(int ordinal);
    /// Waits for every stream of every context.
    void drain_all();
    [[nodiscard]] Scheduler& scheduler() { return scheduler_; }
    [[nodiscard]] PageTable& pages() { return pages_; }
    [[nodiscard]] AddressMap& addresses() { return addresses_; }
    /// Of pinned and managed memory: all of them together may not exceed the machine's.
    [[nodiscard]] VramAccount& host_account() { return host_account_; }

    HandleTable<Context, CUcontext> contexts;
    HandleTable<Stream, CUstream> streams;
    HandleTable<Event, CUevent> events;
    HandleTable<Module, CUmodule> modules;
    HandleTable<Function, CUfunction> functions;
    HandleTable<Library, CUlibrary> libraries;
    HandleTable<Kernel, CUkernel> kernels;
    HandleTable<LinkState, CUlinkState> links;
    HandleTable<MemoryPool, CUmemoryPool> pools;
    HandleTable<Graph, CUgraph> graphs;
    HandleTable<Node, CUgraphNode> graph_nodes;
    HandleTable<GraphExec, CUgraphExec> graph_execs;
    HandleTable<UserObject, CUuserObject> user_objects;

  private:
    Runtime();
    static Runtime* instance_;

    PageTable pages_;
    AddressMap addresses_;
    VramAccount host_account_;
    Scheduler scheduler_;
    std::vector<std::unique_ptr<Device>> devices_;
};

/// The calling thread's stack of contexts; the last is current. Entries are never null.
std::vector<std::shared_ptr<Context>>& context_stack();
/// Throws Failure(CUDA_ERROR_INVALID_CONTEXT) when there is none, or its sticky error.
Context& current_context();
/// The stream behind a handle. Throws Failure(CUDA_ERROR_INVALID_HANDLE).
std::shared_ptr<Stream> find_stream(CUstream handle);

/// While it lives, the calling thread's null stream is its per-thread default stream.
class PerThreadDefault {
  public:
    PerThreadDefault();
    ~PerThreadDefault();
    PerThreadDefault(const PerThreadDefault&) = delete;
    PerThreadDefault& operator=(const PerThreadDefault&) = delete;
};
/// Null becomes CU_STREAM_PER_THREAD.
[[nodiscard]] CUstream per_thread(CUstream stream);

/// CUDA_ERROR_NOT_SUPPORTED, with one line on stderr for every name.
CUresult unsupported(const char* name) noexcept;

/// The frame of an entry point that needs no context.
template <class Body>
CUresult entry(Body&& body) noexcept {
    if (const CUresult ready = Runtime::readiness(); ready != CUDA_SUCCESS) return ready;
    return guarded(std::forward<Body>(body));
}

/// The frame of an entry point that works in the current context.
template <class Body>
CUresult entry_in_context(Body&& body) noexcept {
    return entry([&] { return body(current_context()); });
}

}  // namespace carrel::softgpu
