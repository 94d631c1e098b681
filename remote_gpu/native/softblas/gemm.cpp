#include "softblas/gemm.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "softblas/device.hpp"
#include "softblas/numbers.hpp"

namespace carrel::softblas {
namespace {

// CBLAS with 64-bit sizes, as the scipy-openblas64 wheel exports it.
constexpr int kColumnMajor = 102;
constexpr std::array kCblasOps = {111, 112, 113, 114};  // N, T, C, conjugated without transposing
template <class T>
using Scalar = std::conditional_t<is_complex<T>, const void*, T>;
template <class T>
using Elements = std::conditional_t<is_complex<T>, void, T>;
template <class T>
using Cblas = void (*)(int, int, int, std::int64_t, std::int64_t, std::int64_t, Scalar<T>,
                       const Elements<T>*, std::int64_t, const Elements<T>*, std::int64_t,
                       Scalar<T>, Elements<T>*, std::int64_t);

struct OpenBlas {
    Cblas<float> s = nullptr;
    Cblas<double> d = nullptr;
    Cblas<std::complex<float>> c = nullptr;
    Cblas<std::complex<double>> z = nullptr;

    template <class T>
    [[nodiscard]] Cblas<T> get() const {
        if constexpr (std::is_same_v<T, float>) return s;
        if constexpr (std::is_same_v<T, double>) return d;
        if constexpr (std::is_same_v<T, std::complex<float>>) return c;
        if constexpr (std::is_same_v<T, std::complex<double>>) return z;
    }
};

OpenBlas open() {
    OpenBlas blas;
    const char* const path = std::getenv("CARREL_OPENBLAS");
    const char* why = "CARREL_OPENBLAS names none";
    void* const library = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (library) {
        const auto find = [&](auto& function, const char* name) {
            function =
                reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
            return function != nullptr;
        };
        if (find(blas.s, "scipy_cblas_sgemm64_") && find(blas.d, "scipy_cblas_dgemm64_") &&
            find(blas.c, "scipy_cblas_cgemm64_") && find(blas.z, "scipy_cblas_zgemm64_")) {
            void (*set_threads)(int) = nullptr;
            if (find(set_threads, "scipy_openblas_set_num_threads64_"))
                set_threads(static_cast<int>(host_threads()));
            return blas;
        }
        why = "it is not scipy-openblas64's";
    } else if (path && *path) {
        why = dlerror();
    }
    std::fprintf(stderr,
                 "carrel-softgpu: matrix products run without OpenBLAS, slowly (%s); "
                 "pip install scipy-openblas64 on the GPU host\n",
                 why);
    return {};
}

const OpenBlas& openblas() {
    static const OpenBlas blas = open();
    return blas;
}

// op(X), rows x columns, as a dense column-major block.
template <class T>
void pack(cublasOperation_t op, const T* from, std::int64_t ld, std::int64_t row,
          std::int64_t column, std::int64_t rows, std::int64_t columns, T* to) {
    const bool transposed = op == CUBLAS_OP_T || op == CUBLAS_OP_C;
    const bool conjugated = op == CUBLAS_OP_C || op == CUBLAS_OP_CONJG;
    for (std::int64_t j = 0; j < columns; ++j)
        for (std::int64_t i = 0; i < rows; ++i) {
            const T value =
                transposed ? from[(row + i) * ld + column + j] : from[(column + j) * ld + row + i];
            to[j * rows + i] = conjugated ? conjugate(value) : value;
        }
}

}  // namespace

void load_openblas() {
    openblas();
}

template <class T>
void plain_gemm(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
                std::int64_t k, T alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
                T beta, T* c, std::int64_t ldc) {
    constexpr std::int64_t kRows = 256, kDepth = 128, kColumns = 64;  // blocks that fit the caches
    for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t i = 0; i < m; ++i)
            c[j * ldc + i] = beta == T{} ? T{} : beta * c[j * ldc + i];
    if (alpha == T{}) return;
    std::vector<T> block_a(kRows * kDepth), block_b(kDepth * kColumns);
    for (std::int64_t j0 = 0; j0 < n; j0 += kColumns) {
        const std::int64_t columns = std::min(kColumns, n - j0);
        for (std::int64_t p0 = 0; p0 < k; p0 += kDepth) {
            const std::int64_t depth = std::min(kDepth, k - p0);
            pack(op_b, b, ldb, p0, j0, depth, columns, block_b.data());
            for (std::int64_t i0 = 0; i0 < m; i0 += kRows) {
                const std::int64_t rows = std::min(kRows, m - i0);
                pack(op_a, a, lda, i0, p0, rows, depth, block_a.data());
                for (std::int64_t j = 0; j < columns; ++j) {
                    T* const column = c + (j0 + j) * ldc + i0;
                    for (std::int64_t p = 0; p < depth; ++p) {
                        const T factor = alpha * block_b[j * depth + p];
                        const T* const from = block_a.data() + p * rows;
                        for (std::int64_t i = 0; i < rows; ++i) column[i] += factor * from[i];
                    }
                }
            }
        }
    }
}

template <class T>
void gemm(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
          std::int64_t k, T alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
          T beta, T* c, std::int64_t ldc) {
    if (m == 0 || n == 0) return;
    const Cblas<T> fast = openblas().get<T>();
    if (!fast || k == 0) {
        plain_gemm(op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    const auto scalar = [](const T& value) -> Scalar<T> {
        if constexpr (is_complex<T>)
            return &value;
        else
            return value;
    };
    fast(kColumnMajor, kCblasOps[op_a], kCblasOps[op_b], m, n, k, scalar(alpha), a, lda, b, ldb,
         scalar(beta), c, ldc);
}

#define CARREL_INSTANTIATE(T)                                                                     \
    template void gemm<T>(cublasOperation_t, cublasOperation_t, std::int64_t, std::int64_t,       \
                          std::int64_t, T, const T*, std::int64_t, const T*, std::int64_t, T, T*, \
                          std::int64_t);                                                          \
    template void plain_gemm<T>(cublasOperation_t, cublasOperation_t, std::int64_t, std::int64_t, \
                                std::int64_t, T, const T*, std::int64_t, const T*, std::int64_t,  \
                                T, T*, std::int64_t);
CARREL_INSTANTIATE(float)
CARREL_INSTANTIATE(double)
CARREL_INSTANTIATE(std::complex<float>)
CARREL_INSTANTIATE(std::complex<double>)

}  // namespace carrel::softblas
