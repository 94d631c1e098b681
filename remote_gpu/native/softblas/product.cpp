#include "softblas/product.hpp"

#include <algorithm>

#include "softblas/gemm.hpp"

namespace carrel::softblas {

std::uint64_t Matrix::bytes() const {
    const std::int64_t runs = row_major ? rows : columns;
    const std::int64_t length = row_major ? columns : rows;
    if (runs <= 0 || length <= 0) return 0;
    return static_cast<std::uint64_t>(((runs - 1) * ld + length) * size_of(type));
}

cudaDataType arithmetic(cublasComputeType_t compute, cudaDataType operand) {
    const bool is_complex = operand == CUDA_C_32F || operand == CUDA_C_64F;
    switch (compute) {
        case CUBLAS_COMPUTE_16F:
        case CUBLAS_COMPUTE_16F_PEDANTIC:
        case CUBLAS_COMPUTE_32F:
        case CUBLAS_COMPUTE_32F_PEDANTIC:
        case CUBLAS_COMPUTE_32F_FAST_16F:
        case CUBLAS_COMPUTE_32F_FAST_16BF:
        case CUBLAS_COMPUTE_32F_FAST_TF32:
            return is_complex ? CUDA_C_32F : CUDA_R_32F;
        case CUBLAS_COMPUTE_64F:
        case CUBLAS_COMPUTE_64F_PEDANTIC:
            return is_complex ? CUDA_C_64F : CUDA_R_64F;
        case CUBLAS_COMPUTE_32I:
        case CUBLAS_COMPUTE_32I_PEDANTIC:
            return CUDA_R_64F;
    }
    throw Refusal(CUBLAS_STATUS_NOT_SUPPORTED);
}

cudaDataType scale_type(cublasComputeType_t compute, cudaDataType c) {
    if (compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC) return CUDA_R_16F;
    if (compute == CUBLAS_COMPUTE_32I || compute == CUBLAS_COMPUTE_32I_PEDANTIC) return CUDA_R_32I;
    return arithmetic(compute, c);
}

void require_types(cublasComputeType_t compute, cudaDataType scale, cudaDataType a, cudaDataType b,
                   cudaDataType d) {
    const auto supported = [](bool condition) { require(condition, CUBLAS_STATUS_NOT_SUPPORTED); };
    supported(a == b);
    const cudaDataType in = arithmetic(compute, a);
    switch (compute) {
        case CUBLAS_COMPUTE_16F:
        case CUBLAS_COMPUTE_16F_PEDANTIC:
            supported(a == CUDA_R_16F && d == CUDA_R_16F && scale == CUDA_R_16F);
            return;
        case CUBLAS_COMPUTE_32I:
        case CUBLAS_COMPUTE_32I_PEDANTIC:
            supported(a == CUDA_R_8I && d == CUDA_R_32I && scale == CUDA_R_32I);
            return;
        default:
            break;
    }
    supported(scale == in);
    if (in != CUDA_R_32F) {
        supported(a == in && d == in);
    } else if (a == CUDA_R_32F) {
        supported(d == CUDA_R_32F);
    } else {
        supported((a == CUDA_R_16F || a == CUDA_R_16BF || a == CUDA_R_8I) &&
                  (d == CUDA_R_32F || (d == a && a != CUDA_R_8I)));
    }
}

void require_shapes(cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
                    std::int64_t k, std::int64_t lda, std::int64_t ldb, std::int64_t ldc) {
    const auto known = [](cublasOperation_t op) { return op >= CUBLAS_OP_N && op <= CUBLAS_OP_C; };
    require(known(op_a) && known(op_b) && m >= 0 && n >= 0 && k >= 0);
    const auto fits = [](std::int64_t ld, std::int64_t rows) {
        return ld >= std::max<std::int64_t>(1, rows);
    };
    require(fits(lda, op_a == CUBLAS_OP_N ? m : k) && fits(ldb, op_b == CUBLAS_OP_N ? k : n) &&
            fits(ldc, m));
}

template <class T>
Dense<T> load(const Matrix& matrix) {
    require_mapped(matrix.address, matrix.bytes());
    if (matrix.type == data_type<T> && !matrix.row_major)
        return {static_cast<const T*>(matrix.address), matrix.ld, {}};
    Dense<T> dense;
    dense.ld = std::max<std::int64_t>(1, matrix.rows);
    dense.copy.resize(static_cast<std::size_t>(matrix.rows * matrix.columns));
    with_type(matrix.type, [&](auto t) {
        const auto* const from = static_cast<const typename decltype(t)::type*>(matrix.address);
        for (std::int64_t j = 0; j < matrix.columns; ++j)
            for (std::int64_t i = 0; i < matrix.rows; ++i)
                dense.copy[static_cast<std::size_t>(j * matrix.rows + i)] = convert<T>(
                    matrix.row_major ? from[i * matrix.ld + j] : from[j * matrix.ld + i]);
    });
    dense.data = dense.copy.data();
    return dense;
}

template <class T>
void store(const T* values, std::int64_t ld, const Matrix& matrix) {
    require_mapped(matrix.address, matrix.bytes());
    with_type(matrix.type, [&](auto t) {
        using Element = typename decltype(t)::type;
        auto* const to = static_cast<Element*>(const_cast<void*>(matrix.address));
        for (std::int64_t j = 0; j < matrix.columns; ++j)
            for (std::int64_t i = 0; i < matrix.rows; ++i)
                (matrix.row_major ? to[i * matrix.ld + j] : to[j * matrix.ld + i]) =
                    convert<Element>(values[j * ld + i]);
    });
}

template <class T>
void multiply(const Product& product, T alpha, T beta,
              const std::function<void(T* values, std::int64_t ld)>& finish) {
    const Matrix& d = product.d;
    const std::int64_t m = d.rows, n = d.columns;
    if (m == 0 || n == 0) return;
    require_mapped(d.address, d.bytes());
    // With alpha 0, A and B are not read, as BLAS has it.
    const bool multiplies = product.k > 0 && alpha != T{};
    const Dense<T> a = multiplies ? load<T>(product.a) : Dense<T>{nullptr, m + product.k, {}};
    const Dense<T> b = multiplies ? load<T>(product.b) : Dense<T>{nullptr, n + product.k, {}};
    const std::int64_t k = multiplies ? product.k : 0;
    const bool reads_c = beta != T{};
    const bool in_place = d.type == data_type<T> && !d.row_major &&
                          (!reads_c || (product.c.address == d.address && product.c.ld == d.ld &&
                                        product.c.type == d.type && !product.c.row_major));
    if (in_place) {
        T* const values = static_cast<T*>(const_cast<void*>(d.address));
        gemm<T>(product.op_a, product.op_b, m, n, k, alpha, a.data, a.ld, b.data, b.ld, beta,
                values, d.ld);
        if (finish) finish(values, d.ld);
        return;
    }
    std::vector<T> sums(static_cast<std::size_t>(m * n));
    if (reads_c) {
        const Dense<T> c = load<T>(product.c);
        for (std::int64_t j = 0; j < n; ++j)
            std::copy_n(c.data + j * c.ld, m, sums.begin() + j * m);
    }
    gemm<T>(product.op_a, product.op_b, m, n, k, alpha, a.data, a.ld, b.data, b.ld, beta,
            sums.data(), m);
    if (finish) finish(sums.data(), m);
    store<T>(sums.data(), m, d);
}

#define CARREL_INSTANTIATE(T)                                      \
    template Dense<T> load<T>(const Matrix&);                      \
    template void store<T>(const T*, std::int64_t, const Matrix&); \
    template void multiply<T>(const Product&, T, T, const std::function<void(T*, std::int64_t)>&);
CARREL_INSTANTIATE(float)
CARREL_INSTANTIATE(double)
CARREL_INSTANTIATE(std::complex<float>)
CARREL_INSTANTIATE(std::complex<double>)

}  // namespace carrel::softblas
