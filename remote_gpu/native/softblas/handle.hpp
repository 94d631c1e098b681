// The library's context, and scalars and results that lie on the host or on the device as its
// pointer mode says.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

#include "softblas/device.hpp"
#include "softblas/numbers.hpp"
#include "softblas/status.hpp"

/// Used by one thread at a time, as cuBLAS' are.
struct cublasContext {
    static constexpr std::uint64_t kMagic = 0x434152424c415331;

    std::uint64_t magic = kMagic;
    cudaStream_t stream = nullptr;
    cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
    cublasAtomicsMode_t atomics_mode = CUBLAS_ATOMICS_NOT_ALLOWED;
    cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;
    int multiprocessors_wanted = 0;
};

namespace carrel::softblas {

/// Throws Refusal(NOT_INITIALIZED) for what is not a living handle.
inline cublasContext& checked(cublasHandle_t handle) {
    require(handle && handle->magic == cublasContext::kMagic, CUBLAS_STATUS_NOT_INITIALIZED);
    return *handle;
}

/// Makes a handle; throws Refusal without a current context.
cublasHandle_t create_handle();
void destroy_handle(cublasHandle_t handle);
/// The library's version, as cublasGetVersion counts.
int version();
/// The runtime's version that goes with it, as cudaRuntimeGetVersion counts.
int cudart_version();
int property(libraryPropertyType which);

/// A factor such as alpha. On the host: read now. On the device: read by the work.
class Factor {
  public:
    Factor(bool on_device, const void* at, cudaDataType type) : type_(type) {
        require(at != nullptr);
        if (on_device)
            device_ = at;
        else
            std::memcpy(value_, at, static_cast<std::size_t>(size_of(type)));
    }
    template <class T>
    Factor(const cublasContext& handle, const T* at)
        : Factor(handle.pointer_mode == CUBLAS_POINTER_MODE_DEVICE, at, data_type<T>) {}

    /// For queued work.
    template <class T>
    [[nodiscard]] T get() const {
        const void* const at = device_ ? device_ : value_;
        if (device_) require_mapped(device_, static_cast<std::uint64_t>(size_of(type_)));
        return with_type(type_, [&](auto t) {
            typename decltype(t)::type value;
            std::memcpy(&value, at, sizeof value);
            return convert<T>(value);
        });
    }

  private:
    cudaDataType type_;
    const void* device_ = nullptr;
    alignas(16) char value_[16] = {};
};

/// Queues work that ends in one result, which `compute` returns; waits for it when it belongs on
/// the host.
template <class R>
void enqueue_result(const cublasContext& handle, const char* function, R* result,
                    std::function<R()> compute) {
    require(result != nullptr);
    if (handle.pointer_mode == CUBLAS_POINTER_MODE_DEVICE) {
        enqueue(handle.stream, function, [=] {
            require_mapped(result, sizeof *result);
            *result = compute();
        });
        return;
    }
    enqueue(handle.stream, function, [=] { *result = compute(); });
    synchronize(handle.stream);
}

}  // namespace carrel::softblas
