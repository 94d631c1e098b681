// What the host's NVML says of the whole GPU, in NVML's structures and lists; and all that is
// generated from the descriptions.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "nvml/answers.hpp"

using namespace carrel::nvml;

namespace {

struct Bar1 {
    unsigned long long total, free, used;
};
struct TemperatureV1 {
    unsigned version, sensor;
    int degrees;
};
struct DriverBranchV1 {
    unsigned version;
    char branch[80];
};
struct FieldValue {
    unsigned id, scope;
    long long timestamp, latency_us;
    int type, result;
    unsigned long long value;
};
static_assert(sizeof(Bar1) == 24 && sizeof(TemperatureV1) == 12);
static_assert(sizeof(DriverBranchV1) == 84 && sizeof(FieldValue) == 40);

constexpr unsigned kGspVersionLength = 64;  // the caller's buffer, says NVML

int list(const void* device, const std::string& key, unsigned* count, unsigned* out) {
    std::string text;
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !count) return kInvalidArgument;
    if (const int error = look_up(device, key, text)) return error;
    std::vector<unsigned> values;
    for (const char* at = text.c_str();;) {
        char* end = nullptr;
        const unsigned long value = std::strtoul(at, &end, 10);
        if (end == at) break;
        values.push_back(static_cast<unsigned>(value));
        at = end;
    }
    const size_t room = *count;
    *count = static_cast<unsigned>(values.size());
    if (values.size() > room) return kInsufficientSize;
    if (values.empty()) return kSuccess;
    if (!out) return kInvalidArgument;
    std::memcpy(out, values.data(), values.size() * sizeof *out);
    return kSuccess;
}

}  // namespace

NVML_EXPORT int nvmlDeviceGetBAR1MemoryInfo(const void* device, Bar1* out) {
    if (!out) return kInvalidArgument;
    return reading(device, "BAR1MemoryInfo", {}, &out->total, &out->free, &out->used);
}

NVML_EXPORT int nvmlDeviceGetTemperatureV(const void* device, TemperatureV1* out) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    if (!is_version(out->version, sizeof *out, 1)) return kVersionMismatch;
    return reading(device, "Temperature", {{out->sensor, 1}}, &out->degrees);
}

NVML_EXPORT int nvmlDeviceGetSupportedMemoryClocks(const void* device, unsigned* count,
                                                   unsigned* clocks) {
    return list(device, "SupportedMemoryClocks", count, clocks);
}
NVML_EXPORT int nvmlDeviceGetSupportedGraphicsClocks(const void* device, unsigned memory_clock,
                                                     unsigned* count, unsigned* clocks) {
    return list(device, "SupportedGraphicsClocks." + std::to_string(memory_clock), count, clocks);
}

NVML_EXPORT int nvmlDeviceGetVbiosVersion(const void* device, char* version, unsigned length) {
    std::string text;
    if (!version) return kInvalidArgument;
    if (const int error = look_up(device, "VbiosVersion", text)) return error;
    return copy_text(text, version, length);
}
NVML_EXPORT int nvmlDeviceGetGspFirmwareVersion(const void* device, char* version) {
    std::string text;
    if (!version) return kInvalidArgument;
    if (const int error = look_up(device, "GspFirmwareVersion", text)) return error;
    return copy_text(text, version, kGspVersionLength);
}
NVML_EXPORT int nvmlSystemGetDriverBranch(DriverBranchV1* info, unsigned length) {
    std::string text;
    if (initialised.load() <= 0) return kUninitialized;
    if (!info) return kInvalidArgument;
    if (!is_version(info->version, sizeof *info, 1)) return kVersionMismatch;
    if (const int error = look_up(&device_token, "DriverBranch", text)) return error;
    return copy_text(text, info->branch, std::min<unsigned>(length, sizeof info->branch));
}

// Each field answers for itself: with the host's value and its type, or not supported.
NVML_EXPORT int nvmlDeviceGetFieldValues(const void* device, int count, FieldValue* values) {
    SliceState state;
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || count < 0 || (count && !values)) return kInvalidArgument;
    if (const int error = state_of(device, state)) return error;
    for (FieldValue* field = values; field != values + count; ++field) {
        const auto found = state.readings.find("Field." + std::to_string(field->id));
        field->result = kNotSupported;
        if (found == state.readings.end()) continue;
        char* end = nullptr;
        field->type = static_cast<int>(std::strtol(found->second.c_str(), &end, 10));
        field->value = std::strtoull(end, nullptr, 10);
        field->timestamp = field->latency_us = 0;  // of the host: unknown here
        field->result = kSuccess;
    }
    return kSuccess;
}

#include "nvml_calls.inc"
