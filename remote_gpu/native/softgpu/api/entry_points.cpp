// cuGetProcAddress, cuGetExportTable: functions by name.
#include <algorithm>

#include "cuda_functions.hpp"
#include "softgpu/exports.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

// The newest variant of `symbol` that a program built for `version` may use; null: none.
const Export* find_export(std::string_view symbol, int version) {
    const Export* best = nullptr;
    for (const Export& row : exports())
        if (row.name == symbol && row.since <= std::min(version, kDriverVersion) &&
            (!best || row.since > best->since))
            best = &row;
    return best;
}

}  // namespace

CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion, cuuint64_t flags,
                             CUdriverProcAddressQueryResult* symbolStatus) {
    if (!symbol || !pfn) return CUDA_ERROR_INVALID_VALUE;
    if (flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) return CUDA_ERROR_INVALID_VALUE;
    const Export* row = find_export(symbol, cudaVersion);
    *pfn = nullptr;
    if (row)
        *pfn =
            flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM ? row->per_thread : row->address;
    const bool newer = !row && find_export(symbol, kDriverVersion);
    if (symbolStatus)
        *symbolStatus = row     ? CU_GET_PROC_ADDRESS_SUCCESS
                        : newer ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                                : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return row || symbolStatus ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char* symbol, void** pfn, int driverVersion, cuuint64_t flags) {
    return cuGetProcAddress_v2(symbol, pfn, driverVersion, flags, nullptr);
}

// Export tables are NVIDIA's private interfaces; none of them is ours.
CUresult cuGetExportTable(const void** ppExportTable, const CUuuid* pExportTableId) {
    if (!ppExportTable || !pExportTableId) return CUDA_ERROR_INVALID_VALUE;
    *ppExportTable = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
