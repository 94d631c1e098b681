#include "cudart/registry.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "wire/log.hpp"

namespace carrel::cudart {

namespace {

// What nvcc emits around a fatbin.
struct Wrapper {
    uint32_t magic;
    uint32_t version;
    const void* data;
    void* file;
};
constexpr uint32_t kWrapperMagic = 0x466243B1;

}  // namespace

Registry& registry() {
    static Registry* const all = new Registry;  // objects unregister in their destructors, late
    return *all;
}

Registry::Module* Registry::add(const void* wrapper) {
    Wrapper header{};
    std::memcpy(&header, wrapper, sizeof header);
    auto module = std::make_unique<Module>();
    module->image = header.magic == kWrapperMagic ? header.data : wrapper;
    Module* const handle = module.get();
    const std::unique_lock lock(mutex_);
    modules_.emplace(handle, std::move(module));
    return handle;
}

void Registry::remove(Module* module) {
    const std::unique_lock lock(mutex_);
    const auto found = modules_.find(module);
    if (found == modules_.end()) return;
    std::erase_if(kernels_, [&](const auto& item) { return item.second.module == module; });
    std::erase_if(variables_, [&](const auto& item) { return item.second.module == module; });
    if (module->library) cuLibraryUnload(module->library);
    modules_.erase(found);
}

void Registry::add_kernel(Module* module, const void* host, const char* name) {
    const std::unique_lock lock(mutex_);
    kernels_[host] = {module, name};
}

void Registry::add_variable(Module* module, const void* host, const char* name, size_t size) {
    const std::unique_lock lock(mutex_);
    variables_[host] = {module, name, size};
}

void Registry::add_managed(Module* module, void** host, const char* name, size_t size) {
    const std::unique_lock lock(mutex_);
    variables_[host] = {module, name, size, true};
}

CUresult Registry::bind_managed(Module* module) {
    std::vector<std::pair<void**, Variable>> unbound;
    {
        const std::shared_lock lock(mutex_);
        for (const auto& [host, variable] : variables_) {
            void** const pointer = static_cast<void**>(const_cast<void*>(host));
            if (variable.managed && variable.module == module && !*pointer)
                unbound.emplace_back(pointer, variable);
        }
    }
    if (unbound.empty()) return CUDA_SUCCESS;
    CUlibrary library = nullptr;
    if (const CUresult bad = ready()) return bad;
    if (const CUresult bad = load(module, &library)) return bad;
    for (const auto& [pointer, variable] : unbound) {
        CUdeviceptr address = 0;
        size_t size = 0;
        if (const CUresult bad = cuLibraryGetManaged(&address, &size, library, variable.name)) {
            CARREL_WARNING("__managed__ variable %s: not available (error %d)", variable.name,
                           static_cast<int>(bad));
            return bad;
        }
        *pointer = reinterpret_cast<void*>(address);
    }
    return CUDA_SUCCESS;
}

CUresult Registry::load(Module* module, CUlibrary* out) {
    const std::lock_guard lock(module->mutex);
    if (!module->library) {
        if (const CUresult bad = cuLibraryLoadData(&module->library, module->image, nullptr,
                                                   nullptr, 0, nullptr, nullptr, 0)) {
            module->library = nullptr;
            return bad;
        }
    }
    *out = module->library;
    return CUDA_SUCCESS;
}

CUresult Registry::kernel(const void* host, CUkernel* out) {
    Module* module = nullptr;
    const char* name = nullptr;
    {
        const std::shared_lock lock(mutex_);
        const auto found = kernels_.find(host);
        if (found == kernels_.end()) {
            *out = reinterpret_cast<CUkernel>(const_cast<void*>(host));
            return CUDA_SUCCESS;
        }
        if ((*out = found->second.handle)) return CUDA_SUCCESS;
        module = found->second.module;
        name = found->second.name;
    }
    CUlibrary library = nullptr;
    if (const CUresult bad = load(module, &library)) return bad;
    if (const CUresult bad = cuLibraryGetKernel(out, library, name)) return bad;
    const std::unique_lock lock(mutex_);
    if (const auto found = kernels_.find(host); found != kernels_.end()) {
        found->second.handle = *out;
    }
    return CUDA_SUCCESS;
}

CUresult Registry::variable(const void* host, CUdeviceptr* address, size_t* size) {
    Variable known{};
    {
        const std::shared_lock lock(mutex_);
        auto found = variables_.find(host);
        if (found == variables_.end()) {
            // The name of a __managed__ variable is the variable itself.
            found = std::find_if(variables_.begin(), variables_.end(), [&](const auto& item) {
                return item.second.managed && *static_cast<void* const*>(item.first) == host;
            });
        }
        if (found == variables_.end()) return CUDA_ERROR_NOT_FOUND;
        known = found->second;
    }
    CUlibrary library = nullptr;
    if (const CUresult bad = load(known.module, &library)) return bad;
    return known.managed ? cuLibraryGetManaged(address, size, library, known.name)
                         : cuLibraryGetGlobal(address, size, library, known.name);
}

const void* Registry::symbol(CUkernel kernel) {
    const std::shared_lock lock(mutex_);
    for (const auto& [host, known] : kernels_) {
        if (known.handle == kernel) return host;
    }
    return kernel;
}

const char* Registry::name(const void* host) {
    const std::shared_lock lock(mutex_);
    const auto found = kernels_.find(host);
    return found == kernels_.end() ? nullptr : found->second.name;
}

}  // namespace carrel::cudart

using carrel::cudart::finish;
using carrel::cudart::registry;
using Module = carrel::cudart::Registry::Module;

namespace {
Module* module_of(void** handle) {
    return reinterpret_cast<Module*>(handle);
}
}  // namespace

void** __cudaRegisterFatBinary(void* fatCubin) {
    return reinterpret_cast<void**>(registry().add(fatCubin));
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** fatCubinHandle) {
    registry().remove(module_of(fatCubinHandle));
}

// The compiler's code calls it before the program's first use of a __managed__ variable of the
// file.
char __cudaInitModule(void** fatCubinHandle) {
    return finish(registry().bind_managed(module_of(fatCubinHandle))) == cudaSuccess;
}

void __cudaRegisterFunction(void** fatCubinHandle, const char* hostFun, char*,
                            const char* deviceName, int, void*, void*, dim3*, dim3*, int*) {
    registry().add_kernel(module_of(fatCubinHandle), hostFun, deviceName);
}

void __cudaRegisterVar(void** fatCubinHandle, char* hostVar, char*, const char* deviceName, int,
                       size_t size, int, int) {
    registry().add_variable(module_of(fatCubinHandle), hostVar, deviceName, size);
}

void __cudaRegisterHostVar(void** fatCubinHandle, const char* deviceName, char* hostVar,
                           size_t size) {
    registry().add_variable(module_of(fatCubinHandle), hostVar, deviceName, size);
}

void __cudaRegisterManagedVar(void** fatCubinHandle, void** hostVarPtrAddress, char*,
                              const char* deviceName, int, size_t size, int, int) {
    registry().add_managed(module_of(fatCubinHandle), hostVarPtrAddress, deviceName, size);
}
