#include "nulllibraries/shapes.hpp"

#include <algorithm>
#include <string_view>

#include "nulllibraries/objects.hpp"

namespace carrel::null {
namespace {

// Products of matrices of one type: batch x (m x k) (k x n).
CarrelModelledWork product(int64_t m, int64_t n, int64_t k, int64_t batch, CarrelUnit unit,
                           int64_t element, double operations) {
    const double rows = static_cast<double>(m), columns = static_cast<double>(n);
    const double depth = static_cast<double>(k), times = static_cast<double>(batch);
    return {.unit = unit,
            .operations = operations * rows * columns * depth * times,
            .bytes = static_cast<double>(element) * times *
                     (rows * depth + depth * columns + rows * columns)};
}

CarrelUnit unit_of(int64_t type) {
    switch (library::size(type)) {
        case 1:
        case 2:
            return CARREL_UNIT_TENSOR;
        case 8:
        case 16:
            return CARREL_UNIT_FP64;
        default:
            return CARREL_UNIT_FP32;
    }
}

int64_t number(uint64_t argument) {
    return static_cast<int32_t>(argument);
}

// cublasSgemm_v2 and its like: (handle, op, op, m, n, k, …)
CarrelModelledWork blas(std::string_view name, const uint64_t* a, uint16_t count) {
    const bool ex = name.find("Ex") != std::string_view::npos;
    const bool batched = name.find("Batched") != std::string_view::npos;
    const bool strided = name.find("Strided") != std::string_view::npos;
    int64_t batch = 1;
    if (batched) batch = number(a[ex ? count - 3 : count - 1]);
    if (ex) {
        const int64_t type = number(a[8]);
        return product(number(a[3]), number(a[4]), number(a[5]), batch, unit_of(type),
                       library::size(type), 2);
    }
    (void)strided;
    const char letter = name[sizeof("cublas") - 1];
    const bool complex = letter == 'C' || letter == 'Z';
    const CarrelUnit unit = letter == 'H'                    ? CARREL_UNIT_TENSOR
                            : letter == 'D' || letter == 'Z' ? CARREL_UNIT_FP64
                                                             : CARREL_UNIT_FP32;
    const int64_t element = letter == 'H' ? 2 : letter == 'Z' ? 16 : letter == 'S' ? 4 : 8;
    return product(number(a[3]), number(a[4]), number(a[5]), batch, unit, element, complex ? 8 : 2);
}

// cublasLtMatmul(handle, desc, alpha, A, Adesc, B, Bdesc, beta, C, Cdesc, D, Ddesc, …)
CarrelModelledWork matmul(const uint64_t* a) {
    const Object* const left = Objects::instance().find(a[4]);
    const Object* const result = Objects::instance().find(a[11]);
    if (!left || !result || result->rows <= 0) return {};
    return product(result->rows, result->columns, left->rows * left->columns / result->rows,
                   std::max<int64_t>(1, result->batch), unit_of(left->type),
                   library::size(left->type), 2);
}

}  // namespace

CarrelModelledWork work_of(const char* function, const uint64_t* arguments, uint16_t count) {
    const std::string_view name = function;
    if (name == "cublasLtMatmul") return matmul(arguments);
    const bool plain = name.find("_64") == std::string_view::npos;
    if (plain && name.starts_with("cublas") &&
        (name.find("gemm") != std::string_view::npos ||
         name.find("Gemm") != std::string_view::npos))
        return blas(name, arguments, count);
    return {};
}

}  // namespace carrel::null
