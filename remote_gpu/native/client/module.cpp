// Modules and libraries: images go to the worker, of fatbins what fits its GPU; kernels come back
// with their layouts.
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "client/forward.hpp"
#include "client/function.hpp"
#include "client/image.hpp"
#include "client/jit.hpp"
#include "client/memory.hpp"
#include "cuda_functions.hpp"
#include "wire/sha256.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

// What a module or library has handed out, so that asking again gives the same handle.
struct Loaded {
    std::mutex mutex;
    std::map<std::string, uint32_t> functions;
    uint32_t module = 0;            // of a library: the name of its module, once asked for
    uint32_t library = 0;           // of such a module: its library
    std::set<CUdeviceptr> managed;  // variables of which this process has a side
};

Loaded* find_image(uint32_t name, Kind kind) {
    return handles().kind(name) == kind ? static_cast<Loaded*>(handles().object(name)) : nullptr;
}

// A module or library image, with its options.
template <class H>
CUresult load(Call which, H* out, Image image, const JitOptions& options) {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = nullptr;
    if (const CUresult bad = session().status()) return bad;
    if (!image.data) return CUDA_ERROR_INVALID_VALUE;
    if (!image.size) return CUDA_ERROR_INVALID_IMAGE;
    int major = 0, minor = 0;
    if (const CUresult bad = cuDeviceComputeCapability(&major, &minor, 0)) return bad;
    const auto fitting =
        only_fitting(image, static_cast<unsigned>(major), static_cast<unsigned>(minor));
    if (!fitting.empty()) image = {fitting.data(), fitting.size()};
    if (image.size > wire::kMaxPayload / 2) return CUDA_ERROR_OUT_OF_MEMORY;
    if (const CUresult bad = options.check()) return bad;
    const uint32_t owner = kKindOf<H> == Kind::library ? 0 : current_context_name();
    auto* object = new Loaded;
    const uint32_t name = handles().create(kKindOf<H>, object, owner);
    if (!name) {
        delete object;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    const bool large = image.size >= wire::kNamedImage;
    wire::Hash hash{};
    if (large) hash = wire::sha256(image.data, image.size);
    const auto send = [&](wire::ImageForm form) {
        return ask(
            which,
            [&](wire::Writer& w) {
                w.put(uint64_t{name});
                options.encode(w);
                w.put(form);
                if (form != wire::ImageForm::bytes) {
                    w.put(hash);
                    w.put(uint64_t{image.size});
                }
                if (form != wire::ImageForm::named) w.bytes(image.data, image.size);
            },
            [&](CUresult result, wire::Reader& r) {
                if (result != wire::kImageUnknown) options.decode(r);
            });
    };
    CUresult result = send(large ? wire::ImageForm::named : wire::ImageForm::bytes);
    if (result == wire::kImageUnknown) result = send(wire::ImageForm::both);
    if (result != CUDA_SUCCESS) {
        handles().erase(name);
        return result;
    }
    *out = Handles::handle<H>(name);
    return CUDA_SUCCESS;
}

bool read_file(const char* path, std::vector<char>& data) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return false;
    data.assign(std::istreambuf_iterator<char>(file), {});
    data.push_back(0);  // PTX in a file has no terminator
    return true;
}

template <class H>
CUresult load_file(Call which, H* out, const char* path, const JitOptions& options) {
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    std::vector<char> data;
    if (!read_file(path, data)) return CUDA_ERROR_FILE_NOT_FOUND;
    return load(which, out, Image{data.data(), data.size()}, options);
}

// A kernel of a module or library by its name.
template <class H>
CUresult get_function(Call which, H* out, uint32_t owner, Kind kind, const char* symbol) {
    if (const CUresult bad = session().status()) return bad;
    if (!out || !symbol) return CUDA_ERROR_INVALID_VALUE;
    *out = nullptr;
    Loaded* image = find_image(owner, kind);
    if (!image) return CUDA_ERROR_INVALID_HANDLE;
    const std::lock_guard lock(image->mutex);
    if (const auto known = image->functions.find(symbol); known != image->functions.end()) {
        if (handles().kind(known->second) == kKindOf<H>) {
            *out = Handles::handle<H>(known->second);
            return CUDA_SUCCESS;
        }
    }
    auto* function = new Function;  // never deleted: a stale handle must stay harmless
    function->symbol = symbol;
    function->owner = owner;
    const uint32_t name = handles().create(kKindOf<H>, function, handles().context(owner));
    if (!name) return CUDA_ERROR_OUT_OF_MEMORY;
    const CUresult result = call(
        which,
        [&](wire::Writer& w) {
            w.put(uint64_t{name});
            w.put(uint64_t{owner});
            w.text(symbol);
        },
        [&](wire::Reader& r) { function->decode(r); });
    if (result != CUDA_SUCCESS) {
        handles().erase(name);
        return result;
    }
    image->functions[symbol] = name;
    *out = Handles::handle<H>(name);
    return CUDA_SUCCESS;
}

CUresult unload(Call which, uint32_t name, Kind kind) {
    if (const CUresult bad = session().status()) return bad;
    Loaded* image = find_image(name, kind);
    if (!image) return CUDA_ERROR_INVALID_HANDLE;
    {
        const std::lock_guard lock(image->mutex);
        for (const auto& [symbol, function] : image->functions) {
            if (const auto* f = static_cast<Function*>(handles().object(function)); f && f->twin) {
                handles().erase(f->twin);
            }
            handles().erase(function);
        }
        image->functions.clear();
        for (const CUdeviceptr variable : image->managed) drop_variable(variable);
        image->managed.clear();
        if (image->module) handles().erase(image->module);
    }
    handles().erase(name);
    return post(which, [&](wire::Writer& w) { w.put(uint64_t{name}); });
}

CUresult get_global(Call which, CUdeviceptr* dptr, size_t* bytes, uint32_t owner, Kind kind,
                    const char* symbol) {
    if (const CUresult bad = session().status()) return bad;
    if (!symbol) return CUDA_ERROR_INVALID_VALUE;
    if (!find_image(owner, kind)) return CUDA_ERROR_INVALID_HANDLE;
    return call(
        which,
        [&](wire::Writer& w) {
            w.put(uint64_t{owner});
            w.text(symbol);
        },
        [&](wire::Reader& r) {
            const auto base = r.get<uint64_t>();
            const auto size = r.get<uint64_t>();
            add_global(base, size);
            if (dptr) *dptr = base;
            if (bytes) *bytes = size;
        });
}

// Handles of all kernels of a module or library.
template <class H>
CUresult enumerate(Call which, Call getter, H* out, unsigned int room, uint32_t owner, Kind kind) {
    if (!out && room) return CUDA_ERROR_INVALID_VALUE;
    std::vector<std::string> names;
    const CUresult result = call(
        which,
        [&](wire::Writer& w) {
            w.put(uint64_t{owner});
            w.put(room);
        },
        [&](wire::Reader& r) {
            const auto count = r.get<uint32_t>();
            for (uint32_t i = 0; i < count && i < room; ++i) names.push_back(r.text());
        });
    if (result != CUDA_SUCCESS) return result;
    for (size_t i = 0; i < names.size(); ++i) {
        if (const CUresult bad = get_function(getter, &out[i], owner, kind, names[i].c_str())) {
            return bad;
        }
    }
    return CUDA_SUCCESS;
}

uint32_t module_name(CUmodule module) {
    return Handles::name(module);
}
uint32_t library_name(CUlibrary library) {
    return Handles::name(library);
}

}  // namespace

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int numOptions,
                                    CUjit_option* options, void** optionValues) {
    return load(Call::cuModuleLoadDataEx, module, measure_image(image),
                JitOptions(numOptions, options, optionValues));
}

CUresult CUDAAPI cuModuleLoadData(CUmodule* module, const void* image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

CUresult CUDAAPI cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) {
    return cuModuleLoadDataEx(module, fatCubin, 0, nullptr, nullptr);
}

CUresult CUDAAPI cuModuleLoad(CUmodule* module, const char* fname) {
    return load_file(Call::cuModuleLoadDataEx, module, fname, {});
}

CUresult CUDAAPI cuModuleUnload(CUmodule hmod) {
    return unload(Call::cuModuleUnload, module_name(hmod), Kind::module);
}

CUresult CUDAAPI cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
    if (!mode) return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* hfunc, CUmodule hmod, const char* name) {
    return get_function(Call::cuModuleGetFunction, hfunc, module_name(hmod), Kind::module, name);
}

CUresult CUDAAPI cuModuleEnumerateFunctions(CUfunction* functions, unsigned int numFunctions,
                                            CUmodule mod) {
    return enumerate(Call::cuModuleEnumerateFunctions, Call::cuModuleGetFunction, functions,
                     numFunctions, module_name(mod), Kind::module);
}

CUresult CUDAAPI cuModuleGetGlobal_v2(CUdeviceptr* dptr, size_t* bytes, CUmodule hmod,
                                      const char* name) {
    return get_global(Call::cuModuleGetGlobal_v2, dptr, bytes, module_name(hmod), Kind::module,
                      name);
}

CUresult CUDAAPI cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jitOptions,
                                   void** jitOptionsValues, unsigned int numJitOptions,
                                   CUlibraryOption* libraryOptions, void** libraryOptionValues,
                                   unsigned int numLibraryOptions) {
    for (unsigned int i = 0; libraryOptions && i < numLibraryOptions; ++i) {
        // That the program keeps its image does not matter: the worker has a copy.
        if (libraryOptions[i] != CU_LIBRARY_BINARY_IS_PRESERVED) return CUDA_ERROR_NOT_SUPPORTED;
    }
    return load(Call::cuLibraryLoadData, library, measure_image(code),
                JitOptions(numJitOptions, jitOptions, jitOptionsValues));
}

CUresult CUDAAPI cuLibraryLoadFromFile(CUlibrary* library, const char* fileName,
                                       CUjit_option* jitOptions, void** jitOptionsValues,
                                       unsigned int numJitOptions, CUlibraryOption*, void**,
                                       unsigned int) {
    return load_file(Call::cuLibraryLoadData, library, fileName,
                     JitOptions(numJitOptions, jitOptions, jitOptionsValues));
}

CUresult CUDAAPI cuLibraryUnload(CUlibrary library) {
    return unload(Call::cuLibraryUnload, library_name(library), Kind::library);
}

CUresult CUDAAPI cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name) {
    return get_function(Call::cuLibraryGetKernel, pKernel, library_name(library), Kind::library,
                        name);
}

CUresult CUDAAPI cuLibraryEnumerateKernels(CUkernel* kernels, unsigned int numKernels,
                                           CUlibrary lib) {
    return enumerate(Call::cuLibraryEnumerateKernels, Call::cuLibraryGetKernel, kernels, numKernels,
                     library_name(lib), Kind::library);
}

CUresult CUDAAPI cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                                    const char* name) {
    return get_global(Call::cuLibraryGetGlobal, dptr, bytes, library_name(library), Kind::library,
                      name);
}

CUresult CUDAAPI cuLibraryGetManaged(CUdeviceptr* dptr, size_t* bytes, CUlibrary library,
                                     const char* name) {
    if (!current_context()) return no_context();
    CUdeviceptr base = 0;
    size_t size = 0;
    const uint32_t owner = library_name(library);
    if (const CUresult bad =
            get_global(Call::cuLibraryGetManaged, &base, &size, owner, Kind::library, name))
        return bad;
    Loaded* image = find_image(owner, Kind::library);
    const std::lock_guard lock(image->mutex);
    if (!image->managed.contains(base)) {
        if (const CUresult bad = mirror_variable(base, size)) return bad;
        image->managed.insert(base);
    }
    if (dptr) *dptr = base;
    if (bytes) *bytes = size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLibraryGetModule(CUmodule* pMod, CUlibrary library) {
    if (const CUresult bad = session().status()) return bad;
    if (!pMod) return CUDA_ERROR_INVALID_VALUE;
    const uint32_t name = library_name(library);
    Loaded* image = find_image(name, Kind::library);
    if (!image) return CUDA_ERROR_INVALID_HANDLE;
    const std::lock_guard lock(image->mutex);
    if (!image->module || handles().kind(image->module) != Kind::module) {
        auto* twin = new Loaded;
        twin->library = name;
        image->module = handles().create(Kind::module, twin, current_context_name());
        const CUresult result = post(Call::cuLibraryGetModule, [&](wire::Writer& w) {
            w.put(uint64_t{image->module});
            w.put(uint64_t{name});
        });
        if (result != CUDA_SUCCESS) return result;
    }
    *pMod = Handles::handle<CUmodule>(image->module);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuKernelGetLibrary(CUlibrary* pLib, CUkernel kernel) {
    const Function* function = find_kernel(kernel);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!pLib) return CUDA_ERROR_INVALID_VALUE;
    *pLib = Handles::handle<CUlibrary>(function->owner);
    return CUDA_SUCCESS;
}

// The function of a kernel in the current context: a second name for the same facts.
CUresult CUDAAPI cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel) {
    if (const CUresult bad = session().status()) return bad;
    if (!pFunc) return CUDA_ERROR_INVALID_VALUE;
    Function* function = find_kernel(kernel);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    Loaded* image = find_image(function->owner, Kind::library);
    if (!image) return CUDA_ERROR_INVALID_HANDLE;
    const std::lock_guard lock(image->mutex);
    if (!function->twin || handles().kind(function->twin) != Kind::function) {
        auto* twin = new Function;
        twin->copy_facts(*function);
        const uint32_t name = handles().create(Kind::function, twin, current_context_name());
        const CUresult result = post(Call::cuKernelGetFunction, [&](wire::Writer& w) {
            w.put(uint64_t{name});
            w.put(name_of(kernel));
        });
        if (result != CUDA_SUCCESS) return result;
        function->twin = name;
    }
    *pFunc = Handles::handle<CUfunction>(function->twin);
    return CUDA_SUCCESS;
}
