// What the library exports, by the names that cuGetProcAddress knows.
#pragma once

#include <span>
#include <string_view>

namespace carrel::softgpu {

struct Export {
    std::string_view name;  // without version suffix
    int since;              // CUDA version from which on this variant is meant
    void* address;
    void* per_thread;  // the same on the per-thread default stream
};

[[nodiscard]] std::span<const Export> exports();

}  // namespace carrel::softgpu
