// The driver's log of errors in words. Carrel's own words go to stderr, as they always have; this
// log is empty, so that callbacks are kept and never called.
#include <cstdio>
#include <memory>
#include <mutex>
#include <set>

#include "cuda_functions.hpp"

namespace {

std::mutex mutex;

std::set<CUlogsCallbackHandle>& registered() {
    static auto* const all = new std::set<CUlogsCallbackHandle>;  // outlives every user
    return *all;
}

}  // namespace

CUresult CUDAAPI cuLogsRegisterCallback(CUlogsCallback callbackFunc, void*,
                                        CUlogsCallbackHandle* callback_out) {
    if (!callbackFunc || !callback_out) return CUDA_ERROR_INVALID_VALUE;
    const std::lock_guard lock(mutex);
    static uint64_t last = 0;
    *callback_out = reinterpret_cast<CUlogsCallbackHandle>(++last);
    registered().insert(*callback_out);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLogsUnregisterCallback(CUlogsCallbackHandle callback) {
    const std::lock_guard lock(mutex);
    return registered().erase(callback) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuLogsCurrent(CUlogIterator* iterator_out, unsigned int flags) {
    if (!iterator_out || flags) return CUDA_ERROR_INVALID_VALUE;
    *iterator_out = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLogsDumpToFile(CUlogIterator*, const char* pathToFile, unsigned int flags) {
    if (!pathToFile || flags) return CUDA_ERROR_INVALID_VALUE;
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(pathToFile, "a"),
                                                               std::fclose);
    return file ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuLogsDumpToMemory(CUlogIterator*, char* buffer, size_t* size,
                                    unsigned int flags) {
    if (!buffer || !size || !*size || flags) return CUDA_ERROR_INVALID_VALUE;
    buffer[0] = 0;
    *size = 0;
    return CUDA_SUCCESS;
}
