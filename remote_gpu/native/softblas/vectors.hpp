// Level 1: vectors. Device addresses; negative increments count from the end, as BLAS has it.
#pragma once

#include <algorithm>
#include <cmath>

#include "softblas/handle.hpp"

namespace carrel::softblas {

/// Element `i` of a vector of `n` with an increment. Memory is checked when made.
template <class T>
class Vector {
  public:
    Vector(T* at, std::int64_t n, std::int64_t increment) : step_(increment) {
        require_vector(at, n, increment);
        first_ = increment < 0 && n > 0 ? at + (1 - n) * increment : at;
    }
    T& operator[](std::int64_t i) const { return first_[i * step_]; }

  private:
    T* first_;
    std::int64_t step_;
};

/// In which type sums of T are kept.
template <class T>
using Sum = std::conditional_t<is_complex<T>, std::complex<double>, double>;

template <class A, class T>
void scal(cublasHandle_t handle, const char* function, std::int64_t n, const A* alpha, T* x,
          std::int64_t incx) {
    const Factor factor(checked(handle), alpha);
    enqueue(handle->stream, function, [=] {
        if (n <= 0 || incx <= 0) return;
        const Vector<T> out(x, n, incx);
        const A by = factor.get<A>();
        for (std::int64_t i = 0; i < n; ++i) out[i] *= by;
    });
}

template <class T>
void axpy(cublasHandle_t handle, const char* function, std::int64_t n, const T* alpha, const T* x,
          std::int64_t incx, T* y, std::int64_t incy) {
    const Factor factor(checked(handle), alpha);
    enqueue(handle->stream, function, [=] {
        const Vector<const T> from(x, n, incx);
        const Vector<T> to(y, n, incy);
        const T by = factor.get<T>();
        for (std::int64_t i = 0; i < n; ++i) to[i] += by * from[i];
    });
}

template <class T>
void copy(cublasHandle_t handle, const char* function, std::int64_t n, const T* x,
          std::int64_t incx, T* y, std::int64_t incy) {
    enqueue(checked(handle).stream, function, [=] {
        const Vector<const T> from(x, n, incx);
        const Vector<T> to(y, n, incy);
        for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
    });
}

template <class T>
void swap(cublasHandle_t handle, const char* function, std::int64_t n, T* x, std::int64_t incx,
          T* y, std::int64_t incy) {
    enqueue(checked(handle).stream, function, [=] {
        const Vector<T> a(x, n, incx), b(y, n, incy);
        for (std::int64_t i = 0; i < n; ++i) std::swap(a[i], b[i]);
    });
}

template <bool kConjugate, class T>
void dot_product(cublasHandle_t handle, const char* function, std::int64_t n, const T* x,
                 std::int64_t incx, const T* y, std::int64_t incy, T* result) {
    enqueue_result<T>(checked(handle), function, result, [=] {
        const Vector<const T> a(x, n, incx), b(y, n, incy);
        Sum<T> sum{};
        for (std::int64_t i = 0; i < n; ++i)
            sum += convert<Sum<T>>(kConjugate ? conjugate(a[i]) : a[i]) * convert<Sum<T>>(b[i]);
        return convert<T>(sum);
    });
}
template <class... Arguments>
void dot(Arguments... arguments) {
    dot_product<false>(arguments...);
}
template <class... Arguments>
void dotc(Arguments... arguments) {
    dot_product<true>(arguments...);
}

/// cublasDotEx: operands of one type, summed in double.
inline void dot_ex(cublasHandle_t handle, const char* function, std::int64_t n, const void* x,
                   cudaDataType x_type, std::int64_t incx, const void* y, cudaDataType y_type,
                   std::int64_t incy, void* result, cudaDataType result_type, cudaDataType) {
    checked(handle);
    require(x_type == y_type && x_type == result_type, CUBLAS_STATUS_NOT_SUPPORTED);
    with_type(x_type, [&](auto t) {
        using T = typename decltype(t)::type;
        if constexpr (std::is_integral_v<T>) throw Refusal(CUBLAS_STATUS_NOT_SUPPORTED);
        enqueue_result<T>(*handle, function, static_cast<T*>(result), [=] {
            const Vector<const T> a(static_cast<const T*>(x), n, incx);
            const Vector<const T> b(static_cast<const T*>(y), n, incy);
            Sum<T> sum{};
            for (std::int64_t i = 0; i < n; ++i)
                sum += convert<Sum<T>>(a[i]) * convert<Sum<T>>(b[i]);
            return convert<T>(sum);
        });
    });
}

template <class T>
void nrm2(cublasHandle_t handle, const char* function, std::int64_t n, const T* x,
          std::int64_t incx, Real<T>* result) {
    enqueue_result<Real<T>>(checked(handle), function, result, [=]() -> Real<T> {
        if (n <= 0 || incx <= 0) return 0;
        const Vector<const T> from(x, n, incx);
        double largest = 0, sum = 0;  // scaled, so that squares neither overflow nor vanish
        const auto add = [&](double value) {
            value = std::abs(value);
            if (value > largest) {
                sum = 1 + sum * (largest / value) * (largest / value);
                largest = value;
            } else if (value != 0) {  // NaN comes here, and stays
                sum += (value / largest) * (value / largest);
            }
        };
        for (std::int64_t i = 0; i < n; ++i) {
            add(static_cast<double>(std::real(from[i])));
            if constexpr (is_complex<T>) add(static_cast<double>(std::imag(from[i])));
        }
        return static_cast<Real<T>>(std::isinf(largest) ? largest : largest * std::sqrt(sum));
    });
}

/// |x|, for complex numbers |re| + |im|, as BLAS measures.
template <class T>
Real<T> size(const T& value) {
    if constexpr (is_complex<T>)
        return std::abs(value.real()) + std::abs(value.imag());
    else
        return std::abs(value);
}

template <class T>
void asum(cublasHandle_t handle, const char* function, std::int64_t n, const T* x,
          std::int64_t incx, Real<T>* result) {
    enqueue_result<Real<T>>(checked(handle), function, result, [=]() -> Real<T> {
        if (n <= 0 || incx <= 0) return 0;
        const Vector<const T> from(x, n, incx);
        double sum = 0;
        for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(size(from[i]));
        return static_cast<Real<T>>(sum);
    });
}

template <bool kLargest, class T, class Index>
void extreme(cublasHandle_t handle, const char* function, std::int64_t n, const T* x,
             std::int64_t incx, Index* result) {
    enqueue_result<Index>(checked(handle), function, result, [=]() -> Index {
        if (n <= 0 || incx <= 0) return 0;
        const Vector<const T> from(x, n, incx);
        std::int64_t best = 0;
        for (std::int64_t i = 1; i < n; ++i) {
            const auto value = size(from[i]), so_far = size(from[best]);
            if (kLargest ? value > so_far : value < so_far) best = i;
        }
        return static_cast<Index>(best + 1);  // counted from one
    });
}
template <class... Arguments>
void amax(Arguments... arguments) {
    extreme<true>(arguments...);
}
template <class... Arguments>
void amin(Arguments... arguments) {
    extreme<false>(arguments...);
}

}  // namespace carrel::softblas
