#include "client/jit.hpp"

#include <algorithm>
#include <cstring>

#include "wire/protocol.hpp"

namespace carrel::client {

CUresult JitOptions::check() const {
    if (count_ > wire::kMaxJitOptions) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count_; ++i) {
        switch (options_[i]) {
            case CU_JIT_GLOBAL_SYMBOL_NAMES:
            case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
            case CU_JIT_GLOBAL_SYMBOL_COUNT:
                return CUDA_ERROR_NOT_SUPPORTED;  // addresses of this process' host functions
            default:
                break;
        }
    }
    return CUDA_SUCCESS;
}

void JitOptions::encode(wire::Writer& out) const {
    out.put(count_);
    for (unsigned int i = 0; i < count_; ++i) {
        out.put(static_cast<int32_t>(options_[i]));
        // The options that hold a buffer: the worker has its own.
        const bool buffer =
            options_[i] == CU_JIT_INFO_LOG_BUFFER || options_[i] == CU_JIT_ERROR_LOG_BUFFER;
        out.put(buffer ? uint64_t{0} : reinterpret_cast<uint64_t>(values_[i]));
    }
}

void JitOptions::decode(wire::Reader& in) const {
    const auto wall_time = in.get<uint64_t>();
    const auto threads = in.get<uint64_t>();
    const auto info = in.bytes();
    const auto error = in.bytes();
    for (unsigned int i = 0; i < count_; ++i) {
        if (options_[i] == CU_JIT_WALL_TIME) values_[i] = reinterpret_cast<void*>(wall_time);
        if (options_[i] == CU_JIT_THREADS_PER_BLOCK) values_[i] = reinterpret_cast<void*>(threads);
    }
    fill(CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, info);
    fill(CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, error);
}

void JitOptions::fill(CUjit_option buffer, CUjit_option size,
                      std::span<const std::byte> log) const {
    char* to = nullptr;
    unsigned int* room = nullptr;
    for (unsigned int i = 0; i < count_; ++i) {
        if (options_[i] == buffer) to = static_cast<char*>(values_[i]);
        if (options_[i] == size) room = reinterpret_cast<unsigned int*>(&values_[i]);
    }
    if (!to || !room || !*room) return;
    const size_t length = std::min<size_t>(*room - 1, log.size());
    if (length) std::memcpy(to, log.data(), length);
    to[length] = 0;
    // CUDA answers the bytes filled in, in the option's own value.
    *room = static_cast<unsigned int>(length);
}

}  // namespace carrel::client
