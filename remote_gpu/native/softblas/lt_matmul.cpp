#include "softblas/lt_matmul.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace carrel::softblas {
namespace {

struct Side {
    Matrix matrix;
    std::int64_t batch, stride;
};

Side side_of(cublasLtMatrixLayout_t layout) {
    const MatrixLayout& from = checked_descriptor(layout);
    const auto order = value<cublasLtOrder_t>(from, CUBLASLT_MATRIX_LAYOUT_ORDER);
    require(order == CUBLASLT_ORDER_COL || order == CUBLASLT_ORDER_ROW,
            CUBLAS_STATUS_NOT_SUPPORTED);
    Side side;
    side.matrix.type = value<cudaDataType>(from, CUBLASLT_MATRIX_LAYOUT_TYPE);
    size_of(side.matrix.type);  // refuses those that are not supported
    side.matrix.rows = value<std::int64_t>(from, CUBLASLT_MATRIX_LAYOUT_ROWS);
    side.matrix.columns = value<std::int64_t>(from, CUBLASLT_MATRIX_LAYOUT_COLS);
    side.matrix.ld = value<std::int64_t>(from, CUBLASLT_MATRIX_LAYOUT_LD);
    side.matrix.row_major = order == CUBLASLT_ORDER_ROW;
    side.batch = value<std::int32_t>(from, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
    side.stride = value<std::int64_t>(from, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
    require(side.matrix.rows >= 0 && side.matrix.columns >= 0 && side.batch >= 0);
    require(side.matrix.ld >= std::max<std::int64_t>(1, side.matrix.row_major ? side.matrix.columns
                                                                              : side.matrix.rows));
    return side;
}

// An operand stored by rows is its transpose stored by columns.
void by_columns(Matrix& matrix, cublasOperation_t& op) {
    if (!matrix.row_major) return;
    matrix.row_major = false;
    std::swap(matrix.rows, matrix.columns);
    switch (op) {
        case CUBLAS_OP_N:
            op = CUBLAS_OP_T;
            break;
        case CUBLAS_OP_T:
            op = CUBLAS_OP_N;
            break;
        default:
            op = CUBLAS_OP_CONJG;
    }
}

std::pair<std::int64_t, std::int64_t> shape(const Matrix& matrix, cublasOperation_t op) {
    return op == CUBLAS_OP_N || op == CUBLAS_OP_CONJG ? std::pair(matrix.rows, matrix.columns)
                                                      : std::pair(matrix.columns, matrix.rows);
}

void require_epilogue(const MatmulPlan& plan) {
    const unsigned epilogue = plan.finish.epilogue;
    constexpr unsigned kGradients = kEpilogueReluGradient | kEpilogueGeluGradient;
    const bool known = [&] {
        switch (epilogue & ~kEpilogueDefault) {
            case 0:
            case kEpilogueRelu:
            case kEpilogueBias:
            case kEpilogueRelu | kEpilogueBias:
            case kEpilogueRelu | kEpilogueAux:
            case kEpilogueRelu | kEpilogueAux | kEpilogueBias:
            case kEpilogueGelu:
            case kEpilogueGelu | kEpilogueBias:
            case kEpilogueGelu | kEpilogueAux:
            case kEpilogueGelu | kEpilogueAux | kEpilogueBias:
            case kEpilogueReluGradient | kEpilogueAux:
            case kEpilogueReluGradient | kEpilogueAux | kEpilogueBiasGradient:
            case kEpilogueGeluGradient | kEpilogueAux:
            case kEpilogueGeluGradient | kEpilogueAux | kEpilogueBiasGradient:
            case kEpilogueBiasGradientA:
            case kEpilogueBiasGradientB:
                return true;
            default:
                return false;
        }
    }();
    require(known, CUBLAS_STATUS_NOT_SUPPORTED);
    if ((epilogue & ~kEpilogueDefault) == 0) return;
    require(plan.arithmetic == CUDA_R_32F || plan.arithmetic == CUDA_R_64F,
            CUBLAS_STATUS_NOT_SUPPORTED);
    if (epilogue & kEpilogueAux) {
        const bool bits = (epilogue & (kEpilogueRelu | kEpilogueReluGradient)) != 0;
        require(plan.finish.aux_ld >= plan.product.d.rows &&
                (!bits || plan.finish.aux_ld % 128 == 0));
        require(bits || (epilogue & kGradients) || (epilogue & kEpilogueGelu));
    }
}

// --- epilogues ----------------------------------------------------------------------------------

// GELU by tanh, as cuBLASLt has it, and its slope.
template <class T>
T gelu(T x) {
    const T inner = std::sqrt(T{2} * std::numbers::inv_pi_v<T>) * (x + T(0.044715) * x * x * x);
    return T(0.5) * x * (T{1} + std::tanh(inner));
}
template <class T>
T gelu_slope(T x) {
    const T factor = std::sqrt(T{2} * std::numbers::inv_pi_v<T>);
    const T t = std::tanh(factor * (x + T(0.044715) * x * x * x));
    return T(0.5) * (T{1} + t) +
           T(0.5) * x * (T{1} - t * t) * factor * (T{1} + T(3 * 0.044715) * x * x);
}

Matrix column(const void* address, cudaDataType type, std::int64_t length) {
    return {address, type, length, 1, std::max<std::int64_t>(1, length), false};
}

/// One bit per element, columns `ld` bits apart.
class Mask {
  public:
    Mask(const void* address, std::int64_t rows, std::int64_t columns, std::int64_t ld)
        : bytes_(static_cast<std::uint8_t*>(const_cast<void*>(address))), ld_(ld) {
        if (rows > 0 && columns > 0)
            require_mapped(address,
                           static_cast<std::uint64_t>(((columns - 1) * ld + rows + 7) / 8));
    }
    [[nodiscard]] bool get(std::int64_t i, std::int64_t j) const {
        const std::int64_t bit = j * ld_ + i;
        return (bytes_[bit / 8] >> (bit % 8)) & 1;
    }
    void set(std::int64_t i, std::int64_t j, bool on) const {
        const std::int64_t bit = j * ld_ + i;
        const auto one = static_cast<std::uint8_t>(1u << (bit % 8));
        if (on)
            bytes_[bit / 8] |= one;
        else
            bytes_[bit / 8] &= static_cast<std::uint8_t>(~one);
    }

  private:
    std::uint8_t* bytes_;
    std::int64_t ld_;
};

template <class T, class Change>
void each(T* values, std::int64_t ld, std::int64_t rows, std::int64_t columns, Change change) {
    for (std::int64_t j = 0; j < columns; ++j)
        for (std::int64_t i = 0; i < rows; ++i) change(values[j * ld + i], i, j);
}

template <class T>
void apply(const Finish& finish, T* values, std::int64_t ld, std::int64_t rows,
           std::int64_t columns) {
    const unsigned epilogue = finish.epilogue;
    const Matrix aux{finish.aux, finish.aux_type, rows, columns, finish.aux_ld, false};
    if (epilogue & kEpilogueBias) {
        const Dense<T> bias = load<T>(column(finish.bias, finish.bias_type, rows));
        each(values, ld, rows, columns, [&](T& v, auto i, auto) { v += bias.data[i]; });
    }
    if (epilogue & kEpilogueRelu) {
        if (epilogue & kEpilogueAux) {
            const Mask mask(finish.aux, rows, columns, finish.aux_ld);
            each(values, ld, rows, columns, [&](T& v, auto i, auto j) { mask.set(i, j, v > 0); });
        }
        // NaN stays NaN
        each(values, ld, rows, columns, [](T& v, auto, auto) { v = v < 0 ? T{} : v; });
    }
    if (epilogue & kEpilogueGelu) {
        if (epilogue & kEpilogueAux) store<T>(values, ld, aux);
        each(values, ld, rows, columns, [](T& v, auto, auto) { v = gelu(v); });
    }
    if (epilogue & kEpilogueReluGradient) {
        const Mask mask(finish.aux, rows, columns, finish.aux_ld);
        each(values, ld, rows, columns, [&](T& v, auto i, auto j) {
            if (!mask.get(i, j)) v = 0;
        });
    }
    if (epilogue & kEpilogueGeluGradient) {
        const Dense<T> before = load<T>(aux);
        each(values, ld, rows, columns,
             [&](T& v, auto i, auto j) { v *= gelu_slope(before.data[j * before.ld + i]); });
    }
    if (epilogue & kEpilogueBiasGradient) {
        std::vector<T> sums(static_cast<std::size_t>(rows));
        each(values, ld, rows, columns,
             [&](T& v, auto i, auto) { sums[static_cast<std::size_t>(i)] += v; });
        store<T>(sums.data(), std::max<std::int64_t>(1, rows),
                 column(finish.bias, finish.bias_type, rows));
    }
}

/// BGRADA and BGRADB: sums of an operand over the products' inner dimension.
template <class T>
void operand_gradient(const Finish& finish, const Matrix& operand, cublasOperation_t op,
                      bool sum_columns) {
    const bool plain = op == CUBLAS_OP_N || op == CUBLAS_OP_CONJG;
    const bool by_row = sum_columns == plain;  // one sum for each stored row
    const std::int64_t length = by_row ? operand.rows : operand.columns;
    const Dense<T> values = load<T>(operand);
    std::vector<T> sums(static_cast<std::size_t>(length));
    for (std::int64_t j = 0; j < operand.columns; ++j)
        for (std::int64_t i = 0; i < operand.rows; ++i)
            sums[static_cast<std::size_t>(by_row ? i : j)] += values.data[j * values.ld + i];
    store<T>(sums.data(), std::max<std::int64_t>(1, length),
             column(finish.bias, finish.bias_type, length));
}

template <class T>
void run(const MatmulPlan& plan, const MatmulOperands& operands, T alpha, T beta) {
    const auto at = [](const void* base, std::int64_t elements, cudaDataType type) -> const void* {
        return base ? static_cast<const char*>(base) + elements * size_of(type) : nullptr;
    };
    const bool bits = (plan.finish.epilogue & (kEpilogueRelu | kEpilogueReluGradient)) != 0;
    for (std::int64_t i = 0; i < plan.batch; ++i) {
        Product product = plan.product;
        product.a.address = at(operands.a, i * plan.stride_a, product.a.type);
        product.b.address = at(operands.b, i * plan.stride_b, product.b.type);
        product.c.address = at(operands.c, i * plan.stride_c, product.c.type);
        product.d.address = at(operands.d, i * plan.stride_d, product.d.type);
        Finish finish = plan.finish;
        finish.bias = at(finish.bias, i * plan.stride_bias, finish.bias_type);
        finish.aux = bits ? at(finish.aux, i * plan.stride_aux / 8, CUDA_R_8I)
                          : at(finish.aux, i * plan.stride_aux, finish.aux_type);
        if constexpr (is_complex<T>) {
            multiply<T>(product, alpha, beta);
        } else {
            if (finish.epilogue & kEpilogueBiasGradientA)
                operand_gradient<T>(finish, product.a, product.op_a, true);
            if (finish.epilogue & kEpilogueBiasGradientB)
                operand_gradient<T>(finish, product.b, product.op_b, false);
            multiply<T>(product, alpha, beta, [&](T* values, std::int64_t ld) {
                apply(finish, values, ld, product.d.rows, product.d.columns);
            });
        }
    }
}

}  // namespace

MatmulPlan plan_matmul(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                       cublasLtMatrixLayout_t d) {
    const MatmulDescription& from = checked_descriptor(description);
    Side sides[] = {side_of(a), side_of(b), side_of(c), side_of(d)};
    MatmulPlan plan;
    Product& product = plan.product;
    product.op_a = value<cublasOperation_t>(from, CUBLASLT_MATMUL_DESC_TRANSA);
    product.op_b = value<cublasOperation_t>(from, CUBLASLT_MATMUL_DESC_TRANSB);
    for (const auto op : {product.op_a, product.op_b})
        require(op >= CUBLAS_OP_N && op <= CUBLAS_OP_C);
    by_columns(sides[0].matrix, product.op_a);
    by_columns(sides[1].matrix, product.op_b);
    product.a = sides[0].matrix;
    product.b = sides[1].matrix;
    product.c = sides[2].matrix;
    product.d = sides[3].matrix;
    const auto [m, k] = shape(product.a, product.op_a);
    const auto [inner, n] = shape(product.b, product.op_b);
    require(k == inner && product.d.rows == m && product.d.columns == n && product.c.rows == m &&
            product.c.columns == n);
    product.k = k;
    plan.batch = sides[3].batch;
    for (const Side& side : sides) require(side.batch == plan.batch);
    plan.stride_a = sides[0].stride;
    plan.stride_b = sides[1].stride;
    plan.stride_c = sides[2].stride;
    plan.stride_d = sides[3].stride;

    const auto compute = value<cublasComputeType_t>(from, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE);
    plan.scale = value<cudaDataType>(from, CUBLASLT_MATMUL_DESC_SCALE_TYPE);
    require_types(compute, plan.scale, product.a.type, product.b.type, product.d.type);
    require(product.c.type == product.d.type, CUBLAS_STATUS_NOT_SUPPORTED);
    plan.arithmetic = arithmetic(compute, product.a.type);
    const auto pointer_mode = value<std::int32_t>(from, CUBLASLT_MATMUL_DESC_POINTER_MODE);
    require(pointer_mode == CUBLAS_POINTER_MODE_HOST || pointer_mode == CUBLAS_POINTER_MODE_DEVICE,
            CUBLAS_STATUS_NOT_SUPPORTED);
    plan.scalars_on_device = pointer_mode == CUBLAS_POINTER_MODE_DEVICE;
    require(value<cublasOperation_t>(from, CUBLASLT_MATMUL_DESC_TRANSC) == CUBLAS_OP_N &&
                value<std::int32_t>(from, CUBLASLT_MATMUL_DESC_FILL_MODE) == 2,
            CUBLAS_STATUS_NOT_SUPPORTED);
    for (const int scaled :
         {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
          CUBLASLT_MATMUL_DESC_C_SCALE_POINTER, CUBLASLT_MATMUL_DESC_D_SCALE_POINTER,
          CUBLASLT_MATMUL_DESC_AMAX_D_POINTER})
        require(value<std::uint64_t>(from, scaled) == 0, CUBLAS_STATUS_NOT_SUPPORTED);

    Finish& finish = plan.finish;
    const auto address = [&](int attribute) {
        return reinterpret_cast<const void*>(value<std::uint64_t>(from, attribute));
    };
    const auto type = [&](int attribute) {
        const auto wanted = value<std::int32_t>(from, attribute);
        return wanted == -1 ? product.d.type : static_cast<cudaDataType>(wanted);
    };
    finish.epilogue = value<std::uint32_t>(from, CUBLASLT_MATMUL_DESC_EPILOGUE);
    finish.bias = address(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
    finish.bias_type = type(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
    finish.aux = address(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
    finish.aux_type = type(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE);
    finish.aux_ld = value<std::int64_t>(from, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
    plan.stride_bias = value<std::int64_t>(from, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE);
    plan.stride_aux = value<std::int64_t>(from, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE);
    size_of(finish.bias_type);
    size_of(finish.aux_type);
    require_epilogue(plan);
    return plan;
}

void queue_matmul(const MatmulPlan& plan, const MatmulOperands& operands, cudaStream_t stream) {
    const Factor alpha(plan.scalars_on_device, operands.alpha, plan.scale);
    const Factor beta(plan.scalars_on_device, operands.beta, plan.scale);
    const unsigned epilogue = plan.finish.epilogue;
    constexpr unsigned kUsesBias =
        kEpilogueBias | kEpilogueBiasGradient | kEpilogueBiasGradientA | kEpilogueBiasGradientB;
    require(!(epilogue & kUsesBias) || plan.finish.bias);
    require(!(epilogue & kEpilogueAux) || plan.finish.aux);
    if (plan.product.d.rows == 0 || plan.product.d.columns == 0 || plan.batch == 0) return;
    enqueue(stream, "cublasLtMatmul", [=] {
        switch (plan.arithmetic) {
            case CUDA_R_32F:
                return run(plan, operands, alpha.get<float>(), beta.get<float>());
            case CUDA_R_64F:
                return run(plan, operands, alpha.get<double>(), beta.get<double>());
            case CUDA_C_32F:
                return run(plan, operands, alpha.get<cuComplex>(), beta.get<cuComplex>());
            default:
                return run(plan, operands, alpha.get<cuDoubleComplex>(),
                           beta.get<cuDoubleComplex>());
        }
    });
}

}  // namespace carrel::softblas
