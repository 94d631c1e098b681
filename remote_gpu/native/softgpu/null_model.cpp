#include "softgpu/null_model.hpp"

#include <algorithm>

namespace carrel::softgpu {
namespace {

// NVIDIA H100 Tensor Core GPU data sheet (SXM5) and NVIDIA A100 80GB data sheet (SXM4).
constexpr GpuModel kModels[] = {
    {"H100", 9, 0, 132, 989, 67, 67, 3.35e12, 1'980'000, 2'619'000, 5120, 50u << 20, 227u << 10,
     228u << 10},
    {"A100", 8, 0, 108, 312, 19.5, 19.5, 2.039e12, 1'410'000, 1'593'000, 5120, 40u << 20,
     163u << 10, 164u << 10},
};

// From one kernel's start to the next one's in a busy stream.
constexpr double kFloorNs = 2000;
// Two operands read and one written, of four bytes each, rounded up for what else kernels touch.
constexpr double kBytesPerThread = 16;

}  // namespace

const GpuModel* find_model(std::string_view name) {
    const auto* const found =
        std::ranges::find_if(kModels, [&](const GpuModel& model) { return model.name == name; });
    return found == std::end(kModels) ? nullptr : found;
}

std::string_view model_names() {
    return "H100, A100";
}

std::chrono::nanoseconds kernel_time(const GpuModel& model, std::uint64_t threads) {
    const double moved = static_cast<double>(threads) * kBytesPerThread / model.bytes_per_s * 1e9;
    return std::chrono::nanoseconds(static_cast<std::int64_t>(kFloorNs + moved));
}

std::chrono::nanoseconds work_time(const GpuModel& model, const CarrelModelledWork& work) {
    const double tflops = work.unit == CARREL_UNIT_TENSOR ? model.tflops
                          : work.unit == CARREL_UNIT_FP64 ? model.fp64_tflops
                                                          : model.fp32_tflops;
    const double longer =
        std::max(work.operations / (tflops * 1e12), work.bytes / model.bytes_per_s);
    return std::chrono::nanoseconds(static_cast<std::int64_t>(kFloorNs + longer * 1e9));
}

}  // namespace carrel::softgpu
