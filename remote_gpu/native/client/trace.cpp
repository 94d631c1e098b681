#include "client/trace.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

namespace carrel::client {

namespace {

Counts counts[kCallCount];

std::mutex named_mutex;
std::map<std::string_view, Counts>& named() {
    static auto* const all = new std::map<std::string_view, Counts>;  // outlives every user
    return *all;
}

struct Row {
    uint64_t calls;
    uint64_t trips;
    std::string_view name;
};

void print_summary(std::FILE* out) {
    std::vector<Row> used;
    for (size_t i = 0; i < kCallCount; ++i) {
        if (counts[i].calls) used.push_back({counts[i].calls, counts[i].trips, kCallNames[i]});
    }
    {
        const std::lock_guard lock(named_mutex);
        for (const auto& [name, c] : named()) used.push_back({c.calls, c.trips, name});
    }
    uint64_t calls = 0;
    uint64_t trips = 0;
    for (const Row& row : used) {
        calls += row.calls;
        trips += row.trips;
    }
    std::sort(used.begin(), used.end(),
              [](const Row& a, const Row& b) { return a.calls > b.calls; });
    std::fprintf(out, "carrel: %12s %12s  function\n", "calls", "round trips");
    for (const Row& row : used) {
        std::fprintf(out, "carrel: %12llu %12llu  %s\n", static_cast<unsigned long long>(row.calls),
                     static_cast<unsigned long long>(row.trips), row.name.data());
    }
    std::fprintf(out, "carrel: %12llu %12llu  in all\n", static_cast<unsigned long long>(calls),
                 static_cast<unsigned long long>(trips));
}

bool start() {
    const char* wanted = std::getenv("CARREL_TRACE");
    if (!wanted || std::strcmp(wanted, "summary") != 0) return false;
    std::atexit([] { print_summary(stderr); });
    return true;
}

}  // namespace

const bool trace_enabled = start();

Counts& trace_counts(Call call) {
    return counts[static_cast<size_t>(call)];
}

void trace_named(const char* name, bool waits) {
    if (!trace_enabled) return;
    const std::lock_guard lock(named_mutex);
    Counts& c = named()[name];
    c.calls.fetch_add(1, std::memory_order_relaxed);
    if (waits) c.trips.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace carrel::client

// What has been counted so far, written to a descriptor, for programs that measure a part of what
// they do; nothing without CARREL_TRACE=summary.
extern "C" __attribute__((visibility("default"))) void carrel_trace_write(int fd) {
    if (!carrel::client::trace_enabled) return;
    std::FILE* out = fdopen(dup(fd), "w");
    if (!out) return;
    carrel::client::print_summary(out);
    std::fclose(out);
}
