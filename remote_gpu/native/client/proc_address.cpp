// cuGetProcAddress: which of a function's variants serves a program built for some CUDA version.
#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/exports.hpp"
#include "cuda_functions.hpp"
#include "wire/log.hpp"

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

namespace {

// Tables that only NVIDIA's runtime library asks for; it stops at the first that it does not get.
constexpr unsigned char kRuntimesOwn[][16] = {
    {0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d,
     0xf9},
    {0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c, 0x66, 0xe1,
     0xf2},
};

void explain_static_runtime(const void* caller) {
    static std::atomic<bool> told{false};
    if (told.exchange(true)) return;
    Dl_info where{};
    const bool known = dladdr(caller, &where) && where.dli_fname;
    CARREL_WARNING(
        "%s has NVIDIA's CUDA runtime linked into it, which runs on NVIDIA's own driver only. "
        "Build "
        "it with the shared runtime (nvcc -cudart shared; CMake: CUDA_RUNTIME_LIBRARY Shared), and "
        "it runs on this slice.",
        known ? where.dli_fname : "a library of this program");
}

}  // namespace

// Private interfaces of NVIDIA's own libraries. None is answered (ARCHITECTURE.md, decision 2).
CUresult CUDAAPI cuGetExportTable(const void** ppExportTable, const CUuuid* pExportTableId) {
    if (!ppExportTable || !pExportTableId) return CUDA_ERROR_INVALID_VALUE;
    *ppExportTable = nullptr;
    for (const auto& table : kRuntimesOwn) {
        if (std::memcmp(pExportTableId, table, sizeof table) == 0) {
            explain_static_runtime(__builtin_return_address(0));
        }
    }
    return CUDA_ERROR_NOT_FOUND;
}
