#include "worker/jit.hpp"

#include <algorithm>
#include <cstring>

#include "wire/protocol.hpp"

namespace carrel::worker {

JitJob::JitJob(wire::Reader& in) {
    const auto count = in.get<uint32_t>();
    if (count > wire::kMaxJitOptions) throw wire::Malformed("too many compiler options");
    std::vector<uint64_t> raw;
    for (uint32_t i = 0; i < count; ++i) {
        options_.push_back(static_cast<CUjit_option>(in.get<int32_t>()));
        raw.push_back(in.get<uint64_t>());
    }
    const auto size_of = [&](CUjit_option option) {
        uint64_t size = 0;
        for (uint32_t i = 0; i < count; ++i) {
            if (options_[i] == option) size = raw[i] & 0xFFFFFFFF;
        }
        return std::min(size, wire::kMaxJitLog);
    };
    info_.resize(size_of(CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES));
    error_.resize(size_of(CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES));
    for (uint32_t i = 0; i < count; ++i) {
        switch (options_[i]) {
            case CU_JIT_INFO_LOG_BUFFER:
                values_.push_back(info_.data());
                break;
            case CU_JIT_ERROR_LOG_BUFFER:
                values_.push_back(error_.data());
                break;
            case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
                values_.push_back(reinterpret_cast<void*>(info_.size()));
                break;
            case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
                values_.push_back(reinterpret_cast<void*>(error_.size()));
                break;
            case CU_JIT_GLOBAL_SYMBOL_NAMES:
            case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
                throw wire::Malformed("a compiler option that holds pointers");
            default:
                values_.push_back(reinterpret_cast<void*>(raw[i]));
                break;
        }
    }
}

void JitJob::encode(wire::Writer& out) const {
    uint64_t wall_time = 0;
    uint64_t threads = 0;
    for (size_t i = 0; i < options_.size(); ++i) {
        const auto value = reinterpret_cast<uint64_t>(values_[i]);
        if (options_[i] == CU_JIT_WALL_TIME) wall_time = value;
        if (options_[i] == CU_JIT_THREADS_PER_BLOCK) threads = value;
    }
    out.put(wall_time);
    out.put(threads);
    const auto log = [&](const std::vector<char>& text) {
        out.bytes(text.data(), text.empty() ? 0 : strnlen(text.data(), text.size()));
    };
    log(info_);
    log(error_);
}

}  // namespace carrel::worker
