// Reads the slice's state from the node's front door, by the monitor protocol: one byte `?` out,
// u32 length and that many bytes of `key=value` lines back. remote_gpu/monitor.py is its twin.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace carrel::nvml {

struct Process {
    uint32_t pid = 0;
    uint64_t used_bytes = 0;
    std::string name;
};

struct SliceState {
    std::string name, uuid, pci_bus_id, driver_version;
    int cuda_version = 0;
    int capability_major = 0, capability_minor = 0;
    uint64_t total_bytes = 0, used_bytes = 0;
    unsigned gpu_utilization = 0, memory_utilization = 0;  // percent
    std::vector<Process> processes;
};

SliceState parse(const std::string& text);

// One connection, made when first asked, made again after a fork or a loss. Thread-safe.
class Monitor {
  public:
    static Monitor& instance();

    // The state, at most 100 ms old. False when there is none; error() says why.
    bool read(SliceState& state);
    std::string error();

  private:
    bool refresh();
    bool ask(std::string& text);
    void drop();

    std::mutex mutex_;
    int fd_ = -1;
    pid_t owner_ = 0;
    bool known_ = false;
    std::chrono::steady_clock::time_point at_, tried_;
    SliceState state_;
    std::string error_;
};

}  // namespace carrel::nvml
