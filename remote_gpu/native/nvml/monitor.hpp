// Reads the slice's state from the node's front door, by the monitor protocol: one byte `?` out,
// u32 length and that many bytes of `key=value` lines back. remote_gpu/monitor.py is its twin.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace carrel::nvml {

struct Process {
    uint32_t pid = 0;
    uint64_t used_bytes = 0;
    std::string name;
    unsigned gpu_utilization = 0;  // percent
};

struct SliceState {
    std::string name, uuid, pci_bus_id, driver_version;
    int cuda_version = 0;
    int multiprocessors = 0;
    int capability_major = 0, capability_minor = 0;
    uint64_t total_bytes = 0, used_bytes = 0;
    unsigned gpu_utilization = 0, memory_utilization = 0;  // percent
    std::vector<Process> processes;
    std::map<std::string, std::string> readings;  // what the host's NVML says: agent/readings.py
};

SliceState parse(const std::string& text);

// One connection, made when first asked, made again after a loss. Thread-safe.
class Monitor {
  public:
    // This process's. After a fork it is a new one: a thread of the parent may have held the old
    // one's mutex, which nobody would ever release in the child.
    static Monitor& instance();

    // The state, at most 100 ms old. False when there is none; error() says why. Takes at most 2 s,
    // and 5 s until there was a first answer.
    bool read(SliceState& state);
    std::string error();

  private:
    using Clock = std::chrono::steady_clock;
    enum class Answer { got, lost, late };

    explicit Monitor(pid_t owner) : owner_(owner) {}
    bool refresh();
    Answer ask(std::string& text, Clock::time_point deadline);
    void drop();

    std::mutex mutex_;
    int fd_ = -1;
    const pid_t owner_;
    bool met_ = false;    // the door has answered before
    bool known_ = false;  // state_ is what it said at at_
    Clock::time_point at_, tried_;
    SliceState state_;
    std::string error_;
};

}  // namespace carrel::nvml
