// The slice in NVML's newer structures, its place among devices (it is alone), and events (none
// ever comes).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include "nvml/answers.hpp"

using namespace carrel::nvml;

NVML_EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, void** device);
NVML_EXPORT int nvmlDeviceGetPciInfo_v3(const void* device, void* pci);

namespace {

constexpr unsigned kNone = 0xFFFFFFFF;  // no MIG

struct PciInfo {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
struct PciInfoExtV1 {
    unsigned version, domain, bus, device, device_id, subsystem_id, base_class, sub_class;
    char bus_id[32];
};
struct Uuid {
    unsigned version, type;
    union {
        char text[41];
        unsigned char bytes[16];
    } value;
};
struct ProcessDetail {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
    unsigned long long used_protected;
};
struct ProcessDetailList {
    unsigned version, mode, count;
    ProcessDetail* processes;
};
struct ProcessSample {
    unsigned pid;
    unsigned long long timestamp_us;
    unsigned sm, memory, encoder, decoder;
};
struct ProcessSampleV1 {
    unsigned long long timestamp_us;
    unsigned pid, sm, memory, encoder, decoder, jpeg, optical_flow;
};
struct ProcessSamples {
    unsigned version, count;
    unsigned long long last_seen_us;
    ProcessSampleV1* samples;
};
struct Three {
    unsigned values[3];
};
struct GpmSupport {
    unsigned version, supported;
};
static_assert(sizeof(PciInfoExtV1) == 64 && sizeof(Uuid) == 52);
static_assert(sizeof(ProcessSample) == 32 && sizeof(ProcessSampleV1) == 40);
static_assert(sizeof(ProcessSamples) == 24);
static_assert(sizeof(ProcessDetail) == 32 && sizeof(ProcessDetailList) == 24);

struct EventSets {
    std::mutex mutex;
    std::set<void*> live;

    bool has(void* set) {
        const std::lock_guard lock(mutex);
        return live.contains(set);
    }
};
EventSets& event_sets() {
    static auto& sets = *new EventSets;  // exit handlers may still ask
    return sets;
}

int two_devices(const void* one, const void* other, const void* out) {
    if (initialised.load() <= 0) return kUninitialized;
    return is_device(one) && is_device(other) && out ? kSuccess : kInvalidArgument;
}

int system_count(unsigned* count) {
    return constant(&device_token, count, 0u);
}

// There are no units and no excluded devices, so no handle and no index of one is valid.
int nothing_there() {
    return initialised.load() > 0 ? kInvalidArgument : kUninitialized;
}

// The slice's processes over the last second, each told by `put(index, process, time)`.
template <class Put>
int process_samples(const void* device, unsigned long long last_seen_us, bool room, unsigned* count,
                    Put put) {
    SliceState state;
    if (const int error = state_of(device, state)) return error;
    const auto now =
        static_cast<unsigned long long>(std::chrono::duration_cast<std::chrono::microseconds>(
                                            std::chrono::system_clock::now().time_since_epoch())
                                            .count());
    const auto found = static_cast<unsigned>(state.processes.size());
    if (!found || now <= last_seen_us) return kNotFound;
    const unsigned capacity = room ? *count : 0;
    *count = found;
    if (found > capacity) return kInsufficientSize;
    for (unsigned i = 0; i < found; ++i) put(i, state.processes[i], now);
    return kSuccess;
}

int wait_for_event(void* set, const void* data, unsigned timeout_ms) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!data || !event_sets().has(set)) return kInvalidArgument;
    std::this_thread::sleep_for(std::chrono::milliseconds(timeout_ms));
    return kTimeout;
}

}  // namespace

// No serial number is shown, so none finds a device.
NVML_EXPORT int nvmlDeviceGetHandleBySerial(const char* serial, void** device) {
    if (initialised.load() <= 0) return kUninitialized;
    return serial && device ? kNotFound : kInvalidArgument;
}

NVML_EXPORT int nvmlDeviceGetHandleByUUIDV(const Uuid* uuid, void** device) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!uuid || !device) return kInvalidArgument;
    if (!is_version(uuid->version, sizeof *uuid, 1)) return kVersionMismatch;
    char text[42] = "";
    if (uuid->type == 1) {
        std::memcpy(text, uuid->value.text, sizeof uuid->value.text);
    } else if (uuid->type == 2) {
        size_t at = std::strlen(std::strcpy(text, "GPU-"));
        for (unsigned i = 0; i < 16; ++i) {
            if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
            std::snprintf(text + at, 3, "%02x", uuid->value.bytes[i]);
            at += 2;
        }
    } else {
        return kInvalidArgument;
    }
    return nvmlDeviceGetHandleByUUID(text, device);
}

NVML_EXPORT int nvmlDeviceGetPciInfoExt(const void* device, PciInfoExtV1* out) {
    PciInfo info;
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    if (!is_version(out->version, sizeof *out, 1)) return kVersionMismatch;
    if (const int error = nvmlDeviceGetPciInfo_v3(device, &info)) return error;
    *out = {out->version,
            info.domain,
            info.bus,
            info.device,
            info.device_id,
            info.subsystem_id,
            3,  // a display controller,
            2,  // with compute alone
            {}};
    std::memcpy(out->bus_id, info.bus_id, sizeof out->bus_id);
    return kSuccess;
}

// Modes: 0 compute, 1 graphics, 2 MPS.
NVML_EXPORT int nvmlDeviceGetRunningProcessDetailList(const void* device, ProcessDetailList* out) {
    SliceState state;
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    if (!is_version(out->version, sizeof *out, 1)) return kVersionMismatch;
    if (out->mode > 2) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    const auto found = out->mode == 0 ? static_cast<unsigned>(state.processes.size()) : 0u;
    const unsigned room = out->processes ? out->count : 0;
    out->count = found;
    if (found > room) return kInsufficientSize;
    for (unsigned i = 0; i < found; ++i)
        out->processes[i] = {state.processes[i].pid, state.processes[i].used_bytes, kNone, kNone,
                             0};
    return kSuccess;
}

// What of the memory's bandwidth a process uses is not measured, and video's engines do not serve
// slices: both are told as none.
NVML_EXPORT int nvmlDeviceGetProcessUtilization(const void* device, ProcessSample* samples,
                                                unsigned* count, unsigned long long last_seen_us) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !count) return kInvalidArgument;
    return process_samples(device, last_seen_us, samples != nullptr, count,
                           [&](unsigned i, const Process& process, unsigned long long now) {
                               samples[i] = {process.pid, now, process.gpu_utilization, 0, 0, 0};
                           });
}
NVML_EXPORT int nvmlDeviceGetProcessesUtilizationInfo(const void* device, ProcessSamples* out) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    if (!is_version(out->version, sizeof *out, 1)) return kVersionMismatch;
    return process_samples(device, out->last_seen_us, out->samples != nullptr, &out->count,
                           [&](unsigned i, const Process& process, unsigned long long now) {
                               out->samples[i] = {
                                   now, process.pid, process.gpu_utilization, 0, 0, 0, 0, 0};
                           });
}

NVML_EXPORT int nvmlDeviceGetFBCStats(const void* device, Three* out) {
    return constant(device, out, Three{});
}

NVML_EXPORT int nvmlGpmQueryDeviceSupport(const void* device, GpmSupport* out) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    if (out->version != 1) return kVersionMismatch;
    out->supported = 0;
    return kSuccess;
}

NVML_EXPORT int nvmlDeviceGetTopologyCommonAncestor(const void* one, const void* other, int* path) {
    if (const int error = two_devices(one, other, path)) return error;
    *path = 0;  // the same device
    return kSuccess;
}
NVML_EXPORT int nvmlDeviceGetTopologyNearestGpus(const void* device, unsigned, unsigned* count,
                                                 void**) {
    return constant(device, count, 0u);
}
NVML_EXPORT int nvmlDeviceOnSameBoard(const void* one, const void* other, int* same) {
    if (const int error = two_devices(one, other, same)) return error;
    *same = 1;
    return kSuccess;
}

NVML_EXPORT int nvmlSystemGetHicVersion(unsigned* count, void*) {
    return system_count(count);
}
NVML_EXPORT int nvmlGetExcludedDeviceCount(unsigned* count) {
    return system_count(count);
}
NVML_EXPORT int nvmlGetExcludedDeviceInfoByIndex() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetHandleByIndex() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetUnitInfo() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetLedState() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetPsuInfo() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetTemperature() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetFanSpeedInfo() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitGetDevices() {
    return nothing_there();
}
NVML_EXPORT int nvmlUnitSetLedState() {
    return nothing_there();
}

NVML_EXPORT int nvmlDeviceGetSupportedEventTypes(const void* device, unsigned long long* types) {
    return constant(device, types, 0ull);
}
NVML_EXPORT int nvmlEventSetCreate(void** set) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!set) return kInvalidArgument;
    EventSets& sets = event_sets();
    const std::lock_guard lock(sets.mutex);
    sets.live.insert(*set = new char);
    return kSuccess;
}
NVML_EXPORT int nvmlDeviceRegisterEvents(const void* device, unsigned long long types, void* set) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !event_sets().has(set)) return kInvalidArgument;
    return types ? kNotSupported : kSuccess;
}
NVML_EXPORT int nvmlEventSetWait_v2(void* set, void* data, unsigned timeout_ms) {
    return wait_for_event(set, data, timeout_ms);
}
NVML_EXPORT int nvmlEventSetWait(void* set, void* data, unsigned timeout_ms) {
    return wait_for_event(set, data, timeout_ms);
}
NVML_EXPORT int nvmlEventSetFree(void* set) {
    if (initialised.load() <= 0) return kUninitialized;
    EventSets& sets = event_sets();
    const std::lock_guard lock(sets.mutex);
    if (sets.live.erase(set) == 0) return kInvalidArgument;
    delete static_cast<char*>(set);
    return kSuccess;
}
