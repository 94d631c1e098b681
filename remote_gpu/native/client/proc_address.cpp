// cuGetProcAddress: which of a function's variants serves a program built for some CUDA version.
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/exports.hpp"
#include "cuda_functions.hpp"

using carrel::client::Export;

namespace {

using Index = std::unordered_map<std::string_view, std::vector<const Export*>>;

const Index& index() {
    static const Index* const all = [] {
        auto* made = new Index;
        for (const Export& e : carrel::client::exports()) (*made)[e.base].push_back(&e);
        return made;
    }();
    return *all;
}

}  // namespace

CUresult CUDAAPI cuGetProcAddress_v2(const char* symbol, void** pfn, int cudaVersion,
                                     cuuint64_t flags,
                                     CUdriverProcAddressQueryResult* symbolStatus) {
    if (!symbol || !pfn || (flags & ~cuuint64_t{3})) return CUDA_ERROR_INVALID_VALUE;
    *pfn = nullptr;
    const auto found = index().find(symbol);
    if (found == index().end()) {
        if (symbolStatus) *symbolStatus = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        return CUDA_ERROR_NOT_FOUND;
    }
    const Export* best = nullptr;
    for (const Export* e : found->second) {
        if (e->since <= cudaVersion && (!best || e->since > best->since)) best = e;
    }
    if (!best) {
        if (symbolStatus) *symbolStatus = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        return CUDA_ERROR_NOT_FOUND;
    }
    if (symbolStatus) *symbolStatus = CU_GET_PROC_ADDRESS_SUCCESS;
    const bool per_thread = flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    *pfn = per_thread ? best->per_thread : best->function;
    return CUDA_SUCCESS;
}

// The first version of the query (CUDA 11.3) has no status and reports by its result alone.
CUresult CUDAAPI cuGetProcAddress(const char* symbol, void** pfn, int driverVersion,
                                  cuuint64_t flags) {
    return cuGetProcAddress_v2(symbol, pfn, driverVersion, flags, nullptr);
}

// Private interfaces of NVIDIA's own libraries. None is answered: see "What is out of reach".
CUresult CUDAAPI cuGetExportTable(const void** ppExportTable, const CUuuid* pExportTableId) {
    if (!ppExportTable || !pExportTableId) return CUDA_ERROR_INVALID_VALUE;
    *ppExportTable = nullptr;
    return CUDA_ERROR_NOT_FOUND;
}
