#include "client/function.hpp"

#include <algorithm>

#include "client/forward.hpp"
#include "cuda_functions.hpp"

namespace carrel::client {

void Function::decode(wire::Reader& in) {
    const auto count = in.get<uint32_t>();
    if (count > 4096) throw wire::Malformed("a kernel with more than 4096 parameters");
    params.reserve(count);
    for (uint32_t i = 0; i < count; ++i) {
        params.push_back(in.get<wire::ParamInfo>());
        if (params.back().offset > wire::kMaxParams || params.back().size > wire::kMaxParams) {
            throw wire::Malformed("a kernel parameter beyond 32764 bytes");
        }
        params_size = std::max(params_size, params.back().offset + params.back().size);
    }
    known_attributes = in.get<uint32_t>();
    for (auto& attribute : attributes) attribute = in.get<int32_t>();
}

void Function::copy_facts(const Function& other) {
    symbol = other.symbol;
    owner = other.owner;
    params = other.params;
    params_size = other.params_size;
    known_attributes = other.known_attributes;
    for (size_t i = 0; i < attributes.size(); ++i) attributes[i] = other.attributes[i].load();
}

Function* find_function(CUfunction handle) {
    const uint32_t name = Handles::name(handle);
    const Kind kind = handles().kind(name);
    if (kind != Kind::function && kind != Kind::kernel) return nullptr;
    return static_cast<Function*>(handles().object(name));
}

Function* find_kernel(CUkernel handle) {
    const uint32_t name = Handles::name(handle);
    if (handles().kind(name) != Kind::kernel) return nullptr;
    return static_cast<Function*>(handles().object(name));
}

namespace {

CUresult get_name(const char** name, const Function* function) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!name) return CUDA_ERROR_INVALID_VALUE;
    *name = function->symbol.c_str();
    return CUDA_SUCCESS;
}

CUresult get_param(const Function* function, size_t index, size_t* offset, size_t* size) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!offset || index >= function->params.size()) return CUDA_ERROR_INVALID_VALUE;
    *offset = function->params[index].offset;
    if (size) *size = function->params[index].size;
    return CUDA_SUCCESS;
}

CUresult get_param_count(const Function* function, size_t* count) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = function->params.size();
    return CUDA_SUCCESS;
}

bool knows(const Function& function, CUfunction_attribute attribute) {
    return attribute >= 0 && attribute < CU_FUNC_ATTRIBUTE_MAX &&
           (function.known_attributes >> attribute & 1);
}

// Whether the driver is sure to accept the value.
bool settable(const Function& function, CUfunction_attribute attribute, int value) {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: {
            int most = 0;
            cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0);
            return value >= 0 &&
                   value <= most - function.attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
        }
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
            return value >= -1 && value <= 100;
        default:
            return false;
    }
}

// Libraries set the same values before each launch.
CUresult set_attribute(Call which, CUfunction handle, CUfunction_attribute attribute, int value) {
    Function* function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    const auto encode = [&](wire::Writer& w) {
        w.put(name_of(handle));
        w.put(attribute);
        w.put(value);
    };
    const bool known = knows(*function, attribute);
    if (known && settable(*function, attribute, value)) {
        if (function->attribute(attribute) == value) return session().status();
        if (const CUresult bad = post(which, encode)) return bad;
    } else if (const CUresult bad = call(which, encode, [](wire::Reader&) {})) {
        return bad;
    }
    if (known) function->attributes[attribute] = value;
    return CUDA_SUCCESS;
}

CUresult get_attribute(Call which, CUfunction handle, CUfunction_attribute attribute, int* value) {
    const Function* function = find_function(handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    if (knows(*function, attribute)) {
        trace(which, false);
        if (const CUresult bad = session().status()) return bad;
        *value = function->attribute(attribute);
        return CUDA_SUCCESS;
    }
    return call(
        which,
        [&](wire::Writer& w) {
            w.put(name_of(handle));
            w.put(attribute);
        },
        [&](wire::Reader& r) { *value = r.get<int32_t>(); });
}

}  // namespace

}  // namespace carrel::client

using namespace carrel;
using namespace carrel::client;

CUresult CUDAAPI cuFuncGetName(const char** name, CUfunction hfunc) {
    return get_name(name, find_function(hfunc));
}
CUresult CUDAAPI cuKernelGetName(const char** name, CUkernel hfunc) {
    return get_name(name, find_kernel(hfunc));
}

CUresult CUDAAPI cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t* paramOffset,
                                    size_t* paramSize) {
    return get_param(find_function(func), paramIndex, paramOffset, paramSize);
}
CUresult CUDAAPI cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t* paramOffset,
                                      size_t* paramSize) {
    return get_param(find_kernel(kernel), paramIndex, paramOffset, paramSize);
}

CUresult CUDAAPI cuFuncGetParamCount(CUfunction func, size_t* paramCount) {
    return get_param_count(find_function(func), paramCount);
}
CUresult CUDAAPI cuKernelGetParamCount(CUkernel kernel, size_t* paramCount) {
    return get_param_count(find_kernel(kernel), paramCount);
}

CUresult CUDAAPI cuFuncGetModule(CUmodule* hmod, CUfunction hfunc) {
    const Function* function = find_function(hfunc);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!hmod) return CUDA_ERROR_INVALID_VALUE;
    if (handles().kind(function->owner) == Kind::library) {
        return cuLibraryGetModule(hmod, Handles::handle<CUlibrary>(function->owner));
    }
    if (handles().kind(function->owner) != Kind::module) return CUDA_ERROR_INVALID_HANDLE;
    *hmod = Handles::handle<CUmodule>(function->owner);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetAttribute(int* pi, CUfunction_attribute attrib, CUfunction hfunc) {
    return get_attribute(Call::cuFuncGetAttribute, hfunc, attrib, pi);
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
    return set_attribute(Call::cuFuncSetAttribute, hfunc, attrib, value);
}

CUresult CUDAAPI cuKernelGetAttribute(int* pi, CUfunction_attribute attrib, CUkernel kernel,
                                      CUdevice dev) {
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    return get_attribute(Call::cuKernelGetAttribute, reinterpret_cast<CUfunction>(kernel), attrib,
                         pi);
}

CUresult CUDAAPI cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                                      CUdevice dev) {
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    return set_attribute(Call::cuKernelSetAttribute, reinterpret_cast<CUfunction>(kernel), attrib,
                         val);
}
