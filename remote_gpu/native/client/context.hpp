// Contexts and which of them is current in a thread. All of it is local; calls carry the name of
// the current context with them.
#pragma once
#include <cstdint>

#include "cuda_abi.hpp"

namespace carrel::client {

struct Context {
    uint32_t wire = 0;  // the name that travels
    CUcontext handle = nullptr;
    unsigned int flags = 0;
    unsigned long long id = 0;
    bool primary = false;
};

Context* primary_context();
// The live context behind a handle; null for anything else.
Context* find_context(CUcontext handle);
// Null when the calling thread has none.
Context* current_context();
inline uint32_t current_context_name() {
    const Context* context = current_context();
    return context ? context->wire : 0;
}

}  // namespace carrel::client
