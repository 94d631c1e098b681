#include "softgpu/runtime.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "softgpu/module.hpp"
#include "softgpu/pool.hpp"

namespace carrel::softgpu {
namespace {

std::atomic<bool> forked{false};
std::mutex init_mutex;
thread_local unsigned per_thread_default = 0;

void after_fork_in_child() {
    forked = true;
}

// Output of kernels that nobody synchronised with, as far as it is there.
void flush_at_exit() {
    if (Runtime::readiness() != CUDA_SUCCESS) return;
    for (int i = 0; i < static_cast<int>(Runtime::get().device_count()); ++i) {
        Device::Primary& primary = Runtime::get().device(i).primary;
        if (primary.mutex.try_lock()) {
            if (primary.context) primary.context->flush_output();
            primary.mutex.unlock();
        }
    }
}

}  // namespace

Runtime* Runtime::instance_ = nullptr;
static std::atomic<bool> initialised{false};

Runtime::Runtime()
    : host_account_("", static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) *
                            static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) {
    const char* text = std::getenv("CARREL_SOFTGPU");
    const Config config = parse_config(text ? text : "");
    for (unsigned i = 0; i < config.count; ++i)
        devices_.push_back(std::make_unique<Device>(static_cast<int>(i), config));
}

CUresult Runtime::initialise() noexcept {
    if (forked) return CUDA_ERROR_NOT_INITIALIZED;
    const std::lock_guard lock(init_mutex);
    if (instance_) return CUDA_SUCCESS;
    try {
        instance_ = new Runtime;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return CUDA_ERROR_NO_DEVICE;
    }
    pthread_atfork(nullptr, nullptr, after_fork_in_child);
    std::atexit(flush_at_exit);
    initialised.store(true, std::memory_order_release);
    return CUDA_SUCCESS;
}

CUresult Runtime::readiness() noexcept {
    if (forked.load(std::memory_order_relaxed)) return CUDA_ERROR_NOT_INITIALIZED;
    return initialised.load(std::memory_order_acquire) ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

Device& Runtime::device(int ordinal) {
    require(ordinal >= 0 && static_cast<std::size_t>(ordinal) < devices_.size(),
            CUDA_ERROR_INVALID_DEVICE);
    return *devices_[static_cast<std::size_t>(ordinal)];
}

void Runtime::drain_all() {
    for (const auto& context : contexts.all()) context->drain();
}

std::vector<std::shared_ptr<Context>>& context_stack() {
    thread_local std::vector<std::shared_ptr<Context>> stack;
    return stack;
}

Context& current_context() {
    auto& stack = context_stack();
    require(!stack.empty(), CUDA_ERROR_INVALID_CONTEXT);
    stack.back()->require_usable();
    return *stack.back();
}

std::shared_ptr<Stream> find_stream(CUstream handle) {
    const auto number = reinterpret_cast<std::uintptr_t>(handle);
    if (number > 2) return Runtime::get().streams.get(handle);
    return current_context().default_stream(number == 2 || (number == 0 && per_thread_default > 0));
}

PerThreadDefault::PerThreadDefault() {
    ++per_thread_default;
}

PerThreadDefault::~PerThreadDefault() {
    --per_thread_default;
}

CUstream per_thread(CUstream stream) {
    return stream ? stream : reinterpret_cast<CUstream>(std::uintptr_t{2});
}

CUresult unsupported(const char* name) noexcept {
    static std::mutex mutex;
    static auto* told = new std::set<std::string>;
    try {
        const std::lock_guard lock(mutex);
        if (told->insert(name).second)
            std::fprintf(stderr, "carrel-softgpu: %s is not supported\n", name);
    } catch (const std::exception&) {
        // The line is lost; the answer is the same.
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace carrel::softgpu
