// cublasLtMatmul: a batch of products, each with an epilogue.
#pragma once

#include <cstdint>

#include "softblas/lt_descriptors.hpp"
#include "softblas/product.hpp"

namespace carrel::softblas {

/// What is added to a product or made of it before it is stored; device addresses of one matrix of
/// the batch. Element (i, j): row i, column j of D.
struct Finish {
    unsigned epilogue = kEpilogueDefault;
    const void* bias = nullptr;  // rows of D elements; for gradients written
    cudaDataType bias_type = CUDA_R_32F;
    const void* aux = nullptr;  // of ReLU: one bit per element; of GELU: the values before it
    cudaDataType aux_type = CUDA_R_32F;
    std::int64_t aux_ld = 0;  // elements, of ReLU: bits
};

/// A call of cublasLtMatmul, checked: everything but where the operands and scalars lie.
struct MatmulPlan {
    Product product;  // without addresses
    Finish finish;    // those of the first matrix
    std::int64_t batch = 1;
    std::int64_t stride_a = 0, stride_b = 0, stride_c = 0, stride_d = 0;  // elements
    std::int64_t stride_bias = 0, stride_aux = 0;
    cudaDataType scale = CUDA_R_32F, arithmetic = CUDA_R_32F;
    bool scalars_on_device = false;
};

/// Throws Refusal: INVALID_VALUE for what contradicts itself, NOT_SUPPORTED for what is not here.
[[nodiscard]] MatmulPlan plan_matmul(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                     cublasLtMatrixLayout_t d);

struct MatmulOperands {
    const void* alpha;
    const void* a;
    const void* b;
    const void* beta;
    const void* c;
    void* d;
};

void queue_matmul(const MatmulPlan& plan, const MatmulOperands& operands, cudaStream_t stream);

}  // namespace carrel::softblas
