// What all answers of the slice's NVML share: its errors, its one device, the state behind it.
#pragma once
#include <atomic>
#include <initializer_list>
#include <string>
#include <utility>

#include "nvml/monitor.hpp"

#define NVML_EXPORT extern "C" __attribute__((visibility("default")))

namespace carrel::nvml {

enum Return {
    kSuccess = 0,
    kUninitialized = 1,
    kInvalidArgument = 2,
    kNotSupported = 3,
    kNoPermission = 4,
    kNotFound = 6,
    kInsufficientSize = 7,
    kDriverNotLoaded = 9,
    kTimeout = 10,
    kLibraryNotFound = 12,
    kFunctionNotFound = 13,
    kGpuIsLost = 15,
    kMemory = 23,
    kNoData = 24,
    kVersionMismatch = 25,
};

inline std::atomic<int> initialised{0};
inline char device_token;  // its address is the one device's handle

inline bool is_device(const void* device) {
    return device == &device_token;
}

// The slice's state for a call on `device`; kSuccess, or what the call returns.
int state_of(const void* device, SliceState& state);
int any_state(SliceState& state);

int copy_text(const std::string& text, char* out, unsigned length);

// Whether `version` is that of structure number `number` of `size` bytes.
inline bool is_version(unsigned version, size_t size, unsigned number) {
    return version == (size | number << 24);
}

template <class... T>
int constants(const void* device, std::pair<T*, int>... out) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || (!out.first || ...)) return kInvalidArgument;
    ((*out.first = static_cast<T>(out.second)), ...);
    return kSuccess;
}

template <class T>
int constant(const void* device, T* out, T value) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device) || !out) return kInvalidArgument;
    *out = value;
    return kSuccess;
}

// A number among a call's arguments, and how many values it may have.
struct Input {
    unsigned value, limit;
};

// The host's reading of that key: its numbers to `out`, of which there are `count`.
int look_up(const void* device, const std::string& key, long long* out, size_t count);
int look_up(const void* device, const std::string& key, std::string& text);
int key_of(std::string& key, std::initializer_list<Input> inputs);

template <class... T>
int reading(const void* device, const char* name, std::initializer_list<Input> inputs, T*... out) {
    if (initialised.load() <= 0) return kUninitialized;
    std::string key = name;
    if (!is_device(device) || (!out || ...)) return kInvalidArgument;
    if (const int error = key_of(key, inputs)) return error;
    long long values[sizeof...(T)];
    if (const int error = look_up(device, key, values, sizeof...(T))) return error;
    size_t next = 0;
    ((*out = static_cast<T>(values[next++])), ...);
    return kSuccess;
}

// Calls that change a GPU that others use, too, and calls that a slice has no answer to: named
// once in the log.
int refused(const char* name, const void* device, std::atomic<bool>& told);
int unsupported(const char* name, const void* device, std::atomic<bool>& told);

}  // namespace carrel::nvml
