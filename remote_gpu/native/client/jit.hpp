// Compiler options of modules, libraries and link jobs: how they travel, and how their outputs
// (logs, times) come back into the program's buffers.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda_abi.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::client {

class JitOptions {
  public:
    JitOptions() = default;
    // The arrays must live as long as outputs may arrive.
    JitOptions(unsigned int count, CUjit_option* options, void** values)
        : count_(options && values ? count : 0), options_(options), values_(values) {}

    CUresult check() const;
    void encode(wire::Writer& out) const;
    // Fills the program's buffers with what the worker's compiler said.
    void decode(wire::Reader& in) const;

  private:
    void fill(CUjit_option buffer, CUjit_option size, std::span<const std::byte> log) const;

    unsigned int count_ = 0;
    CUjit_option* options_ = nullptr;
    void** values_ = nullptr;
};

}  // namespace carrel::client
