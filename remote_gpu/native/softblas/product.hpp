// Matrix products of any supported element types: what cublasGemmEx and cublasLtMatmul have in
// common. Everything here is queued work: it runs on the stream, on checked memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "softblas/handle.hpp"

namespace carrel::softblas {

/// A matrix in device memory, column-major unless `row_major`.
struct Matrix {
    const void* address = nullptr;
    cudaDataType type = CUDA_R_32F;
    std::int64_t rows = 0, columns = 0, ld = 0;
    bool row_major = false;

    [[nodiscard]] std::uint64_t bytes() const;
};

/// In which type `compute` multiplies operands of type `operand`: single or double, real or
/// complex. Integers are multiplied in double, which is exact. Refuses what is not supported.
[[nodiscard]] cudaDataType arithmetic(cublasComputeType_t compute, cudaDataType operand);
/// Refuses combinations of element types that cuBLAS does not document, as not supported.
void require_types(cublasComputeType_t compute, cudaDataType scale, cudaDataType a, cudaDataType b,
                   cudaDataType d);
/// The type of alpha and beta that goes with a compute type, as cublasGemmEx has it.
[[nodiscard]] cudaDataType scale_type(cublasComputeType_t compute, cudaDataType c);

/// A column-major matrix in the arithmetic's type: the device's own memory, or a copy.
template <class T>
struct Dense {
    const T* data = nullptr;
    std::int64_t ld = 0;
    std::vector<T> copy;
};
template <class T>
[[nodiscard]] Dense<T> load(const Matrix& matrix);
/// Writes column-major values of the matrix' shape to it.
template <class T>
void store(const T* values, std::int64_t ld, const Matrix& matrix);

/// D = alpha op(A) op(B) + beta C; C may be D. Calls `finish` with the sums, rows of D apart by the
/// given leading dimension, before they are rounded to D's type.
struct Product {
    cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    std::int64_t k = 0;
    Matrix a, b, c, d;
};
template <class T>
void multiply(const Product& product, T alpha, T beta,
              const std::function<void(T* values, std::int64_t ld)>& finish = nullptr);

/// Refuses sizes and leading dimensions as cuBLAS does.
void require_shapes(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
                    std::int64_t k, std::int64_t lda, std::int64_t ldb, std::int64_t ldc);

}  // namespace carrel::softblas
