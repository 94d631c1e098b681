#include "softgpu/device.hpp"

#include <cstdio>
#include <cstring>

#include "softgpu/context.hpp"
#include "softgpu/pool.hpp"

namespace carrel::softgpu {
namespace {

// Stable for an ordinal and a state directory: FNV-1a, twice, made a version 8 UUID (RFC 9562:
// vendor's own).
CUuuid make_uuid(int ordinal, const std::string& state) {
    const std::string text = "carrel-softgpu " + std::to_string(ordinal) + " " + state;
    CUuuid uuid{};
    for (int half = 0; half < 2; ++half) {
        std::uint64_t hash = 14695981039346656037u + static_cast<std::uint64_t>(half);
        for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
        hash ^= hash >> 29;
        std::memcpy(uuid.bytes + half * 8, &hash, 8);
    }
    uuid.bytes[6] = static_cast<char>((uuid.bytes[6] & 0x0f) | 0x80);
    uuid.bytes[8] = static_cast<char>((uuid.bytes[8] & 0x3f) | 0x80);
    return uuid;
}

constexpr int kPciBusOffset = 0x40;

}  // namespace

Device::Device(int ordinal, const Config& config)
    : default_pool(std::make_shared<MemoryPool>(*this)),
      ordinal_(ordinal),
      config_(config),
      uuid_(make_uuid(ordinal, config.state)),
      account_(std::make_shared<VramAccount>(
          config.state.empty() ? std::string()
                               : config.state + "/gpu-" + std::to_string(ordinal) + ".vram",
          config.vram_bytes)) {
    current_pool = default_pool;
}

Device::~Device() = default;

std::string Device::pci_bus_id() const {
    char text[32];
    std::snprintf(text, sizeof text, "0000:%02X:00.0", kPciBusOffset + ordinal_);
    return text;
}

std::optional<int> Device::attribute(CUdevice_attribute attribute) const {
    using namespace limits;
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            return kBlockThreads;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
            return kBlockX;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
            return kBlockY;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
            return kBlockZ;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
            return kGridX;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
            return kGridY;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
            return kGridZ;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
            return kShared;
        case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
            return 64 << 10;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
            return kWarp;
        case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
            return kPitch;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
            return kRegisters;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
            return config_.null ? static_cast<int>(config_.null->clock_khz) : 1'000'000;
        case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
            return 512;
        case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            return static_cast<int>(config_.multiprocessors);
        case CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT:
            return config_.watchdog_seconds > 0;
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
            return 1;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
            return CU_COMPUTEMODE_DEFAULT;
        case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT:
            return 512;
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
            return 1;
        case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
            return kPciBusOffset + ordinal_;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
            return config_.null ? static_cast<int>(config_.null->memory_khz) : 1'000'000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
            return config_.null ? static_cast<int>(config_.null->bus_bits) : 64;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
            return config_.null ? static_cast<int>(config_.null->l2_bytes) : 4 << 20;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
            return kThreadsMultiprocessor;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
            return 2;
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
            return 1;
        case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
            return 32;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
            return static_cast<int>(config_.cc_major);
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
            return static_cast<int>(config_.cc_minor);
        case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
            return static_cast<int>(shared_multiprocessor());
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
            return kRegisters;
        case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID:
            return ordinal_;
        case CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
            return 2;
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
            return 1;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
            return 1;
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            return static_cast<int>(shared_opt_in());
        case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST:
            return 1;
        case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
            return kBlocksMultiprocessor;
        case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
            return kSharedReserved;
        case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
            return 1;
        case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
            return 1;
        case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT:
            return 1;
        case CU_DEVICE_ATTRIBUTE_NUMA_ID:
            return -1;
        case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
            return -1;
        default:
            // Whatever else exists, the software GPU does not have: textures, clusters, multicast,
            // RDMA …
            if (attribute > 0 && attribute < CU_DEVICE_ATTRIBUTE_MAX) return 0;
            return std::nullopt;
    }
}

}  // namespace carrel::softgpu
