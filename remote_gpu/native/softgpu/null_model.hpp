// The null device: it keeps memory, copies and order as every software GPU does, accepts machine
// code, and computes nothing. What a launch takes is modelled after a GPU, so that programs can be
// measured on the road to a GPU that is not there. No figure of it is one of that GPU.
//
// The model is a roofline. A kernel's own code is not looked at: it is taken to move a few bytes
// per thread. A library's product is known by its shape: flops and bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include "softgpu/host_work.h"

namespace carrel::softgpu {

/// A GPU's shape and peaks, from its data sheet; operations and bytes per second.
struct GpuModel {
    std::string_view name;
    unsigned cc_major, cc_minor;
    unsigned multiprocessors;
    double tflops;       // dense FP16 on tensor cores: what slices are sold by
    double fp32_tflops;  // without tensor cores
    double fp64_tflops;  // on tensor cores
    double bytes_per_s;  // of device memory
    unsigned clock_khz;
    unsigned memory_khz;
    unsigned bus_bits;
    unsigned l2_bytes;
    unsigned shared_opt_in;          // bytes per block
    unsigned shared_multiprocessor;  // bytes
};

/// nullptr: no such model.
[[nodiscard]] const GpuModel* find_model(std::string_view name);
/// For messages: "H100, A100".
[[nodiscard]] std::string_view model_names();

/// What a kernel of so many threads takes.
[[nodiscard]] std::chrono::nanoseconds kernel_time(const GpuModel& model, std::uint64_t threads);
/// What a library's kernel takes.
[[nodiscard]] std::chrono::nanoseconds work_time(const GpuModel& model,
                                                 const CarrelModelledWork& work);

}  // namespace carrel::softgpu
