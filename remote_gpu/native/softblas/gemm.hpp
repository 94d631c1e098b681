// C = alpha op(A) op(B) + beta C on host memory, column-major, for the four BLAS types: OpenBLAS'
// where there is one, else a plain blocked one of our own.
#pragma once

#include <complex>
#include <cstdint>

#include "softblas/abi.hpp"

namespace carrel::softblas {

/// op: what cublasOperation_t says. beta 0: C is only written. Thread-safe.
template <class T>
void gemm(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
          std::int64_t k, T alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
          T beta, T* c, std::int64_t ldc);

/// Without OpenBLAS.
template <class T>
void plain_gemm(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
                std::int64_t k, T alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
                T beta, T* c, std::int64_t ldc);

/// Finds OpenBLAS, once per process, at the path in CARREL_OPENBLAS; says in the log when there is
/// none.
void load_openblas();

}  // namespace carrel::softblas
