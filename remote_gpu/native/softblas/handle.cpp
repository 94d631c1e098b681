#include "softblas/handle.hpp"

#include <memory>

#include "softblas/gemm.hpp"

namespace carrel::softblas {
namespace {

// The release whose signatures remote_gpu/api/libraries describes, by major of the file's name.
constexpr int kMinor = CARREL_CUDA_MAJOR == 12 ? 9 : 4;

}  // namespace

cublasHandle_t create_handle() {
    require(has_context(), CUBLAS_STATUS_NOT_INITIALIZED);
    load_openblas();
    return std::make_unique<cublasContext>().release();
}

void destroy_handle(cublasHandle_t handle) {
    const std::unique_ptr<cublasContext> owned(&checked(handle));
    owned->magic = 0;
}

int property(libraryPropertyType which) {
    switch (which) {
        case MAJOR_VERSION:
            return CARREL_CUDA_MAJOR;
        case MINOR_VERSION:
            return kMinor;
        case PATCH_LEVEL:
            return 0;
    }
    throw Refusal(CUBLAS_STATUS_INVALID_VALUE);
}

int version() {
    return CARREL_CUDA_MAJOR * 10000 + kMinor * 100;
}

int cudart_version() {
    return CARREL_CUDA_MAJOR * 1000;
}

}  // namespace carrel::softblas
