// Kernel launches: parameters are packed here, by the layout that came with the function, and the
// launch is pipelined. This is the path that must cost less than a microsecond.
#include "client/launch.hpp"

#include <cstring>

#include "client/forward.hpp"
#include "client/function.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct Limits {
    unsigned int grid[3];
    unsigned int block[3];
    unsigned int threads;
    unsigned int registers;
};

const Limits& limits() {
    static const Limits known = [] {
        const auto get = [](CUdevice_attribute which) {
            int value = 0;
            cuDeviceGetAttribute(&value, which, 0);
            return static_cast<unsigned int>(value);
        };
        return Limits{
            {get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X), get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y),
             get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)},
            {get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X), get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y),
             get(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)},
            get(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
            get(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK)};
    }();
    return known;
}

// What CUDA refuses at once.
CUresult check(const CUlaunchConfig& c, const Function& function) {
    const Limits& most = limits();
    const unsigned int grid[3] = {c.gridDimX, c.gridDimY, c.gridDimZ};
    const unsigned int block[3] = {c.blockDimX, c.blockDimY, c.blockDimZ};
    for (int i = 0; i < 3; ++i) {
        if (!grid[i] || grid[i] > most.grid[i]) return CUDA_ERROR_INVALID_VALUE;
        if (!block[i] || block[i] > most.block[i]) return CUDA_ERROR_INVALID_VALUE;
    }
    const uint64_t threads = uint64_t{block[0]} * block[1] * block[2];
    if (threads > most.threads) return CUDA_ERROR_INVALID_VALUE;
    if (threads >
        static_cast<uint64_t>(function.attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK))) {
        // Too many registers; or more threads than the kernel was declared for.
        const uint64_t registers =
            threads * static_cast<unsigned int>(function.attribute(CU_FUNC_ATTRIBUTE_NUM_REGS));
        return registers > most.registers ? CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
                                          : CUDA_ERROR_INVALID_VALUE;
    }
    const auto shared = function.attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    if (c.sharedMemBytes > static_cast<uint64_t>(shared)) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

// The packed parameters, from an array of pointers or from one buffer.
CUresult check_params(const Function& function, void** params, void** extra, const void** buffer,
                      size_t* size) {
    *buffer = nullptr;
    *size = function.params_size;
    if (params || !function.params_size) return CUDA_SUCCESS;
    if (!extra) return CUDA_ERROR_INVALID_VALUE;
    size_t given = 0;
    for (; *extra; extra += 2) {
        const auto key = reinterpret_cast<uint64_t>(extra[0]);
        if (key == kCU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT) {
            *buffer = extra[1];
        } else if (key == kCU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT) {
            given = *static_cast<size_t*>(extra[1]);
        } else {
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    if (!*buffer || given > wire::kMaxParams || given < function.params_size) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *size = given;
    return CUDA_SUCCESS;
}

void pack(std::byte* to, const Function& function, void** params) {
    uint32_t at = 0;
    size_t i = 0;
    for (const wire::ParamInfo& p : function.params) {
        if (p.offset > at) std::memset(to + at, 0, p.offset - at);
        const void* from = params[i++];
        switch (p.size) {
            case 8:
                std::memcpy(to + p.offset, from, 8);
                break;
            case 4:
                std::memcpy(to + p.offset, from, 4);
                break;
            default:
                std::memcpy(to + p.offset, from, p.size);
                break;
        }
        at = p.offset + p.size;
    }
}

// Attributes that hold a handle travel with its name.
void put_attribute(wire::Writer& w, CUlaunchAttribute attribute) {
    const auto rename = [](CUevent& event) { event = reinterpret_cast<CUevent>(name_of(event)); };
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT) {
        rename(attribute.value.programmaticEvent.event);
    } else if (attribute.id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT) {
        rename(attribute.value.launchCompletionEvent.event);
    }
    w.put(attribute);
}

CUresult launch(Call which, const CUlaunchConfig& c, CUfunction handle, void** params,
                void** extra) {
    const Function* function = find_function(handle);
    if (!function) {
        const CUresult bad = session().status();
        return bad ? bad : CUDA_ERROR_INVALID_HANDLE;
    }
    if (const CUresult bad = check(c, *function)) return bad;
    const void* buffer;
    size_t size;
    if (const CUresult bad = check_params(*function, params, extra, &buffer, &size)) return bad;
    if (c.numAttrs > wire::kMaxLaunchAttributes || (c.numAttrs && !c.attrs)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    trace(which, false);
    const uint32_t context = current_context_name();
    if (!context) return no_context();
    const MirrorWork mirrored;
    if (mirrored.result()) return mirrored.result();
    return session().post(static_cast<uint16_t>(Call::cuLaunchKernelEx), context,
                          [&](wire::Writer& w) {
                              struct {
                                  uint64_t function, stream;
                                  uint32_t grid[3], block[3], shared, attributes, params;
                              } __attribute__((packed)) head = {
                                  Handles::name(handle),
                                  name_of(c.hStream),
                                  {c.gridDimX, c.gridDimY, c.gridDimZ},
                                  {c.blockDimX, c.blockDimY, c.blockDimZ},
                                  c.sharedMemBytes,
                                  c.numAttrs,
                                  static_cast<uint32_t>(size),
                              };
                              w.put(head);
                              for (unsigned int i = 0; i < c.numAttrs; ++i)
                                  put_attribute(w, c.attrs[i]);
                              if (buffer) {
                                  w.raw(buffer, size);
                              } else if (size) {
                                  pack(static_cast<std::byte*>(w.extend(size)), *function, params);
                              }
                          });
}

}  // namespace

namespace carrel::client {

CUresult pack_launch(const CUlaunchConfig& config, const Function& function, void** params,
                     void** extra, std::vector<std::byte>& packed) {
    if (const CUresult bad = check(config, function)) return bad;
    const void* buffer;
    size_t size;
    if (const CUresult bad = check_params(function, params, extra, &buffer, &size)) return bad;
    packed.resize(size);
    if (buffer) {
        std::memcpy(packed.data(), buffer, size);
    } else if (size) {
        pack(packed.data(), function, params);
    }
    return CUDA_SUCCESS;
}

}  // namespace carrel::client

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                unsigned int gridDimZ, unsigned int blockDimX,
                                unsigned int blockDimY, unsigned int blockDimZ,
                                unsigned int sharedMemBytes, CUstream hStream, void** kernelParams,
                                void** extra) {
    const CUlaunchConfig config{gridDimX,  gridDimY,       gridDimZ, blockDimX, blockDimY,
                                blockDimZ, sharedMemBytes, hStream,  nullptr,   0};
    return launch(Call::cuLaunchKernel, config, f, kernelParams, extra);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                                  void** extra) {
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    return launch(Call::cuLaunchKernelEx, *config, f, kernelParams, extra);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX,
                                           unsigned int gridDimY, unsigned int gridDimZ,
                                           unsigned int blockDimX, unsigned int blockDimY,
                                           unsigned int blockDimZ, unsigned int sharedMemBytes,
                                           CUstream hStream, void** kernelParams) {
    CUlaunchAttribute cooperative{};
    cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    cooperative.value.cooperative = 1;
    const CUlaunchConfig config{gridDimX,  gridDimY,       gridDimZ, blockDimX,    blockDimY,
                                blockDimZ, sharedMemBytes, hStream,  &cooperative, 1};
    return launch(Call::cuLaunchCooperativeKernel, config, f, kernelParams, nullptr);
}
