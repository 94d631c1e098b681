// How a call of the driver API fails inside the library: by exception, turned into a CUresult at
// the entry point.
#pragma once

#include <exception>
#include <new>
#include <utility>

#include "cuda_abi.hpp"

namespace carrel::softgpu {

class Failure : public std::exception {
  public:
    explicit Failure(CUresult code) : code_(code) {}
    [[nodiscard]] CUresult code() const { return code_; }
    [[nodiscard]] const char* what() const noexcept override { return "CUDA error"; }

  private:
    CUresult code_;
};

/// Fails with `code` unless `condition` holds.
inline void require(bool condition, CUresult code = CUDA_ERROR_INVALID_VALUE) {
    if (!condition) throw Failure(code);
}

/// Runs `body` and says how it ended. `body` returns nothing, or a CUresult that is not worth an
/// exception.
template <class Body>
CUresult guarded(Body&& body) noexcept {
    try {
        if constexpr (std::is_same_v<decltype(body()), CUresult>) {
            return body();
        } else {
            std::forward<Body>(body)();
            return CUDA_SUCCESS;
        }
    } catch (const Failure& failure) {
        return failure.code();
    } catch (const std::bad_alloc&) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    } catch (const std::exception&) {
        return CUDA_ERROR_UNKNOWN;
    }
}

}  // namespace carrel::softgpu
