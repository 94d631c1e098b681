#include "nvml/answers.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace carrel::nvml {
namespace {

int answer(const char* name, const void* device, std::atomic<bool>& told, int result) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device)) return kInvalidArgument;
    const char* level = std::getenv("CARREL_LOG");
    const bool verbose = level && (!std::strcmp(level, "info") || !std::strcmp(level, "debug"));
    if (!told.exchange(true) && verbose)
        std::fprintf(stderr, "carrel: %s is not %s on a slice\n", name,
                     result == kNoPermission ? "allowed" : "supported");
    return result;
}

}  // namespace

int state_of(const void* device, SliceState& state) {
    if (initialised.load() <= 0) return kUninitialized;
    if (!is_device(device)) return kInvalidArgument;
    return Monitor::instance().read(state) ? kSuccess : kGpuIsLost;
}

int any_state(SliceState& state) {
    if (initialised.load() <= 0) return kUninitialized;
    return Monitor::instance().read(state) ? kSuccess : kGpuIsLost;
}

int copy_text(const std::string& text, char* out, unsigned length) {
    if (!out) return kInvalidArgument;
    if (text.size() + 1 > length) return kInsufficientSize;
    std::memcpy(out, text.c_str(), text.size() + 1);
    return kSuccess;
}

int key_of(std::string& key, std::initializer_list<Input> inputs) {
    for (const Input& input : inputs) {
        if (input.value >= input.limit) return kInvalidArgument;
        key += '.' + std::to_string(input.value);
    }
    return kSuccess;
}

int look_up(const void* device, const std::string& key, std::string& text) {
    SliceState state;
    if (const int error = state_of(device, state)) return error;
    const auto found = state.readings.find(key);
    if (found == state.readings.end()) return kNotSupported;
    text = found->second;
    return kSuccess;
}

int look_up(const void* device, const std::string& key, long long* out, size_t count) {
    std::string text;
    if (const int error = look_up(device, key, text)) return error;
    const char* at = text.c_str();
    for (size_t i = 0; i < count; ++i) {
        char* end = nullptr;
        // Masks use all 64 bits, offsets have a sign: strtoull takes both.
        out[i] = static_cast<long long>(std::strtoull(at, &end, 10));
        if (end == at) return kNotSupported;  // the host's NVML says less than ours asks
        at = end;
    }
    return kSuccess;
}

int refused(const char* name, const void* device, std::atomic<bool>& told) {
    return answer(name, device, told, kNoPermission);
}

int unsupported(const char* name, const void* device, std::atomic<bool>& told) {
    return answer(name, device, told, kNotSupported);
}

}  // namespace carrel::nvml
