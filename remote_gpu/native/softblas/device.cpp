#include "softblas/device.hpp"

#include <cstdio>
#include <memory>

#include "cuda_functions.hpp"
#include "softblas/status.hpp"
#include "softgpu/host_work.h"

namespace carrel::softblas {
namespace {

struct Work {
    const char* function;
    std::function<void()> body;
};

int perform(void* data, char* explanation, std::size_t room) {
    const Work& work = *static_cast<const Work*>(data);
    try {
        work.body();
        return CUDA_SUCCESS;
    } catch (const IllegalAddress& bad) {
        std::snprintf(explanation, room,
                      "carrel-softgpu: %s: %llu bytes at 0x%llx are not device memory",
                      work.function, static_cast<unsigned long long>(bad.bytes),
                      static_cast<unsigned long long>(bad.address));
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    } catch (const std::bad_alloc&) {
        std::snprintf(explanation, room, "carrel-softgpu: %s: the host is out of memory",
                      work.function);
        return CUDA_ERROR_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        std::snprintf(explanation, room, "carrel-softgpu: %s: %s", work.function, error.what());
        return CUDA_ERROR_UNKNOWN;
    }
}

}  // namespace

void require_mapped(const void* address, std::uint64_t bytes) {
    const auto at = reinterpret_cast<std::uint64_t>(address);
    if (!carrel_softgpu_mapped(at, bytes)) throw IllegalAddress{at, bytes};
}

void enqueue(cudaStream_t stream, const char* function, std::function<void()> work) {
    auto owned = std::make_unique<Work>(Work{function, std::move(work)});
    const int result = carrel_softgpu_enqueue(
        stream, perform, [](void* data) { delete static_cast<Work*>(data); }, owned.release());
    require(result == CUDA_SUCCESS, CUBLAS_STATUS_EXECUTION_FAILED);
}

void synchronize(cudaStream_t stream) {
    require(cuStreamSynchronize(stream) == CUDA_SUCCESS, CUBLAS_STATUS_EXECUTION_FAILED);
}

bool has_context() {
    CUcontext current = nullptr;
    return cuCtxGetCurrent(&current) == CUDA_SUCCESS && current != nullptr;
}

unsigned host_threads() {
    return carrel_softgpu_host_threads();
}

}  // namespace carrel::softblas
