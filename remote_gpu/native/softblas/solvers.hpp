// Triangular systems, and LU factorizations of many small matrices.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "softblas/vectors.hpp"

namespace carrel::softblas {

/// A triangular matrix as its operation shows it.
template <class T>
struct Triangle {
    const T* data;
    std::int64_t ld;
    cublasOperation_t op;
    bool unit;
    bool lower;  // of op(A)

    Triangle(const T* at, std::int64_t leading, cublasFillMode_t uplo, cublasOperation_t operation,
             cublasDiagType_t diag)
        : data(at),
          ld(leading),
          op(operation),
          unit(diag == CUBLAS_DIAG_UNIT),
          lower((uplo == CUBLAS_FILL_MODE_LOWER) == (operation == CUBLAS_OP_N)) {}
    [[nodiscard]] T at(std::int64_t i, std::int64_t j) const {
        if (op == CUBLAS_OP_N) return data[j * ld + i];
        const T value = data[i * ld + j];
        return op == CUBLAS_OP_C ? conjugate(value) : value;
    }
};

/// B = alpha op(A)^-1 B (left) or alpha B op(A)^-1, B being m x n, at once.
template <class T>
void solve_triangle(cublasSideMode_t side, const Triangle<T>& a, std::int64_t m, std::int64_t n,
                    T alpha, T* b, std::int64_t ldb) {
    for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t i = 0; i < m; ++i)
            b[j * ldb + i] = alpha == T{} ? T{} : alpha * b[j * ldb + i];
    if (alpha == T{}) return;
    if (side == CUBLAS_SIDE_LEFT) {
        for (std::int64_t j = 0; j < n; ++j) {
            T* const x = b + j * ldb;
            for (std::int64_t step = 0; step < m; ++step) {
                const std::int64_t p = a.lower ? step : m - 1 - step;
                if (!a.unit) x[p] /= a.at(p, p);
                for (std::int64_t i = a.lower ? p + 1 : 0; i < (a.lower ? m : p); ++i)
                    x[i] -= x[p] * a.at(i, p);
            }
        }
        return;
    }
    for (std::int64_t step = 0; step < n; ++step) {
        const std::int64_t j = a.lower ? n - 1 - step : step;
        T* const x = b + j * ldb;
        for (std::int64_t p = a.lower ? j + 1 : 0; p < (a.lower ? n : j); ++p) {
            const T by = a.at(p, j);
            for (std::int64_t i = 0; i < m; ++i) x[i] -= b[p * ldb + i] * by;
        }
        if (!a.unit)
            for (std::int64_t i = 0; i < m; ++i) x[i] /= a.at(j, j);
    }
}

inline void require_triangle(cublasSideMode_t side, cublasFillMode_t uplo, cublasOperation_t op,
                             cublasDiagType_t diag, std::int64_t m, std::int64_t n,
                             std::int64_t lda, std::int64_t ldb) {
    require(side == CUBLAS_SIDE_LEFT || side == CUBLAS_SIDE_RIGHT);
    require(uplo == CUBLAS_FILL_MODE_LOWER || uplo == CUBLAS_FILL_MODE_UPPER);
    require(diag == CUBLAS_DIAG_NON_UNIT || diag == CUBLAS_DIAG_UNIT);
    require(op >= CUBLAS_OP_N && op <= CUBLAS_OP_C && m >= 0 && n >= 0);
    require(lda >= std::max<std::int64_t>(1, side == CUBLAS_SIDE_LEFT ? m : n) &&
            ldb >= std::max<std::int64_t>(1, m));
}

template <class T>
void trsm(cublasHandle_t handle, const char* function, cublasSideMode_t side, cublasFillMode_t uplo,
          cublasOperation_t op, cublasDiagType_t diag, std::int64_t m, std::int64_t n,
          const T* alpha, const T* a, std::int64_t lda, T* b, std::int64_t ldb) {
    const Factor factor(checked(handle), alpha);
    require_triangle(side, uplo, op, diag, m, n, lda, ldb);
    if (m == 0 || n == 0) return;
    enqueue(handle->stream, function, [=] {
        const std::int64_t order = side == CUBLAS_SIDE_LEFT ? m : n;
        require_matrix(a, order, order, lda);
        require_matrix(b, m, n, ldb);
        solve_triangle(side, Triangle<T>(a, lda, uplo, op, diag), m, n, factor.get<T>(), b, ldb);
    });
}

template <class T>
void trsm_batched(cublasHandle_t handle, const char* function, cublasSideMode_t side,
                  cublasFillMode_t uplo, cublasOperation_t op, cublasDiagType_t diag,
                  std::int64_t m, std::int64_t n, const T* alpha, const T* const a[],
                  std::int64_t lda, T* const b[], std::int64_t ldb, std::int64_t batch) {
    const Factor factor(checked(handle), alpha);
    require_triangle(side, uplo, op, diag, m, n, lda, ldb);
    if (m == 0 || n == 0) return;
    enqueue(handle->stream, function, [=] {
        const std::int64_t order = side == CUBLAS_SIDE_LEFT ? m : n;
        require_vector(a, batch, 1);
        require_vector(b, batch, 1);
        for (std::int64_t i = 0; i < batch; ++i) {
            require_matrix(a[i], order, order, lda);
            require_matrix(b[i], m, n, ldb);
            solve_triangle(side, Triangle<T>(a[i], lda, uplo, op, diag), m, n, factor.get<T>(),
                           b[i], ldb);
        }
    });
}

/// P A = L U in place, at once; `pivots` (null: no exchanges) counts from one. Returns 0, or which
/// diagonal element, counted from one, is zero.
template <class T>
int factorize(std::int64_t n, T* a, std::int64_t lda, int* pivots) {
    int singular = 0;
    for (std::int64_t j = 0; j < n; ++j) {
        std::int64_t pivot = j;
        if (pivots) {
            for (std::int64_t i = j + 1; i < n; ++i)
                if (size(a[j * lda + i]) > size(a[j * lda + pivot])) pivot = i;
            pivots[j] = static_cast<int>(pivot + 1);
            if (pivot != j)
                for (std::int64_t c = 0; c < n; ++c) std::swap(a[c * lda + j], a[c * lda + pivot]);
        }
        const T diagonal = a[j * lda + j];
        if (diagonal == T{}) {
            if (!singular) singular = static_cast<int>(j + 1);
            continue;
        }
        for (std::int64_t i = j + 1; i < n; ++i) a[j * lda + i] /= diagonal;
        for (std::int64_t c = j + 1; c < n; ++c)
            for (std::int64_t i = j + 1; i < n; ++i)
                a[c * lda + i] -= a[j * lda + i] * a[c * lda + j];
    }
    return singular;
}

/// op(A) X = B with A's factors, at once.
template <class T>
void solve_factorized(cublasOperation_t op, std::int64_t n, std::int64_t columns, const T* lu,
                      std::int64_t lda, const int* pivots, T* b, std::int64_t ldb) {
    const Triangle<T> lower(lu, lda, CUBLAS_FILL_MODE_LOWER, op, CUBLAS_DIAG_UNIT);
    const Triangle<T> upper(lu, lda, CUBLAS_FILL_MODE_UPPER, op, CUBLAS_DIAG_NON_UNIT);
    const auto exchange = [&](std::int64_t i) {
        const std::int64_t other = pivots[i] - 1;
        if (other == i || other < 0 || other >= n) return;
        for (std::int64_t j = 0; j < columns; ++j) std::swap(b[j * ldb + i], b[j * ldb + other]);
    };
    if (op == CUBLAS_OP_N) {
        for (std::int64_t i = 0; pivots && i < n; ++i) exchange(i);
        solve_triangle(CUBLAS_SIDE_LEFT, lower, n, columns, T{1}, b, ldb);
        solve_triangle(CUBLAS_SIDE_LEFT, upper, n, columns, T{1}, b, ldb);
        return;
    }
    solve_triangle(CUBLAS_SIDE_LEFT, upper, n, columns, T{1}, b, ldb);
    solve_triangle(CUBLAS_SIDE_LEFT, lower, n, columns, T{1}, b, ldb);
    for (std::int64_t i = n; pivots && i-- > 0;) exchange(i);
}

template <class T>
void getrf_batched(cublasHandle_t handle, const char* function, std::int64_t n, T* const a[],
                   std::int64_t lda, int* pivots, int* info, std::int64_t batch) {
    checked(handle);
    require(n >= 0 && batch >= 0 && lda >= std::max<std::int64_t>(1, n));
    enqueue(handle->stream, function, [=] {
        require_vector(a, batch, 1);
        require_vector(info, batch, 1);
        if (pivots) require_vector(pivots, batch * n, 1);
        for (std::int64_t i = 0; i < batch; ++i) {
            require_matrix(a[i], n, n, lda);
            info[i] = factorize(n, a[i], lda, pivots ? pivots + i * n : nullptr);
        }
    });
}

/// `info`: one number, on the host.
template <class T>
void getrs_batched(cublasHandle_t handle, const char* function, cublasOperation_t op,
                   std::int64_t n, std::int64_t columns, const T* const a[], std::int64_t lda,
                   const int* pivots, T* const b[], std::int64_t ldb, int* info,
                   std::int64_t batch) {
    checked(handle);
    require(info != nullptr);
    const auto wrong = [&](bool good, int argument) {
        if (!good && *info == 0) *info = -argument;
    };
    *info = 0;
    wrong(op >= CUBLAS_OP_N && op <= CUBLAS_OP_C, 1);
    wrong(n >= 0, 2);
    wrong(columns >= 0, 3);
    wrong(lda >= std::max<std::int64_t>(1, n), 5);
    wrong(ldb >= std::max<std::int64_t>(1, n), 8);
    wrong(batch >= 0, 10);
    require(*info == 0);
    enqueue(handle->stream, function, [=] {
        require_vector(a, batch, 1);
        require_vector(b, batch, 1);
        if (pivots) require_vector(pivots, batch * n, 1);
        for (std::int64_t i = 0; i < batch; ++i) {
            require_matrix(a[i], n, n, lda);
            require_matrix(b[i], n, columns, ldb);
            solve_factorized(op, n, columns, a[i], lda, pivots ? pivots + i * n : nullptr, b[i],
                             ldb);
        }
    });
}

/// The inverse from factors, at once. Returns 0, or which diagonal element is zero.
template <class T>
int invert_factorized(std::int64_t n, const T* lu, std::int64_t lda, const int* pivots, T* c,
                      std::int64_t ldc) {
    for (std::int64_t i = 0; i < n; ++i)
        if (lu[i * lda + i] == T{}) return static_cast<int>(i + 1);
    for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t i = 0; i < n; ++i) c[j * ldc + i] = i == j ? T{1} : T{};
    solve_factorized(CUBLAS_OP_N, n, n, lu, lda, pivots, c, ldc);
    return 0;
}

template <class T>
void getri_batched(cublasHandle_t handle, const char* function, std::int64_t n, const T* const a[],
                   std::int64_t lda, const int* pivots, T* const c[], std::int64_t ldc, int* info,
                   std::int64_t batch) {
    checked(handle);
    require(n >= 0 && batch >= 0 && lda >= std::max<std::int64_t>(1, n) &&
            ldc >= std::max<std::int64_t>(1, n));
    enqueue(handle->stream, function, [=] {
        require_vector(a, batch, 1);
        require_vector(c, batch, 1);
        require_vector(info, batch, 1);
        if (pivots) require_vector(pivots, batch * n, 1);
        for (std::int64_t i = 0; i < batch; ++i) {
            require_matrix(a[i], n, n, lda);
            require_matrix(c[i], n, n, ldc);
            info[i] = invert_factorized(n, a[i], lda, pivots ? pivots + i * n : nullptr, c[i], ldc);
        }
    });
}

template <class T>
void matinv_batched(cublasHandle_t handle, const char* function, std::int64_t n, const T* const a[],
                    std::int64_t lda, T* const c[], std::int64_t ldc, int* info,
                    std::int64_t batch) {
    checked(handle);
    constexpr std::int64_t kLargest = 32;  // of cuBLAS, too
    require(n >= 0 && n <= kLargest && batch >= 0 && lda >= std::max<std::int64_t>(1, n) &&
            ldc >= std::max<std::int64_t>(1, n));
    enqueue(handle->stream, function, [=] {
        require_vector(a, batch, 1);
        require_vector(c, batch, 1);
        require_vector(info, batch, 1);
        for (std::int64_t i = 0; i < batch; ++i) {
            require_matrix(a[i], n, n, lda);
            require_matrix(c[i], n, n, ldc);
            std::vector<T> factors(static_cast<std::size_t>(n * n));
            std::vector<int> pivots(static_cast<std::size_t>(n));
            for (std::int64_t j = 0; j < n; ++j)
                std::copy_n(a[i] + j * lda, n, factors.begin() + j * n);
            info[i] = factorize(n, factors.data(), n, pivots.data());
            if (info[i] == 0) invert_factorized(n, factors.data(), n, pivots.data(), c[i], ldc);
        }
    });
}

}  // namespace carrel::softblas
