// cuBLASLt's descriptors: attributes by number, kept in the caller's memory or in ours.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "softblas/numbers.hpp"
#include "softblas/status.hpp"

namespace carrel::softblas {

struct Attribute {
    int number;
    std::uint8_t bytes;
};

/// Plain words: cuBLASLt lets programs hold descriptors by value, in opaque structs of a given
/// size.
template <std::uint64_t kMagicWord, std::size_t kCount>
struct Attributes {
    static constexpr std::uint64_t kMagic = kMagicWord;
    std::uint64_t magic;
    std::array<std::uint64_t, kCount> words;
};

inline constexpr std::array kMatmulAttributes =
    std::to_array<Attribute>({{CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, 4},
                              {CUBLASLT_MATMUL_DESC_SCALE_TYPE, 4},
                              {CUBLASLT_MATMUL_DESC_POINTER_MODE, 4},
                              {CUBLASLT_MATMUL_DESC_TRANSA, 4},
                              {CUBLASLT_MATMUL_DESC_TRANSB, 4},
                              {CUBLASLT_MATMUL_DESC_TRANSC, 4},
                              {CUBLASLT_MATMUL_DESC_FILL_MODE, 4},
                              {CUBLASLT_MATMUL_DESC_EPILOGUE, 4},
                              {CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, 8},
                              {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8},
                              {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 8},
                              {CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, 4},
                              {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_C_SCALE_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, 8},
                              {CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, 4},
                              {CUBLASLT_MATMUL_DESC_FAST_ACCUM, 1},
                              {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 4}});
inline constexpr std::array kLayoutAttributes =
    std::to_array<Attribute>({{CUBLASLT_MATRIX_LAYOUT_TYPE, 4},
                              {CUBLASLT_MATRIX_LAYOUT_ORDER, 4},
                              {CUBLASLT_MATRIX_LAYOUT_ROWS, 8},
                              {CUBLASLT_MATRIX_LAYOUT_COLS, 8},
                              {CUBLASLT_MATRIX_LAYOUT_LD, 8},
                              {CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 4},
                              {CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 8}});
inline constexpr std::array kPreferenceAttributes =
    std::to_array<Attribute>({{CUBLASLT_MATMUL_PREF_SEARCH_MODE, 4},
                              {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 8},
                              {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 4},
                              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 4},
                              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 4},
                              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 4},
                              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 4},
                              {CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, 4},
                              {CUBLASLT_MATMUL_PREF_IMPL_MASK, 8}});

}  // namespace carrel::softblas

struct MatmulDescription
    : carrel::softblas::Attributes<0x4c744d6174446573, carrel::softblas::kMatmulAttributes.size()> {
    static constexpr std::span<const carrel::softblas::Attribute> kTable =
        carrel::softblas::kMatmulAttributes;
};
struct MatrixLayout
    : carrel::softblas::Attributes<0x4c744c61796f7574, carrel::softblas::kLayoutAttributes.size()> {
    static constexpr std::span<const carrel::softblas::Attribute> kTable =
        carrel::softblas::kLayoutAttributes;
};
struct MatmulPreference
    : carrel::softblas::Attributes<0x4c74507265666572,
                                   carrel::softblas::kPreferenceAttributes.size()> {
    static constexpr std::span<const carrel::softblas::Attribute> kTable =
        carrel::softblas::kPreferenceAttributes;
};
// The opaque structs of CUDA 12, the smaller ones.
static_assert(sizeof(MatmulDescription) <= 32 * 8);
static_assert(sizeof(MatrixLayout) <= 8 * 8);
static_assert(sizeof(MatmulPreference) <= 12 * 8);

namespace carrel::softblas {

template <class D>
D& checked_descriptor(D* descriptor) {
    require(descriptor && descriptor->magic == D::kMagic);
    return *descriptor;
}

template <class D>
std::size_t slot(int number) {
    for (std::size_t i = 0; i < D::kTable.size(); ++i)
        if (D::kTable[i].number == number) return i;
    throw Refusal(CUBLAS_STATUS_NOT_SUPPORTED);
}

/// The value of an attribute as `T`.
template <class T, class D>
T value(const D& descriptor, int number) {
    static_assert(sizeof(T) <= 8);
    T result;
    std::memcpy(&result, &descriptor.words[slot<D>(number)], sizeof result);
    return result;
}

template <class T, class D>
void set_value(D& descriptor, int number, T what) {
    std::uint64_t word = 0;
    std::memcpy(&word, &what, sizeof what);
    descriptor.words[slot<D>(number)] = word;
}

template <class D>
void set_attribute(D* descriptor, int number, const void* buffer, std::size_t bytes) {
    D& into = checked_descriptor(descriptor);
    const std::size_t at = slot<D>(number);
    require(buffer && bytes == D::kTable[at].bytes);
    into.words[at] = 0;
    std::memcpy(&into.words[at], buffer, bytes);
}

template <class D>
void get_attribute(D* descriptor, int number, void* buffer, std::size_t bytes,
                   std::size_t* written) {
    const D& from = checked_descriptor(descriptor);
    const std::size_t at = slot<D>(number);
    const std::size_t needed = D::kTable[at].bytes;
    require(bytes != 0 || written);
    if (written) *written = needed;
    if (bytes == 0) return;
    require(buffer && bytes >= needed);
    std::memcpy(buffer, &from.words[at], needed);
}

void initialize(MatmulDescription& description, cublasComputeType_t compute, cudaDataType scale);
void initialize(MatrixLayout& layout, cudaDataType type, std::uint64_t rows, std::uint64_t columns,
                std::int64_t ld);
void initialize(MatmulPreference& preference);

}  // namespace carrel::softblas
