// The client side of CUDA's libraries: arguments become a message, by the rows of wire/library.hpp.
// The exported functions are generated (codegen/library_cpp.py) and call forward(); libcuda.so.1 is
// opened at the first call, so that loading a library costs nothing.
#pragma once
#include <atomic>
#include <cstdint>

#include "wire/bridge.h"
#include "wire/library.hpp"

namespace carrel::forwarders {

// The CUDA major of this client library: one per shared object.
extern const uint32_t kCudaMajor;

// Calls function number `function` with its arguments as words; answers as the function would.
uint64_t forward(const library::LibraryRow& library, uint16_t function, const uint64_t* arguments);

// Named once in the log; returns `result`.
uint64_t unsupported(const char* function, std::atomic<bool>& told, int64_t result);

// Null when there is no session to be had; then the log has said why.
const carrel_bridge* bridge();

}  // namespace carrel::forwarders
