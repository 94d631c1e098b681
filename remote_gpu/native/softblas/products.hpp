// Level 2 and 3: matrix-vector and matrix-matrix products, with their batched forms.
#pragma once

#include <cstdint>

#include "softblas/product.hpp"
#include "softblas/vectors.hpp"

namespace carrel::softblas {

/// Alpha, beta and the types of a product, as the caller gave them.
struct Scales {
    Factor alpha, beta;
    cudaDataType arithmetic;
};

/// Runs `body(alpha, beta)` with both in the type of the arithmetic. For queued work.
template <class Body>
void with_scales(const Scales& scales, Body&& body) {
    switch (scales.arithmetic) {
        case CUDA_R_32F:
            return body(scales.alpha.get<float>(), scales.beta.get<float>());
        case CUDA_R_64F:
            return body(scales.alpha.get<double>(), scales.beta.get<double>());
        case CUDA_C_32F:
            return body(scales.alpha.get<cuComplex>(), scales.beta.get<cuComplex>());
        default:
            return body(scales.alpha.get<cuDoubleComplex>(), scales.beta.get<cuDoubleComplex>());
    }
}

/// Where the operands of one product of a batch lie.
struct Operands {
    const void* a;
    const void* b;
    void* c;
};

/// What all products of a call share.
struct Shape {
    cublasOperation_t op_a, op_b;
    std::int64_t m, n, k;
    cudaDataType a_type, b_type, c_type;
    std::int64_t lda, ldb, ldc;
    std::int64_t batch = 1;

    [[nodiscard]] Product product(const Operands& at) const {
        const Matrix c{at.c, c_type, m, n, ldc};
        return {
            op_a,
            op_b,
            k,
            op_a == CUBLAS_OP_N ? Matrix{at.a, a_type, m, k, lda} : Matrix{at.a, a_type, k, m, lda},
            op_b == CUBLAS_OP_N ? Matrix{at.b, b_type, k, n, ldb} : Matrix{at.b, b_type, n, k, ldb},
            c,
            c};
    }
};

/// Queues a batch of products. `operands(i)`: where those of product i lie, asked by the work.
inline void queue_products(const cublasContext& handle, const char* function, const Shape& shape,
                           cublasComputeType_t compute, const void* alpha, const void* beta,
                           std::function<Operands(std::int64_t)> operands) {
    require_shapes(shape.op_a, shape.op_b, shape.m, shape.n, shape.k, shape.lda, shape.ldb,
                   shape.ldc);
    require(shape.batch >= 0);
    const cudaDataType scale = scale_type(compute, shape.c_type);
    require_types(compute, scale, shape.a_type, shape.b_type, shape.c_type);
    const bool on_device = handle.pointer_mode == CUBLAS_POINTER_MODE_DEVICE;
    const Scales scales{Factor(on_device, alpha, scale), Factor(on_device, beta, scale),
                        arithmetic(compute, shape.a_type)};
    if (shape.m == 0 || shape.n == 0 || shape.batch == 0) return;
    enqueue(handle.stream, function, [=, operands = std::move(operands)] {
        with_scales(scales, [&](auto a, auto b) {
            for (std::int64_t i = 0; i < shape.batch; ++i)
                multiply(shape.product(operands(i)), a, b);
        });
    });
}

inline const void* offset(const void* base, std::int64_t elements, cudaDataType type) {
    return static_cast<const char*>(base) + elements * size_of(type);
}
inline void* offset(void* base, std::int64_t elements, cudaDataType type) {
    return static_cast<char*>(base) + elements * size_of(type);
}

inline void gemm_strided_batched_ex(cublasHandle_t handle, const char* function,
                                    cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m,
                                    std::int64_t n, std::int64_t k, const void* alpha,
                                    const void* a, cudaDataType a_type, std::int64_t lda,
                                    std::int64_t stride_a, const void* b, cudaDataType b_type,
                                    std::int64_t ldb, std::int64_t stride_b, const void* beta,
                                    void* c, cudaDataType c_type, std::int64_t ldc,
                                    std::int64_t stride_c, std::int64_t batch,
                                    cublasComputeType_t compute, cublasGemmAlgo_t = {}) {
    const Shape shape{op_a, op_b, m, n, k, a_type, b_type, c_type, lda, ldb, ldc, batch};
    queue_products(checked(handle), function, shape, compute, alpha, beta, [=](std::int64_t i) {
        return Operands{offset(a, i * stride_a, a_type), offset(b, i * stride_b, b_type),
                        offset(c, i * stride_c, c_type)};
    });
}

inline void gemm_ex(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
                    cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                    const void* alpha, const void* a, cudaDataType a_type, std::int64_t lda,
                    const void* b, cudaDataType b_type, std::int64_t ldb, const void* beta, void* c,
                    cudaDataType c_type, std::int64_t ldc, cublasComputeType_t compute,
                    cublasGemmAlgo_t = {}) {
    gemm_strided_batched_ex(handle, function, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                            b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute);
}

inline void gemm_batched_ex(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
                            cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                            const void* alpha, const void* const a[], cudaDataType a_type,
                            std::int64_t lda, const void* const b[], cudaDataType b_type,
                            std::int64_t ldb, const void* beta, void* const c[],
                            cudaDataType c_type, std::int64_t ldc, std::int64_t batch,
                            cublasComputeType_t compute, cublasGemmAlgo_t = {}) {
    const Shape shape{op_a, op_b, m, n, k, a_type, b_type, c_type, lda, ldb, ldc, batch};
    queue_products(checked(handle), function, shape, compute, alpha, beta, [=](std::int64_t i) {
        require_mapped(a + i, sizeof *a);  // the arrays of addresses lie on the device, too
        require_mapped(b + i, sizeof *b);
        require_mapped(c + i, sizeof *c);
        return Operands{a[i], b[i], c[i]};
    });
}

/// The compute type of the functions that carry a type in their name.
template <class T>
inline constexpr cublasComputeType_t compute_type =
    std::is_same_v<Real<T>, double> ? CUBLAS_COMPUTE_64F
    : std::is_same_v<T, Half>       ? CUBLAS_COMPUTE_16F
                                    : CUBLAS_COMPUTE_32F;

template <class T>
void gemm(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
          cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* alpha,
          const T* a, std::int64_t lda, const T* b, std::int64_t ldb, const T* beta, T* c,
          std::int64_t ldc) {
    gemm_ex(handle, function, op_a, op_b, m, n, k, alpha, a, data_type<T>, lda, b, data_type<T>,
            ldb, beta, c, data_type<T>, ldc, compute_type<T>);
}

/// cublasSgemmEx and cublasCgemmEx: alpha and beta are single.
template <class T>
void typed_gemm_ex(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
                   cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                   const T* alpha, const void* a, cudaDataType a_type, std::int64_t lda,
                   const void* b, cudaDataType b_type, std::int64_t ldb, const T* beta, void* c,
                   cudaDataType c_type, std::int64_t ldc) {
    gemm_ex(handle, function, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c,
            c_type, ldc, CUBLAS_COMPUTE_32F);
}

template <class T>
void gemm_strided_batched(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
                          cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                          const T* alpha, const T* a, std::int64_t lda, std::int64_t stride_a,
                          const T* b, std::int64_t ldb, std::int64_t stride_b, const T* beta, T* c,
                          std::int64_t ldc, std::int64_t stride_c, std::int64_t batch) {
    gemm_strided_batched_ex(handle, function, op_a, op_b, m, n, k, alpha, a, data_type<T>, lda,
                            stride_a, b, data_type<T>, ldb, stride_b, beta, c, data_type<T>, ldc,
                            stride_c, batch, compute_type<T>);
}

template <class T>
void gemm_batched(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
                  cublasOperation_t op_b, std::int64_t m, std::int64_t n, std::int64_t k,
                  const T* alpha, const T* const a[], std::int64_t lda, const T* const b[],
                  std::int64_t ldb, const T* beta, T* const c[], std::int64_t ldc,
                  std::int64_t batch) {
    gemm_batched_ex(handle, function, op_a, op_b, m, n, k, alpha,
                    reinterpret_cast<const void* const*>(a), data_type<T>, lda,
                    reinterpret_cast<const void* const*>(b), data_type<T>, ldb, beta,
                    reinterpret_cast<void* const*>(c), data_type<T>, ldc, batch, compute_type<T>);
}

// --- matrix times vector ------------------------------------------------------------------------

/// y = alpha op(A) x + beta y, at once.
template <class T>
void multiply_vector(cublasOperation_t op, std::int64_t m, std::int64_t n, T alpha, const T* a,
                     std::int64_t lda, const T* x, std::int64_t incx, T beta, T* y,
                     std::int64_t incy) {
    const std::int64_t in = op == CUBLAS_OP_N ? n : m, out = op == CUBLAS_OP_N ? m : n;
    require_matrix(a, m, n, lda);
    const Vector<const T> from(x, in, incx);
    const Vector<T> to(y, out, incy);
    std::vector<Sum<T>> sums(static_cast<std::size_t>(out));
    for (std::int64_t j = 0; j < n; ++j) {
        const T* const column = a + j * lda;
        if (op == CUBLAS_OP_N) {
            const auto by = convert<Sum<T>>(from[j]);
            for (std::int64_t i = 0; i < m; ++i)
                sums[static_cast<std::size_t>(i)] += by * convert<Sum<T>>(column[i]);
        } else {
            Sum<T> sum{};
            for (std::int64_t i = 0; i < m; ++i)
                sum += convert<Sum<T>>(op == CUBLAS_OP_C ? conjugate(column[i]) : column[i]) *
                       convert<Sum<T>>(from[i]);
            sums[static_cast<std::size_t>(j)] = sum;
        }
    }
    for (std::int64_t i = 0; i < out; ++i) {
        const T product = alpha * convert<T>(sums[static_cast<std::size_t>(i)]);
        to[i] = beta == T{} ? product : product + beta * to[i];
    }
}

template <class T>
void gemv_strided_batched(cublasHandle_t handle, const char* function, cublasOperation_t op,
                          std::int64_t m, std::int64_t n, const T* alpha, const T* a,
                          std::int64_t lda, std::int64_t stride_a, const T* x, std::int64_t incx,
                          std::int64_t stride_x, const T* beta, T* y, std::int64_t incy,
                          std::int64_t stride_y, std::int64_t batch) {
    const Factor factor(checked(handle), alpha), keep(*handle, beta);
    require(op >= CUBLAS_OP_N && op <= CUBLAS_OP_C && m >= 0 && n >= 0 && batch >= 0 &&
            lda >= std::max<std::int64_t>(1, m) && incx != 0 && incy != 0);
    if (m == 0 || n == 0) return;
    enqueue(handle->stream, function, [=] {
        for (std::int64_t i = 0; i < batch; ++i)
            multiply_vector(op, m, n, factor.get<T>(), a + i * stride_a, lda, x + i * stride_x,
                            incx, keep.get<T>(), y + i * stride_y, incy);
    });
}

template <class T>
void gemv(cublasHandle_t handle, const char* function, cublasOperation_t op, std::int64_t m,
          std::int64_t n, const T* alpha, const T* a, std::int64_t lda, const T* x,
          std::int64_t incx, const T* beta, T* y, std::int64_t incy) {
    gemv_strided_batched(handle, function, op, m, n, alpha, a, lda, 0, x, incx, 0, beta, y, incy, 0,
                         1);
}

template <class T>
void gemv_batched(cublasHandle_t handle, const char* function, cublasOperation_t op, std::int64_t m,
                  std::int64_t n, const T* alpha, const T* const a[], std::int64_t lda,
                  const T* const x[], std::int64_t incx, const T* beta, T* const y[],
                  std::int64_t incy, std::int64_t batch) {
    const Factor factor(checked(handle), alpha), keep(*handle, beta);
    require(op >= CUBLAS_OP_N && op <= CUBLAS_OP_C && m >= 0 && n >= 0 && batch >= 0 &&
            lda >= std::max<std::int64_t>(1, m) && incx != 0 && incy != 0);
    if (m == 0 || n == 0) return;
    enqueue(handle->stream, function, [=] {
        require_vector(a, batch, 1);
        require_vector(x, batch, 1);
        require_vector(y, batch, 1);
        for (std::int64_t i = 0; i < batch; ++i)
            multiply_vector(op, m, n, factor.get<T>(), a[i], lda, x[i], incx, keep.get<T>(), y[i],
                            incy);
    });
}

template <bool kConjugate, class T>
void rank_one(cublasHandle_t handle, const char* function, std::int64_t m, std::int64_t n,
              const T* alpha, const T* x, std::int64_t incx, const T* y, std::int64_t incy, T* a,
              std::int64_t lda) {
    const Factor factor(checked(handle), alpha);
    require(m >= 0 && n >= 0 && lda >= std::max<std::int64_t>(1, m) && incx != 0 && incy != 0);
    enqueue(handle->stream, function, [=] {
        const Vector<const T> column(x, m, incx), row(y, n, incy);
        require_matrix(a, m, n, lda);
        const T by = factor.get<T>();
        for (std::int64_t j = 0; j < n; ++j) {
            const T scaled = by * (kConjugate ? conjugate(row[j]) : row[j]);
            for (std::int64_t i = 0; i < m; ++i) a[j * lda + i] += column[i] * scaled;
        }
    });
}
template <class... Arguments>
void ger(Arguments... arguments) {
    rank_one<false>(arguments...);
}
template <class... Arguments>
void gerc(Arguments... arguments) {
    rank_one<true>(arguments...);
}

// --- others ------------------------------------------------------------------------------------

/// C = alpha A A' + beta C in one triangle: ' is the transpose, for herk the adjoint. S: the type
/// of alpha and beta.
template <bool kHermitian, class S, class T>
void rank_k(cublasHandle_t handle, const char* function, cublasFillMode_t uplo,
            cublasOperation_t op, std::int64_t n, std::int64_t k, const S* alpha, const T* a,
            std::int64_t lda, const S* beta, T* c, std::int64_t ldc) {
    const Factor factor(checked(handle), alpha), keep(*handle, beta);
    require(uplo == CUBLAS_FILL_MODE_LOWER || uplo == CUBLAS_FILL_MODE_UPPER);
    const auto other = kHermitian ? CUBLAS_OP_C : CUBLAS_OP_T;
    // For real matrices the adjoint is the transpose.
    if (!is_complex<T> && op == CUBLAS_OP_C) op = CUBLAS_OP_T;
    require(op == CUBLAS_OP_N || op == other);
    require_shapes(op, CUBLAS_OP_N, n, 0, k, lda, std::max<std::int64_t>(1, k), ldc);
    if (n == 0) return;
    enqueue(handle->stream, function, [=] {
        const bool plain = op == CUBLAS_OP_N;
        require_matrix(a, plain ? n : k, plain ? k : n, lda);
        require_matrix(c, n, n, ldc);
        std::vector<T> sums(static_cast<std::size_t>(n * n));
        gemm<T>(plain ? CUBLAS_OP_N : other, plain ? other : CUBLAS_OP_N, n, n, k,
                convert<T>(factor.get<S>()), a, lda, a, lda, T{}, sums.data(), n);
        const S by = keep.get<S>();
        for (std::int64_t j = 0; j < n; ++j) {
            const bool lower = uplo == CUBLAS_FILL_MODE_LOWER;
            for (std::int64_t i = lower ? j : 0; i < (lower ? n : j + 1); ++i) {
                T& out = c[j * ldc + i];
                out = sums[static_cast<std::size_t>(j * n + i)] + (by == S{} ? T{} : by * out);
                if (kHermitian && i == j) out = convert<T>(std::real(out));
            }
        }
    });
}
template <class... Arguments>
void syrk(Arguments... arguments) {
    rank_k<false>(arguments...);
}
template <class... Arguments>
void herk(Arguments... arguments) {
    rank_k<true>(arguments...);
}

/// C = alpha op(A) + beta op(B).
template <class T>
void geam(cublasHandle_t handle, const char* function, cublasOperation_t op_a,
          cublasOperation_t op_b, std::int64_t m, std::int64_t n, const T* alpha, const T* a,
          std::int64_t lda, const T* beta, const T* b, std::int64_t ldb, T* c, std::int64_t ldc) {
    const Factor by_a(checked(handle), alpha), by_b(*handle, beta);
    require(m >= 0 && n >= 0 && ldc >= std::max<std::int64_t>(1, m));
    enqueue(handle->stream, function, [=] {
        require_matrix(c, m, n, ldc);
        const auto read = [&](const T* from, cublasOperation_t op, std::int64_t ld, T by) {
            std::vector<T> values(static_cast<std::size_t>(m * n));
            if (by == T{}) return values;
            const bool plain = op == CUBLAS_OP_N;
            require_matrix(from, plain ? m : n, plain ? n : m, ld);
            for (std::int64_t j = 0; j < n; ++j)
                for (std::int64_t i = 0; i < m; ++i) {
                    const T value = plain ? from[j * ld + i] : from[i * ld + j];
                    values[static_cast<std::size_t>(j * m + i)] =
                        by * (op == CUBLAS_OP_C ? conjugate(value) : value);
                }
            return values;
        };
        const auto first = read(a, op_a, lda, by_a.get<T>());
        const auto second = read(b, op_b, ldb, by_b.get<T>());
        for (std::int64_t j = 0; j < n; ++j)
            for (std::int64_t i = 0; i < m; ++i)
                c[j * ldc + i] = first[static_cast<std::size_t>(j * m + i)] +
                                 second[static_cast<std::size_t>(j * m + i)];
    });
}

/// C = A diag(x), or diag(x) A.
template <class T>
void dgmm(cublasHandle_t handle, const char* function, cublasSideMode_t side, std::int64_t m,
          std::int64_t n, const T* a, std::int64_t lda, const T* x, std::int64_t incx, T* c,
          std::int64_t ldc) {
    checked(handle);
    require(m >= 0 && n >= 0 && lda >= std::max<std::int64_t>(1, m) &&
            ldc >= std::max<std::int64_t>(1, m));
    enqueue(handle->stream, function, [=] {
        require_matrix(a, m, n, lda);
        require_matrix(c, m, n, ldc);
        const bool right = side == CUBLAS_SIDE_RIGHT;
        const Vector<const T> diagonal(x, right ? n : m, incx);
        for (std::int64_t j = 0; j < n; ++j)
            for (std::int64_t i = 0; i < m; ++i)
                c[j * ldc + i] = a[j * lda + i] * diagonal[right ? j : i];
    });
}

}  // namespace carrel::softblas
