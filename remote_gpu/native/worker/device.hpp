// The device that this worker serves: opened once, described once.
#pragma once
#include <string>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "wire/snapshot.hpp"
#include "worker/options.hpp"

namespace carrel::worker {

struct Device {
    DriverTable driver;
    CUdevice device = 0;
    CUcontext primary = nullptr;
    uint64_t context_bytes = 0;  // device memory that the context itself takes

    // Loads the driver, opens the device and its primary context, and makes that current. Throws
    // std::runtime_error with a message for the node's log.
    explicit Device(const Options& options);
    // Over a table of functions (tests); nothing is opened.
    explicit Device(const DriverTable& table) : driver(table) {}
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    uint64_t measure_context() const;
    wire::Snapshot describe(const Options& options) const;
};

}  // namespace carrel::worker
