// Page-locked host memory: plain memory of this process, remembered for pointer queries.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

namespace carrel::client {

struct HostRange {
    uint64_t base;
    size_t size;
    unsigned int flags;
    bool registered;  // by the program, not allocated here
};

std::optional<HostRange> find_host(uint64_t address);

}  // namespace carrel::client
