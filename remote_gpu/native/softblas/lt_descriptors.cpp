#include "softblas/lt_descriptors.hpp"

#include <limits>

namespace carrel::softblas {

void initialize(MatmulDescription& description, cublasComputeType_t compute, cudaDataType scale) {
    size_of(scale);  // refuses unknown ones
    description = {};
    description.magic = MatmulDescription::kMagic;
    set_value(description, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute);
    set_value(description, CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale);
    set_value(description, CUBLASLT_MATMUL_DESC_EPILOGUE, std::uint32_t{kEpilogueDefault});
    set_value(description, CUBLASLT_MATMUL_DESC_FILL_MODE, std::int32_t{2});  // full
    set_value(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, std::int32_t{-1});
    set_value(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, std::int32_t{-1});
}

void initialize(MatrixLayout& layout, cudaDataType type, std::uint64_t rows, std::uint64_t columns,
                std::int64_t ld) {
    layout = {};
    layout.magic = MatrixLayout::kMagic;
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_TYPE, type);
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL);
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, rows);
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_COLS, columns);
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_LD, ld);
    set_value(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t{1});
}

void initialize(MatmulPreference& preference) {
    preference = {};
    preference.magic = MatmulPreference::kMagic;
    set_value(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
              std::numeric_limits<std::uint32_t>::max());
    for (const int alignment :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        set_value(preference, alignment, std::uint32_t{256});
    set_value(preference, CUBLASLT_MATMUL_PREF_IMPL_MASK,
              std::numeric_limits<std::uint64_t>::max());
}

}  // namespace carrel::softblas
