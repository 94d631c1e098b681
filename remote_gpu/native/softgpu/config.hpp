// What the software GPUs of this process look like: parsed from CARREL_SOFTGPU. Knows nothing of
// devices at work.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "softgpu/null_model.hpp"

namespace carrel::softgpu {

/// `CARREL_SOFTGPU=count=2,vram=8GiB,name=…,sms=8,cc=8.0,threads=4,watchdog=600,state=/run/dir`;
/// every key is optional. A null device: `null=1,model=H100,timing=modelled`.
struct Config {
    unsigned count = 1;                             // devices, 1 to 16
    std::size_t vram_bytes = std::size_t{4} << 30;  // of each device
    std::string name = "Carrel Software GPU";
    unsigned multiprocessors = 8;
    unsigned cc_major = 8, cc_minor = 0;
    unsigned host_threads =
        0;  // CPU threads one launch may use; 0: the smaller of cores and multiprocessors
    unsigned watchdog_seconds = 0;   // longest time one kernel may run; 0: any
    const GpuModel* null = nullptr;  // a null device, modelled after this GPU; else it computes
    bool timed = true;               // whether launches on a null device take time
    std::string
        state;  // directory of the accounts shared between processes; empty: private account
};

/// Throws std::invalid_argument with a message for people (key, value, what is allowed).
[[nodiscard]] Config parse_config(std::string_view text);

}  // namespace carrel::softgpu
