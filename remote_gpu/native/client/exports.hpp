// What cuGetProcAddress chooses from.
#pragma once
#include <span>

namespace carrel::client {

struct Export {
    const char* base;
    int since;  // CUDA version, as 12040
    void* function;
    void* per_thread;  // the same on the per-thread default stream
};

std::span<const Export> exports();

}  // namespace carrel::client
