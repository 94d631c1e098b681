#include "nvml/monitor.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "carrel_protocol.hpp"
#include "wire/endpoint.hpp"

namespace carrel::nvml {
namespace {

constexpr auto kFresh = std::chrono::milliseconds(100);
constexpr auto kRetry = std::chrono::milliseconds(500);
constexpr auto kFirst = std::chrono::seconds(5);  // as long as the door gives a handshake
constexpr auto kLater = std::chrono::seconds(2);
constexpr uint32_t kMaxText = 64 * 1024;

uint64_t number(const std::string& text) {
    return std::strtoull(text.c_str(), nullptr, 10);
}

}  // namespace

SliceState parse(const std::string& text) {
    SliceState state;
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        at = end + 1;
        const size_t equals = line.find('=');
        if (equals == std::string::npos) continue;
        const std::string key = line.substr(0, equals), value = line.substr(equals + 1);
        if (key == "name")
            state.name = value;
        else if (key == "uuid")
            state.uuid = value;
        else if (key == "pci_bus_id")
            state.pci_bus_id = value;
        else if (key == "driver_version")
            state.driver_version = value;
        else if (key == "cuda_version")
            state.cuda_version = static_cast<int>(number(value));
        else if (key == "multiprocessors")
            state.multiprocessors = static_cast<int>(number(value));
        else if (key == "vram_total_bytes")
            state.total_bytes = number(value);
        else if (key == "vram_used_bytes")
            state.used_bytes = number(value);
        else if (key == "gpu_utilization")
            state.gpu_utilization = unsigned(number(value));
        else if (key == "memory_utilization")
            state.memory_utilization = unsigned(number(value));
        else if (key == "compute_capability") {
            state.capability_major = static_cast<int>(number(value));
            const size_t dot = value.find('.');
            if (dot != std::string::npos)
                state.capability_minor = static_cast<int>(number(value.substr(dot + 1)));
        } else if (key == "busy" && !state.processes.empty()) {
            state.processes.back().gpu_utilization = unsigned(number(value));
        } else if (key.starts_with("nvml.")) {
            state.readings[key.substr(5)] = value;
        } else if (key == "session") {
            char* rest = nullptr;
            Process process;
            process.pid = static_cast<uint32_t>(std::strtoul(value.c_str(), &rest, 10));
            process.used_bytes = std::strtoull(rest, &rest, 10);
            process.name = *rest == ' ' ? rest + 1 : rest;
            state.processes.push_back(std::move(process));
        }
    }
    return state;
}

Monitor& Monitor::instance() {
    static std::atomic<Monitor*> current{nullptr};
    const pid_t self = getpid();
    Monitor* monitor = current.load();
    while (!monitor || monitor->owner_ != self) {
        auto mine = std::unique_ptr<Monitor>(new Monitor(self));
        Monitor* const before = monitor;
        if (!current.compare_exchange_strong(monitor, mine.get())) continue;
        // The parent's is never destroyed, as a thread of the parent may be amidst it; only the
        // descriptor goes. Ours neither: exit handlers may still ask.
        if (before && before->fd_ >= 0) close(before->fd_);
        monitor = mine.release();
    }
    return *monitor;
}

bool Monitor::read(SliceState& state) {
    const std::lock_guard lock(mutex_);
    if (!refresh()) return false;
    state = state_;
    return true;
}

std::string Monitor::error() {
    const std::lock_guard lock(mutex_);
    return error_;
}

bool Monitor::refresh() {
    const auto now = Clock::now();
    if (known_ && now - at_ < kFresh) return true;
    const auto deadline = now + (met_ ? kLater : kFirst);
    known_ = false;
    std::string text;
    for (int attempt = 0; attempt < 2; ++attempt) {
        if (fd_ < 0) {
            if (now - tried_ < kRetry) return false;
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
            const wire::Connection connection = wire::connect(
                wire::Purpose::monitor, wire::Credentials::from_environment(), kProtocolHash, left);
            if (connection.fd < 0) {
                error_ = connection.error;
                break;
            }
            fd_ = connection.fd;
        }
        const Answer answer = ask(text, deadline);
        if (answer == Answer::got) {
            state_ = parse(text);
            known_ = met_ = true;
            at_ = Clock::now();
            error_.clear();
            return true;
        }
        drop();
        error_ = "the GPU node does not answer";
        // A lost connection is made once more, for the node may have been restarted; a node that
        // is silent has had its time.
        if (answer == Answer::late) break;
    }
    tried_ = Clock::now();
    return false;
}

Monitor::Answer Monitor::ask(std::string& text, Clock::time_point deadline) {
    const auto receive = [&](void* data, size_t size) {
        auto* bytes = static_cast<char*>(data);
        while (size > 0) {
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
            pollfd entry{fd_, POLLIN, 0};
            if (left.count() <= 0) return Answer::late;
            const int ready = poll(&entry, 1, static_cast<int>(left.count()));
            if (ready < 0 && errno == EINTR) continue;
            if (ready == 0) return Answer::late;
            if (ready < 0) return Answer::lost;
            const ssize_t n = recv(fd_, bytes, size, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return Answer::lost;
            bytes += n;
            size -= static_cast<size_t>(n);
        }
        return Answer::got;
    };
    uint32_t size = 0;
    if (send(fd_, "?", 1, MSG_NOSIGNAL) != 1) return Answer::lost;
    if (const Answer answer = receive(&size, sizeof size); answer != Answer::got) return answer;
    if (size > kMaxText) return Answer::lost;
    text.resize(size);
    return receive(text.data(), size);
}

void Monitor::drop() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
}

}  // namespace carrel::nvml
