// Stream capture on this side. The worker's driver captures; what is kept here is what saves
// asking: which streams were begun, by which thread and in which mode. The rules about what other
// threads may do meanwhile are applied here, where the threads are.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "cuda_abi.hpp"

namespace carrel::client {

namespace detail {
inline std::atomic<uint32_t> captures{0};
CUresult refuse_unsafe_call();
}  // namespace detail

// Whether any stream captures. Everything else here is off the fast paths.
inline bool captures_exist() {
    return detail::captures.load(std::memory_order_relaxed) != 0;
}

// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, which also ends the captures, when a call that may wait
// for other streams is not allowed in this thread now.
inline CUresult refuse_unsafe_call() {
    return captures_exist() ? detail::refuse_unsafe_call() : CUDA_SUCCESS;
}

// Whether the stream captures. Of streams that joined a capture by an event only the worker knows.
// For the default stream: refuse_unsafe_call().
CUresult check_capture(CUstream stream, bool* captured);

// What a capturing stream does with the host's memory happens at each replay.
CUresult capture_copy_in(CUdeviceptr to, const void* from, size_t bytes, CUstream stream);
CUresult capture_copy_out(void* to, CUdeviceptr from, size_t bytes, CUstream stream);
// A number under which a graph calls the function at each replay; or once, when no graph has it any
// more.
uint64_t host_ticket(CUhostFn function, void* data, bool at_end = false);
void drop_host_ticket(uint64_t ticket);  // no graph has come to have it

// Memory of the graph that the stream captures into: it keeps its address, and goes with the graph.
CUresult capture_allocation(size_t bytes, CUdeviceptr* out, CUstream stream);
CUresult capture_release(CUdeviceptr pointer, CUstream stream);

void forget_captures();  // the context is gone

}  // namespace carrel::client
