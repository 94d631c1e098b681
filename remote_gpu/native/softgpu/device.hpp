// One software GPU: its shape and what it answers to questions about itself. Its work is done by
// contexts.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "cuda_abi.hpp"
#include "softgpu/config.hpp"
#include "softgpu/vram_account.hpp"

namespace carrel::softgpu {

class Context;
struct MemoryPool;

/// Limits of the compute capability 8.0 that every software GPU has, whatever number it reports.
namespace limits {
inline constexpr unsigned kBlockThreads = 1024;
inline constexpr unsigned kBlockX = 1024, kBlockY = 1024, kBlockZ = 64;
inline constexpr unsigned kGridX = 0x7fffffff, kGridY = 65535, kGridZ = 65535;
inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kShared = 48 << 10;  // bytes per block unless a kernel asks for more
inline constexpr unsigned kSharedReserved = 1 << 10;  // bytes per block that the system takes
inline constexpr unsigned kRegisters = 65536;         // per block and per multiprocessor
inline constexpr unsigned kThreadsMultiprocessor = 2048;
inline constexpr unsigned kBlocksMultiprocessor = 32;
inline constexpr unsigned kPitch = 0x7fffffff;
inline constexpr unsigned kParameterBytes = 32764;  // per launch
}  // namespace limits

class Device {
  public:
    Device(int ordinal, const Config& config);
    ~Device();

    [[nodiscard]] int ordinal() const { return ordinal_; }
    [[nodiscard]] const Config& config() const { return config_; }
    [[nodiscard]] const CUuuid& uuid() const { return uuid_; }
    [[nodiscard]] std::string pci_bus_id() const;
    [[nodiscard]] VramAccount& account() const { return *account_; }
    [[nodiscard]] const std::shared_ptr<VramAccount>& shared_account() const { return account_; }
    [[nodiscard]] unsigned compute_capability() const {
        return config_.cc_major * 10 + config_.cc_minor;
    }
    /// Shared memory, in bytes: per block at most, and of a multiprocessor.
    [[nodiscard]] unsigned shared_opt_in() const {
        return config_.null ? config_.null->shared_opt_in : 163 << 10;
    }
    [[nodiscard]] unsigned shared_multiprocessor() const {
        return config_.null ? config_.null->shared_multiprocessor : 164 << 10;
    }
    /// nullopt: no such attribute.
    [[nodiscard]] std::optional<int> attribute(CUdevice_attribute attribute) const;

    /// The primary context: made at the first use, kept for ever, active while retained.
    struct Primary {
        std::mutex mutex;
        std::shared_ptr<Context> context;
        unsigned retained = 0;
        unsigned flags = 0;
    };
    Primary primary;
    /// The pool of cuMemAllocAsync; the default one until cuDeviceSetMemPool.
    std::mutex pool_mutex;
    std::shared_ptr<MemoryPool> default_pool, current_pool;

  private:
    const int ordinal_;
    const Config config_;
    CUuuid uuid_;
    std::shared_ptr<VramAccount> account_;
};

}  // namespace carrel::softgpu
