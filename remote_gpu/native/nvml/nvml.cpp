// libnvidia-ml.so.1: exactly one device, the slice. Structs and numbers are NVML's ABI. Clocks,
// power and what else only the whole GPU has: readings.cpp.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "nvml/answers.hpp"

namespace carrel::nvml {
namespace {

struct Memory {
    unsigned long long total, free, used;
};
struct MemoryV2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct Utilization {
    unsigned gpu, memory;
};
struct ProcessV1 {
    unsigned pid;
    unsigned long long used;
};
struct ProcessV2 {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};
struct PciInfo {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
static_assert(sizeof(Memory) == 24 && sizeof(MemoryV2) == 40 && sizeof(PciInfo) == 68);
static_assert(sizeof(ProcessV1) == 16 && sizeof(ProcessV2) == 24);

void tell_once(const std::string& message) {
    static std::atomic<bool> told{false};
    if (!told.exchange(true)) std::fprintf(stderr, "carrel: no GPU: %s\n", message.c_str());
}

int init() {
    SliceState state;
    if (!Monitor::instance().read(state)) {
        tell_once(Monitor::instance().error());
        return kDriverNotLoaded;
    }
    ++initialised;
    return kSuccess;
}

int device_handle(void** device) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!device) return kInvalidArgument;
    *device = &device_token;
    return kSuccess;
}

struct BusId {
    unsigned domain = 0, bus = 0, device = 0;
    bool operator==(const BusId&) const = default;
};

// NVML writes eight digits of domain, CUDA four, people often none, and all mean the same.
bool parse(const char* text, BusId& id) {
    if (std::sscanf(text, "%x:%x:%x", &id.domain, &id.bus, &id.device) == 3) return true;
    id.domain = 0;
    return std::sscanf(text, "%x:%x", &id.bus, &id.device) == 2;
}

int pci_info(const void* device, void* out, bool with_long_id) {
    SliceState state;
    BusId id;
    if (!out) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    if (!parse(state.pci_bus_id.c_str(), id)) return kNotSupported;
    PciInfo info{};
    info.domain = id.domain;
    info.bus = id.bus;
    info.device = id.device;
    std::snprintf(info.bus_id_legacy, sizeof info.bus_id_legacy, "%04X:%02X:%02X.0",
                  id.domain & 0xFFFF, id.bus & 0xFF, id.device & 0xFF);
    std::snprintf(info.bus_id, sizeof info.bus_id, "%08X:%02X:%02X.0", id.domain, id.bus & 0xFF,
                  id.device & 0xFF);
    std::memcpy(out, &info, with_long_id ? sizeof info : offsetof(PciInfo, bus_id));
    return kSuccess;
}

template <class P>
int processes(const void* device, unsigned* count, P* out) {
    SliceState state;
    if (!count) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    const auto found = static_cast<unsigned>(state.processes.size());
    const unsigned room = *count;
    *count = found;
    if (found > room || (found && !out)) return found ? kInsufficientSize : kSuccess;
    for (unsigned i = 0; i < found; ++i) {
        out[i] = P{};
        out[i].pid = state.processes[i].pid;
        out[i].used = state.processes[i].used_bytes;
        if constexpr (requires { out[i].gpu_instance; })
            out[i].gpu_instance = out[i].compute_instance = 0xFFFFFFFF;  // no MIG
    }
    return kSuccess;
}

int no_processes(const void* device, unsigned* count) {
    return constant(device, count, 0u);
}

}  // namespace
}  // namespace carrel::nvml

using namespace carrel::nvml;

NVML_EXPORT int nvmlInit() {
    return init();
}
NVML_EXPORT int nvmlInit_v2() {
    return init();
}
NVML_EXPORT int nvmlInitWithFlags(unsigned) {
    return init();
}
NVML_EXPORT int nvmlShutdown() {
    if (initialised.load() <= 0) return kUninitialized;
    --initialised;
    return kSuccess;
}

NVML_EXPORT const char* nvmlErrorString(int result) {
    switch (result) {
        case kSuccess:
            return "Success";
        case kUninitialized:
            return "NVML was not initialized";
        case kInvalidArgument:
            return "Invalid argument";
        case kNotSupported:
            return "Not supported on a slice";
        case kNoPermission:
            return "No permission";
        case kNotFound:
            return "Not found";
        case kInsufficientSize:
            return "The buffer is too small";
        case kDriverNotLoaded:
            return "No slice, or the GPU node cannot be reached";
        case kTimeout:
            return "Time limit exceeded";
        case kLibraryNotFound:
            return "The NVML library was not found";
        case kFunctionNotFound:
            return "The NVML library lacks this function";
        case kGpuIsLost:
            return "The GPU node does not answer";
        case kMemory:
            return "Not enough memory";
        case kNoData:
            return "No data";
        case kVersionMismatch:
            return "The structure has a version that this function does not know";
        default:
            return "Unknown error";
    }
}

NVML_EXPORT int nvmlSystemGetDriverVersion(char* version, unsigned length) {
    SliceState state;
    if (const int error = any_state(state)) return error;
    return copy_text(state.driver_version, version, length);
}
NVML_EXPORT int nvmlSystemGetNVMLVersion(char* version, unsigned length) {
    SliceState state;
    if (const int error = any_state(state)) return error;
    return copy_text("13." + state.driver_version, version, length);
}
NVML_EXPORT int nvmlSystemGetCudaDriverVersion_v2(int* version) {
    SliceState state;
    if (!version) return kInvalidArgument;
    if (const int error = any_state(state)) return error;
    *version = state.cuda_version;
    return kSuccess;
}
NVML_EXPORT int nvmlSystemGetCudaDriverVersion(int* version) {
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

NVML_EXPORT int nvmlSystemGetProcessName(unsigned pid, char* name, unsigned length) {
    SliceState state;
    if (const int error = any_state(state)) return error;
    std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
    std::string line{std::istreambuf_iterator<char>(file), {}};
    line = line.c_str();  // the program alone
    if (line.empty())
        for (const Process& process : state.processes)
            if (process.pid == pid) line = process.name;
    if (line.empty()) return kNotFound;
    if (length > 0 && line.size() >= length) line.resize(length - 1);
    return copy_text(line, name, length);
}

NVML_EXPORT int nvmlUnitGetCount(unsigned* count) {
    return constant(&device_token, count, 0u);
}

NVML_EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
    return constant(&device_token, count, 1u);
}
NVML_EXPORT int nvmlDeviceGetCount(unsigned* count) {
    return nvmlDeviceGetCount_v2(count);
}

NVML_EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
    return index == 0 ? device_handle(device) : int{kInvalidArgument};
}
NVML_EXPORT int nvmlDeviceGetHandleByIndex(unsigned index, void** device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}
NVML_EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    SliceState state;
    if (!uuid) return kInvalidArgument;
    if (const int error = any_state(state)) return error;
    return state.uuid == uuid ? device_handle(device) : int{kNotFound};
}
NVML_EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
    SliceState state;
    if (!id) return kInvalidArgument;
    if (const int error = any_state(state)) return error;
    BusId asked, ours;
    if (!parse(id, asked)) return kInvalidArgument;
    return parse(state.pci_bus_id.c_str(), ours) && asked == ours ? device_handle(device)
                                                                  : int{kNotFound};
}
NVML_EXPORT int nvmlDeviceGetHandleByPciBusId(const char* id, void** device) {
    return nvmlDeviceGetHandleByPciBusId_v2(id, device);
}

NVML_EXPORT int nvmlDeviceGetName(const void* device, char* name, unsigned length) {
    SliceState state;
    if (const int error = state_of(device, state)) return error;
    return copy_text(state.name, name, length);
}
NVML_EXPORT int nvmlDeviceGetUUID(const void* device, char* uuid, unsigned length) {
    SliceState state;
    if (const int error = state_of(device, state)) return error;
    return copy_text(state.uuid, uuid, length);
}
NVML_EXPORT int nvmlDeviceGetIndex(const void* device, unsigned* index) {
    return constant(device, index, 0u);
}
NVML_EXPORT int nvmlDeviceGetBrand(const void* device, int* brand) {
    return constant(device, brand, 0);  // unknown
}

NVML_EXPORT int nvmlDeviceGetCudaComputeCapability(const void* device, int* major, int* minor) {
    SliceState state;
    if (!major || !minor) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    *major = state.capability_major;
    *minor = state.capability_minor;
    return kSuccess;
}
NVML_EXPORT int nvmlDeviceGetArchitecture(const void* device, unsigned* architecture) {
    SliceState state;
    if (!architecture) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    const int capability = state.capability_major * 10 + state.capability_minor;
    *architecture = capability >= 100  ? 10  // Blackwell
                    : capability >= 90 ? 9   // Hopper
                    : capability == 89 ? 8   // Ada
                    : capability >= 80 ? 7   // Ampere
                    : capability >= 75 ? 6   // Turing
                    : capability >= 70 ? 5   // Volta
                                       : 0xFFFFFFFF;
    return kSuccess;
}

// Those of a whole multiprocessor of that capability (CUDA programming guide, arithmetic units for
// 32-bit floating point) times the multiprocessors; a software GPU counts as what it stands in for.
NVML_EXPORT int nvmlDeviceGetNumGpuCores(const void* device, unsigned* cores) {
    SliceState state;
    if (!cores) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    if (state.multiprocessors <= 0 || state.capability_major < 7) return kNotSupported;
    const bool half =
        state.capability_major == 7 || (state.capability_major == 8 && state.capability_minor == 0);
    *cores = static_cast<unsigned>(state.multiprocessors) * (half ? 64 : 128);
    return kSuccess;
}

NVML_EXPORT int nvmlDeviceGetPciInfo_v3(const void* device, void* pci) {
    return pci_info(device, pci, true);
}
NVML_EXPORT int nvmlDeviceGetPciInfo_v2(const void* device, void* pci) {
    return pci_info(device, pci, false);
}
NVML_EXPORT int nvmlDeviceGetPciInfo(const void* device, void* pci) {
    return pci_info(device, pci, false);
}

NVML_EXPORT int nvmlDeviceGetMemoryInfo(const void* device, Memory* memory) {
    SliceState state;
    if (!memory) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    const uint64_t used = std::min(state.used_bytes, state.total_bytes);
    *memory = {state.total_bytes, state.total_bytes - used, used};
    return kSuccess;
}
NVML_EXPORT int nvmlDeviceGetMemoryInfo_v2(const void* device, MemoryV2* memory) {
    Memory plain{};
    if (!memory) return kInvalidArgument;
    if (!is_version(memory->version, sizeof *memory, 2)) return kVersionMismatch;
    if (const int error = nvmlDeviceGetMemoryInfo(device, &plain)) return error;
    *memory = {memory->version, plain.total, 0, plain.free, plain.used};
    return kSuccess;
}
NVML_EXPORT int nvmlDeviceGetUtilizationRates(const void* device, Utilization* utilization) {
    SliceState state;
    if (!utilization) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    *utilization = {state.gpu_utilization, state.memory_utilization};
    return kSuccess;
}

NVML_EXPORT int nvmlDeviceGetComputeMode(const void* device, int* mode) {
    return constant(device, mode, 0);  // default: several processes
}
NVML_EXPORT int nvmlDeviceGetDisplayMode(const void* device, int* mode) {
    return constant(device, mode, 0);
}
NVML_EXPORT int nvmlDeviceGetDisplayActive(const void* device, int* active) {
    return constant(device, active, 0);
}
NVML_EXPORT int nvmlDeviceGetComputeRunningProcesses(const void* device, unsigned* count,
                                                     ProcessV1* infos) {
    return processes(device, count, infos);
}
NVML_EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(const void* device, unsigned* count,
                                                        ProcessV2* infos) {
    return processes(device, count, infos);
}
NVML_EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(const void* device, unsigned* count,
                                                        ProcessV2* infos) {
    return processes(device, count, infos);
}
NVML_EXPORT int nvmlDeviceGetGraphicsRunningProcesses(const void* device, unsigned* count, void*) {
    return no_processes(device, count);
}
NVML_EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v2(const void* device, unsigned* count,
                                                         void*) {
    return no_processes(device, count);
}
NVML_EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(const void* device, unsigned* count,
                                                         void*) {
    return no_processes(device, count);
}
NVML_EXPORT int nvmlDeviceGetMPSComputeRunningProcesses(const void* device, unsigned* count,
                                                        void*) {
    return no_processes(device, count);
}
NVML_EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v2(const void* device, unsigned* count,
                                                           void*) {
    return no_processes(device, count);
}
NVML_EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(const void* device, unsigned* count,
                                                           void*) {
    return no_processes(device, count);
}
