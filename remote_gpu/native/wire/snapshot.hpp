// Everything about the slice's device that cannot change: sent once, answered locally afterwards.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::wire {

struct Snapshot {
    std::string session;
    std::string name;
    std::string pci_bus_id;
    std::array<char, 16> uuid{};
    int32_t driver_version = 0;
    uint64_t total_memory = 0;  // bytes of the slice
    double tflops = 0;          // of the slice
    int32_t least_priority = 0;
    int32_t greatest_priority = 0;
    uint32_t context_flags = 0;
    std::vector<std::pair<int32_t, int32_t>> attributes;  // number, value

    void encode(Writer& out) const;
    static Snapshot decode(Reader& in);
};

// One parameter of a kernel.
struct ParamInfo {
    uint32_t offset;
    uint32_t size;
};

}  // namespace carrel::wire
