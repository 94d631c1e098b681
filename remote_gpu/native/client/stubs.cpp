// The generated functions: those whose arguments travel as they are, and those not supported.
#include <cstring>

#include "client/exports.hpp"
#include "client/forward.hpp"
#include "cuda_functions.hpp"
#include "wire/log.hpp"

namespace carrel::client {

CUresult unsupported(Call call) {
    static std::atomic<bool> told[kCallCount];
    trace(call, false);
    if (!told[static_cast<size_t>(call)].exchange(true, std::memory_order_relaxed)) {
        CARREL_WARNING("%s is not supported", call_name(call));
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace carrel::client

#include "client_stubs.inc"

namespace carrel::client {

std::span<const Export> exports() {
    static const Export all[] = {
#include "client_exports.inc"
    };
    return all;
}

}  // namespace carrel::client
