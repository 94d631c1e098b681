// cuLibrary*, cuKernel*: code that belongs to no context.
#include <algorithm>

#include "cuda_functions.hpp"
#include "softgpu/module.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

std::shared_ptr<Library> find_library(CUlibrary handle) {
    return Runtime::get().libraries.get(handle);
}

std::shared_ptr<Kernel> find_kernel(CUkernel handle) {
    return Runtime::get().kernels.get(handle);
}

// A kernel's facts are the same on every device: asked in the device's primary context, or the
// current one.
std::shared_ptr<Function> function_on(Kernel& kernel, CUdevice dev) {
    Device& device = Runtime::get().device(dev);
    auto& stack = context_stack();
    if (!stack.empty() && &stack.back()->device() == &device)
        return kernel.function_in(*stack.back());
    const std::lock_guard lock(device.primary.mutex);
    require(device.primary.retained > 0, CUDA_ERROR_INVALID_CONTEXT);
    return kernel.function_in(*device.primary.context);
}

CUlibrary load(const void* code, const JitOptions& options) {
    auto library = std::make_shared<Library>();
    const Image image = read_image(code, options);
    library->units = parse_units(image.texts, options);
    library->max_registers = image.max_registers;
    auto program = ptx::link(library->units);
    if (!program) {
        options.error(ptx::format_log(program.log));
        throw Failure(CUDA_ERROR_INVALID_PTX);
    }
    for (const ptx::Kernel& kernel : program->kernels())
        library->kernel_names.push_back(kernel.name);
    return Runtime::get().libraries.add(std::move(library));
}

CUkernel kernel_of(const std::shared_ptr<Library>& library, std::string_view name) {
    const std::lock_guard lock(library->mutex);
    const auto& names = library->kernel_names;
    require(std::find(names.begin(), names.end(), name) != names.end(), CUDA_ERROR_NOT_FOUND);
    if (const auto known = library->kernels.find(name); known != library->kernels.end())
        return HandleTable<Kernel, CUkernel>::handle_of(known->second.get());
    auto kernel = std::make_shared<Kernel>();
    kernel->library = library;
    kernel->name = name;
    library->kernels.emplace(name, kernel);
    return Runtime::get().kernels.add(std::move(kernel));
}

}  // namespace

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jitOptions,
                           void** jitOptionsValues, unsigned int numJitOptions, CUlibraryOption*,
                           void**, unsigned int) {
    return entry([&] {
        require(library && code);
        *library = load(code, JitOptions(numJitOptions, jitOptions, jitOptionsValues));
    });
}

CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* fileName, CUjit_option* jitOptions,
                               void** jitOptionsValues, unsigned int numJitOptions,
                               CUlibraryOption*, void**, unsigned int) {
    return entry([&] {
        require(library != nullptr);
        *library = load(read_file(fileName).c_str(),
                        JitOptions(numJitOptions, jitOptions, jitOptionsValues));
    });
}

CUresult cuLibraryUnload(CUlibrary library) {
    return entry([&] {
        Runtime& runtime = Runtime::get();
        const auto gone = runtime.libraries.remove(library);
        require(gone != nullptr, CUDA_ERROR_INVALID_HANDLE);
        runtime.drain_all();
        runtime.kernels.remove_if(
            [&](const Kernel& kernel) { return kernel.library.lock() == gone; });
        for (const auto& context : runtime.contexts.all())
            if (const auto module = context->forget_library(gone.get())) {
                runtime.functions.remove_if(
                    [&](const Function& function) { return function.module == module; });
                runtime.modules.remove(HandleTable<Module, CUmodule>::handle_of(module.get()));
            }
    });
}

CUresult cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name) {
    return entry([&] {
        require(pKernel && name);
        *pKernel = kernel_of(find_library(library), name);
    });
}

CUresult cuLibraryGetKernelCount(unsigned int* count, CUlibrary lib) {
    return entry([&] {
        require(count != nullptr);
        *count = static_cast<unsigned>(find_library(lib)->kernel_names.size());
    });
}

CUresult cuLibraryEnumerateKernels(CUkernel* kernels, unsigned int numKernels, CUlibrary lib) {
    return entry([&] {
        require(kernels != nullptr);
        const auto library = find_library(lib);
        for (unsigned i = 0; i < numKernels && i < library->kernel_names.size(); ++i)
            kernels[i] = kernel_of(library, library->kernel_names[i]);
    });
}

CUresult cuLibraryGetModule(CUmodule* pMod, CUlibrary library) {
    return entry_in_context([&](Context& context) {
        require(pMod != nullptr);
        *pMod = HandleTable<Module, CUmodule>::handle_of(
            find_library(library)->module_in(context).get());
    });
}

CUresult cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name) {
    return entry_in_context([&](Context& context) {
        require(name && (dptr || bytes));
        const auto global = find_library(library)->module_in(context)->global(name);
        if (dptr) *dptr = global.address;
        if (bytes) *bytes = global.bytes;
    });
}

// All memory here is memory of the host, that of variables too.
CUresult cuLibraryGetManaged(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                             const char* name) {
    return entry_in_context([&](Context& context) {
        require(name && (dptr || bytes));
        const auto global = find_library(library)->module_in(context)->global(name);
        require(global.managed, CUDA_ERROR_NOT_FOUND);
        if (dptr) *dptr = global.address;
        if (bytes) *bytes = global.bytes;
    });
}

CUresult cuLibraryGetUnifiedFunction(void**, CUlibrary library, const char*) {
    return entry([&] {
        (void)find_library(library);
        throw Failure(CUDA_ERROR_NOT_FOUND);
    });
}

CUresult cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel) {
    return entry_in_context([&](Context& context) {
        require(pFunc != nullptr);
        *pFunc = HandleTable<Function, CUfunction>::handle_of(
            find_kernel(kernel)->function_in(context).get());
    });
}

CUresult cuKernelGetLibrary(CUlibrary* pLib, CUkernel kernel) {
    return entry([&] {
        require(pLib != nullptr);
        const auto library = find_kernel(kernel)->library.lock();
        require(library != nullptr, CUDA_ERROR_INVALID_HANDLE);
        *pLib = HandleTable<Library, CUlibrary>::handle_of(library.get());
    });
}

CUresult cuKernelGetAttribute(int* pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev) {
    return entry([&] {
        require(pi != nullptr);
        *pi = function_on(*find_kernel(kernel), dev)->attribute(attrib);
    });
}

CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) {
    return entry([&] {
        const auto target = find_kernel(kernel);
        function_on(*target, dev)->set_attribute(attrib, val);
        const std::lock_guard lock(target->mutex);
        target->attributes[attrib] = val;
    });
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache, CUdevice dev) {
    return entry([&] {
        (void)find_kernel(kernel);
        (void)Runtime::get().device(dev);
    });
}

CUresult cuKernelGetName(const char** name, CUkernel hfunc) {
    return entry([&] {
        require(name != nullptr);
        *name = find_kernel(hfunc)->name.c_str();
    });
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t* paramOffset,
                              size_t* paramSize) {
    return cuFuncGetParamInfo(reinterpret_cast<CUfunction>(kernel), paramIndex, paramOffset,
                              paramSize);
}

CUresult cuKernelGetParamCount(CUkernel kernel, size_t* paramCount) {
    return cuFuncGetParamCount(reinterpret_cast<CUfunction>(kernel), paramCount);
}
