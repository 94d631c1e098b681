#include "cudart/registry.hpp"

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
        const auto found = variables_.find(host);
        if (found == variables_.end()) return CUDA_ERROR_NOT_FOUND;
        known = found->second;
    }
    CUlibrary library = nullptr;
    if (const CUresult bad = load(known.module, &library)) return bad;
    return cuLibraryGetGlobal(address, size, library, known.name);
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

char __cudaInitModule(void**) {
    return 1;
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

// A __managed__ variable: the host's pointer to it is set before the program's first use, that is
// now, for the compiler's code reads it without asking.
void __cudaRegisterManagedVar(void** fatCubinHandle, void** hostVarPtrAddress, char*,
                              const char* deviceName, int, size_t size, int, int) {
    registry().add_variable(module_of(fatCubinHandle), hostVarPtrAddress, deviceName, size);
    CARREL_WARNING("__managed__ variable %s: not supported; allocate with cudaMallocManaged",
                   deviceName);
}
