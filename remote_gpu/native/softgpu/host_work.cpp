#include "softgpu/host_work.h"

#include <array>
#include <memory>

#include "softgpu/runtime.hpp"

#define CARREL_EXPORT extern "C" __attribute__((visibility("default")))

using namespace carrel::softgpu;

CARREL_EXPORT int carrel_softgpu_enqueue(CUstream stream, CarrelHostWork work,
                                         void (*release)(void*), void* data) {
    const std::shared_ptr<void> owned(data, release);
    return entry([&] {
        const auto target = find_stream(stream);
        target->context.require_usable();
        target->context.enqueue(*target, [work, owned, context = &target->context] {
            std::array<char, 512> explanation{};
            const int result = work(owned.get(), explanation.data(), explanation.size());
            if (result != CUDA_SUCCESS)
                context->fail(static_cast<CUresult>(result), explanation.data());
        });
    });
}

CARREL_EXPORT int carrel_softgpu_mapped(std::uint64_t address, std::uint64_t bytes) {
    return Runtime::readiness() == CUDA_SUCCESS && Runtime::get().pages().mapped(address, bytes);
}

CARREL_EXPORT unsigned carrel_softgpu_host_threads() {
    if (Runtime::readiness() != CUDA_SUCCESS) return 1;
    return Runtime::get().device(0).config().host_threads;
}
