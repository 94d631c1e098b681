// Facts about machine code for NVIDIA GPUs (cubins, which are ELF files): what its kernels are
// called and take, and what its variables are. The code itself is not looked at.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace carrel::image {

struct CubinParameter {
    uint32_t offset = 0, size = 0;  // bytes
};

struct CubinKernel {
    std::string name;
    std::vector<CubinParameter> parameters;
    uint32_t parameter_bytes = 0;
    uint32_t registers = 0;     // per thread; 0: not said
    uint64_t shared_bytes = 0;  // per block, static
    uint32_t most_threads = 0;  // per block, as the kernel was declared; 0: not said
};

struct CubinVariable {
    std::string name;
    uint64_t size = 0;                   // bytes
    bool constant = false;               // in constant memory
    std::span<const std::byte> initial;  // in the cubin; empty: zeros
};

struct Cubin {
    std::vector<CubinKernel> kernels;      // by name
    std::vector<CubinVariable> variables;  // in the file's order
};

// nullopt: not a cubin, or malformed. Views into `cubin` are its caller's to keep.
std::optional<Cubin> read_cubin(std::span<const std::byte> cubin);

}  // namespace carrel::image
