// CARREL_TRACE=summary: calls and round trips per function, printed when the process exits.
#pragma once
#include <atomic>
#include <cstdint>

#include "cuda_calls.hpp"

namespace carrel::client {

struct Counts {
    std::atomic<uint64_t> calls{0};
    std::atomic<uint64_t> trips{0};
};

extern const bool trace_enabled;
Counts& trace_counts(Call call);

// The same for a function of another library; `name` lives as long as the process.
void trace_named(const char* name, bool waits);

inline void trace(Call call, bool waits) {
    if (!trace_enabled) [[likely]]
        return;
    Counts& counts = trace_counts(call);
    counts.calls.fetch_add(1, std::memory_order_relaxed);
    if (waits) counts.trips.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace carrel::client
