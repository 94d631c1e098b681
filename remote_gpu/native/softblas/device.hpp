// The software GPU below this library: work in stream order, and which memory it may touch.
#pragma once

#include <cstdint>
#include <functional>

#include "softblas/abi.hpp"

namespace carrel::softblas {

/// The program handed over an address outside of device memory; only thrown by queued work.
struct IllegalAddress {
    std::uint64_t address;
    std::uint64_t bytes;
};

/// Throws IllegalAddress unless all of it is device memory. For queued work.
void require_mapped(const void* address, std::uint64_t bytes);
/// `count` elements with gaps: vectors with an increment, matrices with a leading dimension.
template <class T>
void require_vector(const T* address, std::int64_t count, std::int64_t increment) {
    if (count <= 0) return;
    const std::int64_t step = increment < 0 ? -increment : increment;
    require_mapped(address, static_cast<std::uint64_t>((count - 1) * step + 1) * sizeof(T));
}
template <class T>
void require_matrix(const T* address, std::int64_t rows, std::int64_t columns, std::int64_t ld) {
    if (rows <= 0 || columns <= 0) return;
    require_mapped(address, static_cast<std::uint64_t>((columns - 1) * ld + rows) * sizeof(T));
}

/// Queues `work` in the stream under the name of the library's function. What it throws fails the
/// context. Throws Refusal when the stream takes nothing.
void enqueue(cudaStream_t stream, const char* function, std::function<void()> work);
/// Waits for the stream. Throws Refusal when the context has failed.
void synchronize(cudaStream_t stream);
/// Whether the calling thread has a current context.
[[nodiscard]] bool has_context();
[[nodiscard]] unsigned host_threads();

}  // namespace carrel::softblas
