// What is known of a kernel on this side: enough to pack its parameters and to refuse impossible
// launches without asking.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda_abi.hpp"
#include "wire/reader.hpp"
#include "wire/snapshot.hpp"

namespace carrel::client {

struct Function {
    std::string symbol;
    uint32_t owner = 0;  // name of its module or library
    uint32_t twin = 0;   // of a kernel: the name of its function, once asked for
    std::vector<wire::ParamInfo> params;
    uint32_t params_size = 0;  // bytes of the packed parameters
    std::array<std::atomic<int>, CU_FUNC_ATTRIBUTE_MAX> attributes{};
    uint32_t known_attributes = 0;  // a bit for each that the driver there has

    int attribute(CUfunction_attribute which) const {
        return attributes[which].load(std::memory_order_relaxed);
    }

    // What the worker answers for a new function.
    void decode(wire::Reader& in);
    void copy_facts(const Function& other);
};

// The live function or kernel behind a handle; null for anything else.
Function* find_function(CUfunction handle);
Function* find_kernel(CUkernel handle);

}  // namespace carrel::client
