// What cublasGetStatusName and cublasGetStatusString answer.
#pragma once

#include "softblas/abi.hpp"

namespace carrel::softblas {

inline const char* status_name(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_ALLOC_FAILED:
            return "CUBLAS_STATUS_ALLOC_FAILED";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_ARCH_MISMATCH:
            return "CUBLAS_STATUS_ARCH_MISMATCH";
        case CUBLAS_STATUS_MAPPING_ERROR:
            return "CUBLAS_STATUS_MAPPING_ERROR";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_INTERNAL_ERROR:
            return "CUBLAS_STATUS_INTERNAL_ERROR";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
        case CUBLAS_STATUS_LICENSE_ERROR:
            return "CUBLAS_STATUS_LICENSE_ERROR";
    }
    return "CUBLAS_STATUS_UNKNOWN";
}

inline const char* status_text(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "the call succeeded";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "the handle is not one, or there is no CUDA context";
        case CUBLAS_STATUS_ALLOC_FAILED:
            return "memory could not be allocated";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "an argument is invalid";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "the GPU could not run the work";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "the software GPU does not support this";
        default:
            return status_name(status);
    }
}

}  // namespace carrel::softblas
