// A context: the streams, memory, modules and the sticky error of one program on one device.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/device.hpp"
#include "softgpu/memory.hpp"
#include "softgpu/stream.hpp"

namespace carrel::softgpu {

struct Library;
class Module;

class Context : public std::enable_shared_from_this<Context> {
  public:
    Context(Device& device, unsigned flags, bool primary);
    ~Context();

    [[nodiscard]] Device& device() const { return device_; }
    [[nodiscard]] bool primary() const { return primary_; }
    [[nodiscard]] std::uint64_t id() const { return id_; }

    // --- errors ---------------------------------------------------------------------------------
    [[nodiscard]] CUresult error() const { return error_.load(std::memory_order_acquire); }
    /// Makes `code` the context's error for good, unless it has one, and tells the user why.
    void fail(CUresult code, const std::string& explanation);
    /// Throws the sticky error, or CUDA_ERROR_CONTEXT_IS_DESTROYED.
    void require_usable() const;
    [[nodiscard]] bool destroyed() const { return destroyed_.load(std::memory_order_acquire); }

    // --- streams --------------------------------------------------------------------------------
    /// Null and CU_STREAM_LEGACY: the default stream; CU_STREAM_PER_THREAD: the calling thread's.
    std::shared_ptr<Stream> default_stream(bool per_thread);
    std::shared_ptr<Stream> create_stream(unsigned flags, int priority);
    void destroy_stream(Stream& stream);

    /// Queues `task` in the stream. Its work is left out when the context has failed by then; what
    /// it throws fails the context. `after`: operations that it must wait for besides.
    OperationPtr enqueue(Stream& stream, Task task, std::span<const OperationPtr> after = {});
    /// The same, done on the calling thread and waited for.
    void enqueue_and_run(Stream& stream, std::function<void()> work);
    /// Queues a `task` whose work happens even when the context has failed.
    OperationPtr enqueue_always(Stream& stream, Task task,
                                std::span<const OperationPtr> after = {});

    /// Does `task` when the operations in `after` have ended, in no stream. `always`: even when the
    /// context has failed.
    OperationPtr follow(Task task, std::span<const OperationPtr> after, bool always);

    /// Waits for the stream (the default stream: for all that block it), shows what kernels printed
    /// and throws the sticky error, if any.
    void synchronize(Stream& stream);
    [[nodiscard]] bool idle(Stream& stream);
    /// Waits for all streams; does not throw.
    void drain();
    void synchronize();

    // --- memory ---------------------------------------------------------------------------------
    [[nodiscard]] Heap& device_heap() { return *device_heap_; }
    [[nodiscard]] Heap& host_heap() { return *host_heap_; }
    /// For device-side malloc, bounded by CU_LIMIT_MALLOC_HEAP_SIZE. 0: no room.
    std::uint64_t kernel_allocate(std::uint64_t bytes);
    void kernel_free(std::uint64_t address);

    // --- output of kernels ----------------------------------------------------------------------
    void print(std::string_view text);
    void flush_output();

    // --- settings -------------------------------------------------------------------------------
    [[nodiscard]] std::size_t limit(CUlimit which) const;
    void set_limit(CUlimit which, std::size_t value);
    std::atomic<unsigned> flags;
    std::atomic<CUfunc_cache> cache_config{CU_FUNC_CACHE_PREFER_NONE};

    /// The module of a library in this context, made by `load` at the first use.
    std::shared_ptr<Module> library_module(const Library* library,
                                           const std::function<std::shared_ptr<Module>()>& load);
    /// The library's module, if there was one, now no longer held by the context.
    std::shared_ptr<Module> forget_library(const Library* library);
    /// Where the watchdog and the end of the context stop running kernels.
    std::atomic<bool> abort{false};

    /// Waits, then gives back everything that belongs to the context. A primary context may be used
    /// again.
    void tear_down();

  private:
    OperationPtr place(Stream& stream, Task task, std::span<const OperationPtr> after,
                       bool by_caller);
    Task unless_failed(Task task);
    void sweep_streams();
    void make_heaps();

    Device& device_;
    const bool primary_;
    const std::uint64_t id_;
    std::atomic<CUresult> error_{CUDA_SUCCESS};
    std::atomic<bool> destroyed_{false};

    std::mutex streams_mutex_;
    std::shared_ptr<Stream> legacy_;
    std::unordered_map<std::thread::id, std::shared_ptr<Stream>> per_thread_;
    std::vector<std::shared_ptr<Stream>> streams_;  // all but the legacy one

    std::unique_ptr<Heap> device_heap_, host_heap_;
    std::mutex kernel_heap_mutex_;
    std::unordered_map<std::uint64_t, std::uint64_t> kernel_allocations_;
    std::uint64_t kernel_heap_used_ = 0;

    std::mutex output_mutex_;
    std::deque<std::string> output_;
    std::size_t output_bytes_ = 0;

    mutable std::mutex limits_mutex_;
    std::array<std::size_t, CU_LIMIT_MAX> limits_{};

    std::mutex libraries_mutex_;
    std::unordered_map<const Library*, std::shared_ptr<Module>> libraries_;
};

}  // namespace carrel::softgpu
