// How a call of the library fails: by exception, turned into a cublasStatus_t at the entry point.
#pragma once

#include <exception>
#include <new>

#include "softblas/abi.hpp"

namespace carrel::softblas {

class Refusal : public std::exception {
  public:
    explicit Refusal(cublasStatus_t status) : status_(status) {}
    [[nodiscard]] cublasStatus_t status() const { return status_; }

  private:
    cublasStatus_t status_;
};

/// Fails with `status` unless `condition` holds.
inline void require(bool condition, cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE) {
    if (!condition) throw Refusal(status);
}

template <class Body>
cublasStatus_t entry(Body&& body) noexcept {
    try {
        body();
        return CUBLAS_STATUS_SUCCESS;
    } catch (const Refusal& refusal) {
        return refusal.status();
    } catch (const std::bad_alloc&) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    } catch (const std::exception&) {
        return CUBLAS_STATUS_INTERNAL_ERROR;
    }
}

}  // namespace carrel::softblas
