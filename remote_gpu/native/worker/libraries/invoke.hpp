// Calls functions of loaded libraries. The generated code knows the shapes of all that are
// described: which arguments are words, floating point or structs.
#pragma once
#include <cstdint>

#include "wire/library.hpp"

namespace carrel::worker {

// `arguments` as words; structs by value are pointed to.
uint64_t invoke_shape(uint16_t shape, void* function, const uint64_t* arguments);

}  // namespace carrel::worker
