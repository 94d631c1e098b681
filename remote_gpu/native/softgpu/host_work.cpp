#include "softgpu/host_work.h"

#include <array>
#include <memory>

#include "softgpu/capture.hpp"
#include "softgpu/failure.hpp"
#include "softgpu/null_model.hpp"
#include "softgpu/runtime.hpp"

#define CARREL_EXPORT extern "C" __attribute__((visibility("default")))

using namespace carrel::softgpu;

namespace {

struct Work {
    CarrelHostWork function;
    std::shared_ptr<void> data;
    Context& context;
};

void perform(void* data) {
    const Work& work = *static_cast<const Work*>(data);
    std::array<char, 512> explanation{};
    const int result = work.function(work.data.get(), explanation.data(), explanation.size());
    if (result != CUDA_SUCCESS)
        work.context.fail(static_cast<CUresult>(result), explanation.data());
}

}  // namespace

CARREL_EXPORT int carrel_softgpu_enqueue(CUstream stream, CarrelHostWork work,
                                         void (*release)(void*), void* data) {
    std::shared_ptr<void> owned(data, release);
    return entry([&] {
        const auto target = find_stream(stream);
        target->context.require_usable();
        const auto call = std::make_shared<Work>(Work{work, std::move(owned), target->context});
        if (capturing(*target)) {
            capture(*target, HostCall{perform, call.get(), call});
            return;
        }
        target->context.enqueue(*target, [call] { perform(call.get()); });
    });
}

CARREL_EXPORT int carrel_softgpu_model(CUstream stream, const CarrelModelledWork* work) {
    return entry([&] {
        const auto target = find_stream(stream);
        Context& context = target->context;
        context.require_usable();
        const Config& device = context.device().config();
        require(device.null != nullptr, CUDA_ERROR_NOT_SUPPORTED);
        const auto takes =
            device.timed ? work_time(*device.null, *work) : std::chrono::nanoseconds{0};
        if (capturing(*target)) {
            capture(*target, Nothing{takes});
        } else {
            context.enqueue(*target, Task(takes));
        }
    });
}

CARREL_EXPORT int carrel_softgpu_mapped(std::uint64_t address, std::uint64_t bytes) {
    return Runtime::readiness() == CUDA_SUCCESS && Runtime::get().pages().mapped(address, bytes);
}

CARREL_EXPORT unsigned carrel_softgpu_host_threads() {
    if (Runtime::readiness() != CUDA_SUCCESS) return 1;
    return Runtime::get().device(0).config().host_threads;
}
