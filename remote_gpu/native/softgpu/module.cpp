#include "softgpu/module.hpp"

#include <algorithm>
#include <cstring>

#include "softgpu/failure.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {

ptx::Program Module::link_units(std::span<const ptx::Module> units, const JitOptions& options) {
    auto linked = ptx::link(units);
    if (!linked) {
        options.error(ptx::format_log(linked.log));
        throw Failure(CUDA_ERROR_INVALID_PTX);
    }
    return std::move(*linked);
}

Module::Module(std::shared_ptr<Context> context, std::span<const ptx::Module> units,
               unsigned max_registers, const JitOptions& options)
    : context_(std::move(context)),
      program_(link_units(units, options)),
      max_registers_(max_registers) {
    const auto variables = program_.variables();
    std::uint64_t total = 0;
    for (const ptx::Variable& variable : variables) {
        total = round_up(total, std::max<std::uint64_t>(variable.align, 16));
        addresses_.push_back(total);
        total += std::max<std::uint64_t>(variable.size, 1);
        if (variable.space == ptx::Space::constant) constant_bytes_ += variable.size;
    }
    if (total == 0) return;
    const std::uint64_t base = context_->device_heap().allocate(total);
    blocks_.push_back(base);
    for (std::size_t i = 0; i < variables.size(); ++i) program_.bind(i, addresses_[i] += base);
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const std::vector<std::byte> image = program_.image(i);
        std::memcpy(reinterpret_cast<void*>(addresses_[i]), image.data(), image.size());
    }
    Allocation allocation;
    allocation.base = base;
    allocation.bytes = total;
    allocation.kind = MemoryKind::variable;
    allocation.context = context_.get();
    allocation.device = context_->device().ordinal();
    Runtime::get().addresses().add(std::move(allocation));
}

Module::~Module() {
    for (const std::uint64_t block : blocks_) {
        Runtime::get().addresses().remove(
            block, [this](const Allocation& each) { return each.context == context_.get(); });
        context_->device_heap().free(block);
    }
}

Module::Global Module::global(std::string_view name) const {
    const auto index = program_.find_variable(name);
    // Also those that are not .visible: nvcc declares a program's own variables so, and CUDA finds
    // them by name all the same.
    require(index.has_value(), CUDA_ERROR_NOT_FOUND);
    const ptx::Variable& variable = program_.variables()[*index];
    return {addresses_[*index], variable.size, variable.managed};
}

Function::Function(std::shared_ptr<Module> owner, const ptx::Kernel& code)
    : module(std::move(owner)),
      kernel(code),
      max_dynamic_shared(static_cast<int>(
          limits::kShared - std::min<std::size_t>(code.static_shared_bytes, limits::kShared))) {}

unsigned Function::registers() const {
    // Never so many that a full block would not fit: a real compiler spills first, and the estimate
    // is rough.
    constexpr unsigned kMost = limits::kRegisters / limits::kBlockThreads;
    const unsigned wanted = std::clamp(kernel.registers, 16u, kMost);
    return module->max_registers() ? std::min(wanted, std::max(module->max_registers(), 16u))
                                   : wanted;
}

unsigned Function::max_threads() const {
    return std::min(kernel.max_threads, limits::kBlockThreads);
}

int Function::attribute(CUfunction_attribute attribute) const {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            return static_cast<int>(max_threads());
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
            return static_cast<int>(kernel.static_shared_bytes);
        case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
            return static_cast<int>(module->constant_bytes());
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
            return static_cast<int>(kernel.local_bytes);
        case CU_FUNC_ATTRIBUTE_NUM_REGS:
            return static_cast<int>(registers());
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
            return static_cast<int>(kernel.target);
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
            return static_cast<int>(module->context().device().compute_capability());
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
            return max_dynamic_shared;
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
            return preferred_carveout;
        default:
            require(attribute >= 0 && attribute < CU_FUNC_ATTRIBUTE_MAX);
            return 0;  // caching hints and clusters, of which there are none
    }
}

void Function::set_attribute(CUfunction_attribute attribute, int value) {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
            require(value >= 0 && static_cast<std::size_t>(value) + kernel.static_shared_bytes <=
                                      module->context().device().shared_opt_in());
            max_dynamic_shared = value;
            return;
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
            require(value >= -1 && value <= 100);
            preferred_carveout = value;
            return;
        case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
            return;  // permissions that nothing here needs
        default:
            throw Failure(CUDA_ERROR_INVALID_VALUE);
    }
}

std::shared_ptr<Function> function_of(const std::shared_ptr<Module>& module,
                                      std::string_view name) {
    const std::lock_guard lock(module->functions_mutex);
    if (const auto known = module->functions.find(name); known != module->functions.end())
        if (auto function = known->second.lock()) return function;
    const ptx::Kernel* kernel = module->program().find_kernel(name);
    require(kernel != nullptr, CUDA_ERROR_NOT_FOUND);
    auto function = std::make_shared<Function>(module, *kernel);
    module->functions.insert_or_assign(std::string(name), function);
    Runtime::get().functions.add(function);
    return function;
}

std::shared_ptr<Module> Library::module_in(Context& context) {
    return context.library_module(this, [&] {
        auto module = std::make_shared<Module>(context.shared_from_this(), units, max_registers,
                                               JitOptions());
        Runtime::get().modules.add(module);
        return module;
    });
}

std::shared_ptr<Function> Kernel::function_in(Context& context) {
    const std::shared_ptr<Library> owner = library.lock();
    require(owner != nullptr, CUDA_ERROR_INVALID_HANDLE);
    const std::shared_ptr<Module> module = owner->module_in(context);
    const std::lock_guard lock(mutex);
    std::weak_ptr<Function>& known = functions[module.get()];
    if (auto function = known.lock()) return function;
    auto function = function_of(module, name);
    for (const auto& [attribute, value] : attributes) function->set_attribute(attribute, value);
    known = function;
    return function;
}

std::shared_ptr<Function> find_function(CUfunction handle, Context& context) {
    Runtime& runtime = Runtime::get();
    if (auto function = runtime.functions.find(handle)) return function;
    const auto kernel = runtime.kernels.get(reinterpret_cast<CUkernel>(handle));
    return kernel->function_in(context);
}

}  // namespace carrel::softgpu
