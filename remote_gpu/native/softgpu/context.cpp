#include "softgpu/context.hpp"

#include <algorithm>
#include <cstdio>

#include "softgpu/capture.hpp"
#include "softgpu/failure.hpp"
#include "softgpu/module.hpp"
#include "softgpu/pool.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {
namespace {

std::uint64_t next_id() {
    static std::atomic<std::uint64_t> next{1};
    return next++;
}

constexpr std::array<std::size_t, CU_LIMIT_MAX> default_limits() {
    std::array<std::size_t, CU_LIMIT_MAX> limits{};
    limits[CU_LIMIT_STACK_SIZE] = 1024;                        // bytes per thread
    limits[CU_LIMIT_PRINTF_FIFO_SIZE] = std::size_t{1} << 20;  // bytes
    limits[CU_LIMIT_MALLOC_HEAP_SIZE] = std::size_t{8} << 20;  // bytes
    limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
    return limits;
}

}  // namespace

Context::Context(Device& device, unsigned context_flags, bool primary)
    : flags(context_flags),
      device_(device),
      primary_(primary),
      id_(next_id()),
      limits_(default_limits()) {
    legacy_ = std::make_shared<Stream>(*this, CU_STREAM_DEFAULT, 0, next_id());
    legacy_->legacy = true;
    make_heaps();
}

Context::~Context() = default;

void Context::make_heaps() {
    device_heap_ = std::make_unique<Heap>(Runtime::get().pages(), device_.account());
    host_heap_ = std::make_unique<Heap>(Runtime::get().pages(), Runtime::get().host_account());
}

void Context::fail(CUresult code, const std::string& explanation) {
    CUresult none = CUDA_SUCCESS;
    if (!error_.compare_exchange_strong(none, code)) return;
    if (!explanation.empty()) std::fprintf(stderr, "%s\n", explanation.c_str());
}

void Context::require_usable() const {
    if (destroyed()) throw Failure(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (const CUresult code = error(); code != CUDA_SUCCESS) throw Failure(code);
}

std::shared_ptr<Stream> Context::default_stream(bool per_thread) {
    const std::lock_guard lock(streams_mutex_);
    if (!per_thread) return legacy_;
    std::shared_ptr<Stream>& own = per_thread_[std::this_thread::get_id()];
    if (!own) {
        own = std::make_shared<Stream>(*this, CU_STREAM_DEFAULT, 0, next_id());
        streams_.push_back(own);
    }
    return own;
}

std::shared_ptr<Stream> Context::create_stream(unsigned stream_flags, int priority) {
    const std::lock_guard lock(streams_mutex_);
    sweep_streams();
    auto stream = std::make_shared<Stream>(
        *this, stream_flags, std::clamp(priority, Stream::kGreatestPriority, 0), next_id());
    streams_.push_back(stream);
    return stream;
}

void Context::destroy_stream(Stream& stream) {
    const std::lock_guard lock(streams_mutex_);
    stream.destroyed = true;  // its operations go on; the sweep forgets it when they have ended
    sweep_streams();
}

void Context::sweep_streams() {
    std::erase_if(streams_, [](const std::shared_ptr<Stream>& stream) {
        return stream->destroyed && (!stream->last || stream->last->done());
    });
}

OperationPtr Context::place(Stream& stream, Task task, std::span<const OperationPtr> after,
                            bool by_caller) {
    auto operation = std::make_shared<Operation>(std::move(task), -stream.priority);
    const std::lock_guard lock(streams_mutex_);
    std::vector<OperationPtr> waits(after.begin(), after.end());
    waits.push_back(stream.last);
    if (stream.legacy) {
        for (const auto& other : streams_)
            if (other->blocking()) waits.push_back(other->last);
    } else if (stream.blocking()) {
        waits.push_back(legacy_->last);
    }
    Scheduler& scheduler = Runtime::get().scheduler();
    if (by_caller) {
        scheduler.reserve(operation, waits);
    } else {
        scheduler.submit(operation, waits);
    }
    stream.last = operation;
    return operation;
}

Task Context::unless_failed(Task task) {
    if (!task.work) return task;
    return [self = shared_from_this(), work = std::move(task.work)] {
        if (self->error() != CUDA_SUCCESS) return;
        const CUresult result = guarded(work);
        if (result != CUDA_SUCCESS) self->fail(result, "");
    };
}

OperationPtr Context::enqueue(Stream& stream, Task task, std::span<const OperationPtr> after) {
    return place(stream, unless_failed(std::move(task)), after, false);
}

void Context::enqueue_and_run(Stream& stream, std::function<void()> work) {
    const OperationPtr operation = place(stream, unless_failed(std::move(work)), {}, true);
    Runtime::get().scheduler().run(operation);
    flush_output();
    require_usable();
}

OperationPtr Context::follow(Task task, std::span<const OperationPtr> after, bool always) {
    auto operation =
        std::make_shared<Operation>(always ? std::move(task) : unless_failed(std::move(task)));
    Runtime::get().scheduler().submit(operation, after);
    return operation;
}

OperationPtr Context::enqueue_always(Stream& stream, Task task,
                                     std::span<const OperationPtr> after) {
    if (!task.work) return place(stream, std::move(task), after, false);
    return place(
        stream,
        [self = shared_from_this(), work = std::move(task.work)] {
            if (const CUresult result = guarded(work); result != CUDA_SUCCESS)
                self->fail(result, "");
        },
        after, false);
}

void Context::synchronize(Stream& stream) {
    std::vector<OperationPtr> pending;
    {
        const std::lock_guard lock(streams_mutex_);
        pending.push_back(stream.last);
        if (stream.legacy)
            for (const auto& other : streams_)
                if (other->blocking()) pending.push_back(other->last);
    }
    for (const OperationPtr& each : pending) Runtime::get().scheduler().wait(each);
    flush_output();
    require_usable();
}

bool Context::idle(Stream& stream) {
    const std::lock_guard lock(streams_mutex_);
    const auto finished = [](const OperationPtr& last) { return !last || last->done(); };
    if (!finished(stream.last)) return false;
    if (!stream.legacy) return true;
    return std::all_of(streams_.begin(), streams_.end(), [&](const auto& other) {
        return !other->blocking() || finished(other->last);
    });
}

void Context::drain() {
    std::vector<OperationPtr> pending;
    {
        const std::lock_guard lock(streams_mutex_);
        pending.push_back(legacy_->last);
        for (const auto& stream : streams_) pending.push_back(stream->last);
    }
    for (const OperationPtr& each : pending) Runtime::get().scheduler().wait(each);
}

void Context::synchronize() {
    drain();
    flush_output();
    require_usable();
}

std::uint64_t Context::kernel_allocate(std::uint64_t bytes) {
    if (bytes == 0) return 0;
    const std::lock_guard lock(kernel_heap_mutex_);
    const std::size_t room = limit(CU_LIMIT_MALLOC_HEAP_SIZE);
    if (bytes > room || kernel_heap_used_ > room - bytes) return 0;
    try {
        const std::uint64_t address = device_heap_->allocate(bytes);
        kernel_allocations_.emplace(address, bytes);
        kernel_heap_used_ += bytes;
        return address;
    } catch (const Failure&) {
        return 0;
    }
}

void Context::kernel_free(std::uint64_t address) {
    const std::lock_guard lock(kernel_heap_mutex_);
    const auto found = kernel_allocations_.find(address);
    if (found == kernel_allocations_.end()) return;
    kernel_heap_used_ -= found->second;
    kernel_allocations_.erase(found);
    device_heap_->free(address);
}

// A ring of bounded size, as on the device: when it is full the oldest output is lost.
void Context::print(std::string_view text) {
    const std::size_t room = limit(CU_LIMIT_PRINTF_FIFO_SIZE);
    const std::lock_guard lock(output_mutex_);
    output_.emplace_back(text);
    output_bytes_ += text.size();
    while (output_bytes_ > room && output_.size() > 1) {
        output_bytes_ -= output_.front().size();
        output_.pop_front();
    }
}

void Context::flush_output() {
    std::deque<std::string> text;
    {
        const std::lock_guard lock(output_mutex_);
        if (output_.empty()) return;
        text.swap(output_);
        output_bytes_ = 0;
    }
    for (const std::string& each : text) std::fwrite(each.data(), 1, each.size(), stdout);
    std::fflush(stdout);
}

std::size_t Context::limit(CUlimit which) const {
    const std::lock_guard lock(limits_mutex_);
    return limits_.at(which);
}

void Context::set_limit(CUlimit which, std::size_t value) {
    const std::lock_guard lock(limits_mutex_);
    limits_.at(which) = value;
}

std::shared_ptr<Module> Context::library_module(
    const Library* library, const std::function<std::shared_ptr<Module>()>& load) {
    const std::lock_guard lock(libraries_mutex_);
    std::shared_ptr<Module>& module = libraries_[library];
    if (!module) module = load();
    return module;
}

std::shared_ptr<Module> Context::forget_library(const Library* library) {
    const std::lock_guard lock(libraries_mutex_);
    const auto found = libraries_.find(library);
    if (found == libraries_.end()) return nullptr;
    auto module = std::move(found->second);
    libraries_.erase(found);
    return module;
}

void Context::tear_down() {
    Runtime& runtime = Runtime::get();
    drain();
    flush_output();
    destroyed_ = true;
    const auto ours = [this](const auto& object) { return &object.context == this; };
    for (const auto& stream : runtime.streams.remove_if(ours)) abandon_capture(*stream);
    runtime.events.remove_if([this](const Event& event) { return event.context.get() == this; });
    runtime.modules.remove_if([this](const Module& module) { return &module.context() == this; });
    runtime.functions.remove_if(
        [this](const Function& function) { return &function.module->context() == this; });
    {
        const std::lock_guard lock(libraries_mutex_);
        libraries_.clear();
    }
    for (const Allocation& gone : runtime.addresses().remove_all(this)) {
        if (gone.kind == MemoryKind::registered) runtime.pages().unmap_range(page_of(gone.base));
        if (gone.pool) gone.pool->used -= gone.bytes;
    }
    {
        const std::lock_guard lock(kernel_heap_mutex_);
        kernel_allocations_.clear();
        kernel_heap_used_ = 0;
    }
    {
        const std::lock_guard lock(streams_mutex_);
        per_thread_.clear();
        streams_.clear();
    }
    make_heaps();
    error_ = CUDA_SUCCESS;
    {
        const std::lock_guard lock(limits_mutex_);
        limits_ = default_limits();
    }
    cache_config = CU_FUNC_CACHE_PREFER_NONE;
    if (primary_) destroyed_ = false;
}

}  // namespace carrel::softgpu
