// cuBLASLt's entry points. There is one algorithm, it needs no workspace and takes any alignment.
#include <memory>

#include "softblas/handle.hpp"
#include "softblas/lt_matmul.hpp"
#include "softblas/status_names.hpp"
#include "softblas_cublasLt.hpp"

using namespace carrel::softblas;

namespace {

constexpr int kAlgorithm = 0;
constexpr std::uint64_t kAlgorithmWord = 0x4c74416c676f0000;  // what a cublasLtMatmulAlgo_t holds

template <class D, class... Arguments>
cublasStatus_t create(D** descriptor, Arguments... arguments) {
    return entry([&] {
        require(descriptor != nullptr);
        auto made = std::make_unique<D>();
        initialize(*made, arguments...);
        *descriptor = made.release();
    });
}

template <class D, class... Arguments>
cublasStatus_t make_in_place(D* descriptor, size_t size, Arguments... arguments) {
    return entry([&] {
        require(descriptor && size >= sizeof(D));
        initialize(*descriptor, arguments...);
    });
}

template <class D>
cublasStatus_t destroy(D* descriptor) {
    return entry([&] {
        const std::unique_ptr<D> owned(&checked_descriptor(descriptor));
        owned->magic = 0;
    });
}

void describe(cublasLtMatmulHeuristicResult_t& result, cublasStatus_t state) {
    result = {};
    result.algo.data[0] = kAlgorithmWord;
    result.state = state;
    result.wavesCount = 1;
}

cublasStatus_t heuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                         cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                         cublasLtMatmulPreference_t preference, int wanted,
                         cublasLtMatmulHeuristicResult_t results[], int* count) {
    return entry([&] {
        checked(handle);
        checked_descriptor(preference);
        require(wanted > 0 && results && count);
        *count = 0;
        static_cast<void>(plan_matmul(description, a, b, c, d));  // refuses
        describe(results[0], CUBLAS_STATUS_SUCCESS);
        *count = 1;
        for (int i = 1; i < wanted; ++i) describe(results[i], CUBLAS_STATUS_NOT_SUPPORTED);
    });
}

cublasStatus_t check(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                     cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
                     cublasLtMatmulHeuristicResult_t* result) {
    return entry([&] {
        checked(handle);
        require(algo && result);
        static_cast<void>(plan_matmul(description, a, b, c, d));  // refuses
        require(algo->data[0] == kAlgorithmWord, CUBLAS_STATUS_NOT_SUPPORTED);
        describe(*result, CUBLAS_STATUS_SUCCESS);
    });
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* lightHandle) {
    return entry([&] {
        require(lightHandle != nullptr);
        *lightHandle = create_handle();
    });
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t lightHandle) {
    return entry([&] { destroy_handle(lightHandle); });
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
    return status_name(status);
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
    return status_text(status);
}
size_t cublasLtGetVersion() {
    return static_cast<size_t>(version());
}
size_t cublasLtGetCudartVersion() {
    return static_cast<size_t>(cudart_version());
}
cublasStatus_t cublasLtGetProperty(libraryPropertyType type, int* value) {
    return entry([&] {
        require(value != nullptr);
        *value = property(type);
    });
}

// Nothing is worth remembering about one algorithm.
cublasStatus_t cublasLtHeuristicsCacheGetCapacity(size_t* capacity) {
    return entry([&] {
        require(capacity != nullptr);
        *capacity = 0;
    });
}
cublasStatus_t cublasLtHeuristicsCacheSetCapacity(size_t) {
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t matLayout, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
    return make_in_place(matLayout, size, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* matLayout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    return create(matLayout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t matLayout) {
    return destroy(matLayout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t matLayout,
                                                cublasLtMatrixLayoutAttribute_t attr,
                                                const void* buf, size_t sizeInBytes) {
    return entry([&] { set_attribute(matLayout, attr, buf, sizeInBytes); });
}
cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t matLayout,
                                                cublasLtMatrixLayoutAttribute_t attr, void* buf,
                                                size_t sizeInBytes, size_t* sizeWritten) {
    return entry([&] { get_attribute(matLayout, attr, buf, sizeInBytes, sizeWritten); });
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t matmulDesc, size_t size,
                                               cublasComputeType_t computeType,
                                               cudaDataType_t scaleType) {
    return make_in_place(matmulDesc, size, computeType, scaleType);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* matmulDesc,
                                        cublasComputeType_t computeType, cudaDataType_t scaleType) {
    return create(matmulDesc, computeType, scaleType);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t matmulDesc) {
    return destroy(matmulDesc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t matmulDesc,
                                              cublasLtMatmulDescAttributes_t attr, const void* buf,
                                              size_t sizeInBytes) {
    return entry([&] { set_attribute(matmulDesc, attr, buf, sizeInBytes); });
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t matmulDesc,
                                              cublasLtMatmulDescAttributes_t attr, void* buf,
                                              size_t sizeInBytes, size_t* sizeWritten) {
    return entry([&] { get_attribute(matmulDesc, attr, buf, sizeInBytes, sizeWritten); });
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t pref, size_t size) {
    return make_in_place(pref, size);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* pref) {
    return create(pref);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref) {
    return destroy(pref);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void* buf, size_t sizeInBytes) {
    return entry([&] { set_attribute(pref, attr, buf, sizeInBytes); });
}
cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    void* buf, size_t sizeInBytes,
                                                    size_t* sizeWritten) {
    return entry([&] { get_attribute(pref, attr, buf, sizeInBytes, sizeWritten); });
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc, cublasLtMatrixLayout_t Adesc,
    cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
    cublasLtMatmulPreference_t preference, int requestedAlgoCount,
    cublasLtMatmulHeuristicResult_t heuristicResultsArray[], int* returnAlgoCount) {
    return heuristic(lightHandle, operationDesc, Adesc, Bdesc, Cdesc, Ddesc, preference,
                     requestedAlgoCount, heuristicResultsArray, returnAlgoCount);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristicForStream(
    cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc, cublasLtMatrixLayout_t Adesc,
    cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
    cublasLtMatmulPreference_t preference, int requestedAlgoCount,
    cublasLtMatmulHeuristicResult_t heuristicResultsArray[], int* returnAlgoCount, cudaStream_t) {
    return heuristic(lightHandle, operationDesc, Adesc, Bdesc, Cdesc, Ddesc, preference,
                     requestedAlgoCount, heuristicResultsArray, returnAlgoCount);
}
cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t lightHandle,
                                        cublasComputeType_t computeType, cudaDataType_t scaleType,
                                        cudaDataType_t Atype, cudaDataType_t Btype,
                                        cudaDataType_t Ctype, cudaDataType_t Dtype,
                                        int requestedAlgoCount, int algoIdsArray[],
                                        int* returnAlgoCount) {
    return entry([&] {
        checked(lightHandle);
        require(requestedAlgoCount > 0 && algoIdsArray && returnAlgoCount);
        require_types(computeType, scaleType, Atype, Btype, Dtype);
        require(Ctype == Dtype, CUBLAS_STATUS_NOT_SUPPORTED);
        algoIdsArray[0] = kAlgorithm;
        *returnAlgoCount = 1;
    });
}
cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t lightHandle, cublasComputeType_t computeType,
                                      cudaDataType_t scaleType, cudaDataType_t Atype,
                                      cudaDataType_t Btype, cudaDataType_t, cudaDataType_t Dtype,
                                      int algoId, cublasLtMatmulAlgo_t* algo) {
    return entry([&] {
        checked(lightHandle);
        require(algo && algoId == kAlgorithm);
        require_types(computeType, scaleType, Atype, Btype, Dtype);
        *algo = {};
        algo->data[0] = kAlgorithmWord;
    });
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t lightHandle,
                                       cublasLtMatmulDesc_t operationDesc,
                                       cublasLtMatrixLayout_t Adesc, cublasLtMatrixLayout_t Bdesc,
                                       cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
                                       const cublasLtMatmulAlgo_t* algo,
                                       cublasLtMatmulHeuristicResult_t* result) {
    return check(lightHandle, operationDesc, Adesc, Bdesc, Cdesc, Ddesc, algo, result);
}
cublasStatus_t cublasLtMatmulAlgoCheckForStream(
    cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc, cublasLtMatrixLayout_t Adesc,
    cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
    const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result, cudaStream_t) {
    return check(lightHandle, operationDesc, Adesc, Bdesc, Cdesc, Ddesc, algo, result);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t computeDesc,
                              const void* alpha, const void* A, cublasLtMatrixLayout_t Adesc,
                              const void* B, cublasLtMatrixLayout_t Bdesc, const void* beta,
                              const void* C, cublasLtMatrixLayout_t Cdesc, void* D,
                              cublasLtMatrixLayout_t Ddesc, const cublasLtMatmulAlgo_t* algo, void*,
                              size_t, cudaStream_t stream) {
    return entry([&] {
        checked(lightHandle);
        require(!algo || algo->data[0] == kAlgorithmWord);
        queue_matmul(plan_matmul(computeDesc, Adesc, Bdesc, Cdesc, Ddesc),
                     {alpha, A, B, beta, C, D}, stream);
    });
}
