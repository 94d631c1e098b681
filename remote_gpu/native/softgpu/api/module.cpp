// cuModule*, cuFunc*: code in a context.
#include "softgpu/module.hpp"

#include <algorithm>
#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

CUmodule load(Context& context, const void* image, const JitOptions& options) {
    const Image code = read_image(image, options);
    const auto units = parse_units(code.texts, options);
    return Runtime::get().modules.add(
        std::make_shared<Module>(context.shared_from_this(), units, code.max_registers, options));
}

std::shared_ptr<Module> find_module(CUmodule handle) {
    return Runtime::get().modules.get(handle);
}

CUfunction handle_of(const Function& function) {
    return HandleTable<Function, CUfunction>::handle_of(&function);
}

}  // namespace

CUresult cuModuleLoad(CUmodule* module, const char* fname) {
    return entry_in_context([&](Context& context) {
        require(module != nullptr);
        *module = load(context, read_file(fname).c_str(), JitOptions());
    });
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int numOptions,
                            CUjit_option* options, void** optionValues) {
    return entry_in_context([&](Context& context) {
        require(module && image);
        *module = load(context, image, JitOptions(numOptions, options, optionValues));
    });
}

CUresult cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) {
    return cuModuleLoadDataEx(module, fatCubin, 0, nullptr, nullptr);
}

CUresult cuModuleUnload(CUmodule hmod) {
    return entry([&] {
        Runtime& runtime = Runtime::get();
        const auto module = runtime.modules.get(hmod);
        module->context().drain();
        runtime.functions.remove_if(
            [&](const Function& function) { return function.module == module; });
        runtime.modules.remove(hmod);
    });
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
    return entry([&] {
        require(mode != nullptr);
        *mode = CU_MODULE_EAGER_LOADING;
    });
}

CUresult cuModuleGetFunction(CUfunction* hfunc, CUmodule hmod, const char* name) {
    return entry_in_context([&](Context&) {
        require(hfunc && name);
        *hfunc = handle_of(*function_of(find_module(hmod), name));
    });
}

CUresult cuModuleGetFunctionCount(unsigned int* count, CUmodule mod) {
    return entry([&] {
        require(count != nullptr);
        *count = static_cast<unsigned>(find_module(mod)->program().kernels().size());
    });
}

CUresult cuModuleEnumerateFunctions(CUfunction* functions, unsigned int numFunctions,
                                    CUmodule mod) {
    return entry([&] {
        require(functions != nullptr);
        const auto module = find_module(mod);
        const auto kernels = module->program().kernels();
        for (unsigned i = 0; i < numFunctions && i < kernels.size(); ++i)
            functions[i] = handle_of(*function_of(module, kernels[i].name));
    });
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* dptr, size_t* bytes, CUmodule hmod, const char* name) {
    return entry_in_context([&](Context&) {
        require(name && (dptr || bytes));
        const auto global = find_module(hmod)->global(name);
        if (dptr) *dptr = global.address;
        if (bytes) *bytes = global.bytes;
    });
}

CUresult cuFuncGetAttribute(int* pi, CUfunction_attribute attrib, CUfunction hfunc) {
    return entry_in_context([&](Context& context) {
        require(pi != nullptr);
        *pi = find_function(hfunc, context)->attribute(attrib);
    });
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
    return entry_in_context(
        [&](Context& context) { find_function(hfunc, context)->set_attribute(attrib, value); });
}

CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config) {
    return entry_in_context([&](Context& context) {
        require(config >= CU_FUNC_CACHE_PREFER_NONE && config <= CU_FUNC_CACHE_PREFER_EQUAL);
        (void)find_function(hfunc, context);
    });
}

CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig) {
    return entry_in_context([&](Context& context) { (void)find_function(hfunc, context); });
}

CUresult cuFuncGetModule(CUmodule* hmod, CUfunction hfunc) {
    return entry_in_context([&](Context& context) {
        require(hmod != nullptr);
        *hmod =
            HandleTable<Module, CUmodule>::handle_of(find_function(hfunc, context)->module.get());
    });
}

CUresult cuFuncGetName(const char** name, CUfunction hfunc) {
    return entry_in_context([&](Context& context) {
        require(name != nullptr);
        *name = find_function(hfunc, context)->kernel.name.c_str();
    });
}

CUresult cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t* paramOffset,
                            size_t* paramSize) {
    return entry_in_context([&](Context& context) {
        require(paramOffset != nullptr);
        const auto& parameters = find_function(func, context)->kernel.parameters;
        require(paramIndex < parameters.size());
        *paramOffset = parameters[paramIndex].offset;
        if (paramSize) *paramSize = parameters[paramIndex].size;
    });
}

CUresult cuFuncGetParamCount(CUfunction func, size_t* paramCount) {
    return entry_in_context([&](Context& context) {
        require(paramCount != nullptr);
        *paramCount = find_function(func, context)->kernel.parameters.size();
    });
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction function) {
    return entry_in_context([&](Context& context) {
        require(state != nullptr);
        (void)find_function(function, context);
        *state = CU_FUNCTION_LOADING_STATE_LOADED;
    });
}

CUresult cuFuncLoad(CUfunction function) {
    return entry_in_context([&](Context& context) { (void)find_function(function, context); });
}
