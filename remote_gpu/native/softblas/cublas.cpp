// cuBLAS' entry points: the handle's, and by generated code those of softblas.yaml.
#include "softblas/gemm.hpp"
#include "softblas/handle.hpp"
#include "softblas/products.hpp"
#include "softblas/solvers.hpp"
#include "softblas/status_names.hpp"
#include "softblas_cublas.hpp"

using carrel::softblas::checked;
using carrel::softblas::entry;
using carrel::softblas::require;
using __half = carrel::softblas::Half;

namespace {

template <class T>
cublasStatus_t get(cublasHandle_t handle, T cublasContext::* member, T* value) {
    return entry([&] {
        checked(handle);
        require(value != nullptr);
        *value = handle->*member;
    });
}

template <class T>
cublasStatus_t set(cublasHandle_t handle, T cublasContext::* member, T value) {
    return entry([&] { checked(handle).*member = value; });
}

}  // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    return entry([&] {
        require(handle != nullptr);
        *handle = carrel::softblas::create_handle();
    });
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    return entry([&] { carrel::softblas::destroy_handle(handle); });
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    return entry([&] {
        require(version != nullptr);
        *version = carrel::softblas::version();
    });
}

cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) {
    return entry([&] {
        require(value != nullptr);
        *value = carrel::softblas::property(type);
    });
}

size_t cublasGetCudartVersion() {
    return static_cast<size_t>(carrel::softblas::cudart_version());
}

const char* cublasGetStatusName(cublasStatus_t status) {
    return carrel::softblas::status_name(status);
}

const char* cublasGetStatusString(cublasStatus_t status) {
    return carrel::softblas::status_text(status);
}

// The work needs no workspace of the program's.
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void*, size_t) {
    return entry([&] { checked(handle); });
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t streamId) {
    return set(handle, &cublasContext::stream, streamId);
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* streamId) {
    return get(handle, &cublasContext::stream, streamId);
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    if (mode != CUBLAS_POINTER_MODE_HOST && mode != CUBLAS_POINTER_MODE_DEVICE)
        return CUBLAS_STATUS_INVALID_VALUE;
    return set(handle, &cublasContext::pointer_mode, mode);
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
    return get(handle, &cublasContext::pointer_mode, mode);
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode) {
    return set(handle, &cublasContext::atomics_mode, mode);
}
cublasStatus_t cublasGetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t* mode) {
    return get(handle, &cublasContext::atomics_mode, mode);
}

// Every mode is as exact as single precision: TF32 and reduced sums are permissions, not orders.
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    return set(handle, &cublasContext::math_mode, mode);
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
    return get(handle, &cublasContext::math_mode, mode);
}

cublasStatus_t cublasSetSmCountTarget(cublasHandle_t handle, int smCountTarget) {
    if (smCountTarget < 0) return CUBLAS_STATUS_INVALID_VALUE;
    return set(handle, &cublasContext::multiprocessors_wanted, smCountTarget);
}
cublasStatus_t cublasGetSmCountTarget(cublasHandle_t handle, int* smCountTarget) {
    return get(handle, &cublasContext::multiprocessors_wanted, smCountTarget);
}

#include "softblas_cublas.inc"
