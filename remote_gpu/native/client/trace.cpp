#include "client/trace.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace carrel::client {

namespace {

Counts counts[kCallCount];

void print_summary() {
    std::vector<size_t> used;
    uint64_t calls = 0;
    uint64_t trips = 0;
    for (size_t i = 0; i < kCallCount; ++i) {
        if (!counts[i].calls) continue;
        used.push_back(i);
        calls += counts[i].calls;
        trips += counts[i].trips;
    }
    std::sort(used.begin(), used.end(),
              [](size_t a, size_t b) { return counts[a].calls > counts[b].calls; });
    std::fprintf(stderr, "carrel: %12s %12s  function\n", "calls", "round trips");
    for (const size_t i : used) {
        std::fprintf(stderr, "carrel: %12llu %12llu  %s\n",
                     static_cast<unsigned long long>(counts[i].calls.load()),
                     static_cast<unsigned long long>(counts[i].trips.load()), kCallNames[i]);
    }
    std::fprintf(stderr, "carrel: %12llu %12llu  in all\n", static_cast<unsigned long long>(calls),
                 static_cast<unsigned long long>(trips));
}

bool start() {
    const char* wanted = std::getenv("CARREL_TRACE");
    if (!wanted || std::strcmp(wanted, "summary") != 0) return false;
    std::atexit(print_summary);
    return true;
}

}  // namespace

const bool trace_enabled = start();

Counts& trace_counts(Call call) {
    return counts[static_cast<size_t>(call)];
}

}  // namespace carrel::client
