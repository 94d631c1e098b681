// Errors: numbers, names, and the last one of each thread.
#include <algorithm>
#include <iterator>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "cudart/runtime.hpp"
#include "wire/log.hpp"

namespace carrel::cudart {

namespace {

struct ErrorName {
    int code;
    const char* name;
};

constexpr ErrorName kNames[] = {
#include "cudart_errors.inc"
};

const ErrorName* find(int code) {
    const auto* found = std::ranges::find(kNames, code, &ErrorName::code);
    return found == std::end(kNames) ? nullptr : found;
}

thread_local cudaError_t last = cudaSuccess;

}  // namespace

cudaError_t translate(CUresult result) {
    const int code = static_cast<int>(result);
    return find(code) ? static_cast<cudaError_t>(code) : cudaErrorUnknown;
}

cudaError_t finish(cudaError_t error) {
    if (error != cudaSuccess) last = error;
    return error;
}

cudaError_t unsupported(const char* name) {
    static std::mutex mutex;
    static std::set<std::string_view> told;
    const std::lock_guard lock(mutex);
    if (told.insert(name).second) CARREL_WARNING("%s is not supported", name);
    return finish(cudaErrorNotSupported);
}

CUresult attach() {
    if (const CUresult bad = cuInit(0)) return bad;
    static std::mutex mutex;
    static CUcontext primary = nullptr;
    const std::lock_guard lock(mutex);
    if (!primary) {
        if (const CUresult bad = cuDevicePrimaryCtxRetain(&primary, 0)) return bad;
    }
    return cuCtxSetCurrent(primary);
}

}  // namespace carrel::cudart

using namespace carrel::cudart;

#include "cudart_stubs.inc"

cudaError_t cudaGetLastError() {
    return std::exchange(last, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
    return last;
}

const char* cudaGetErrorName(cudaError_t error) {
    const ErrorName* known = find(error);
    return known ? known->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
    const char* text = nullptr;
    if (cuGetErrorString(static_cast<CUresult>(error), &text) == CUDA_SUCCESS && text) return text;
    const ErrorName* known = find(error);
    return known ? known->name : "unrecognized error code";
}
