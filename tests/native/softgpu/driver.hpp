// The software GPU as a test sees it: loaded by dlopen, called through a table, one context made
// current.
#pragma once

#include <cstdlib>
#include <vector>

#include "check.hpp"
#include "driver_table.hpp"

namespace carrel::test {

/// The driver's functions. The first use loads the library; CARREL_SOFTGPU must be set by then.
inline const worker::DriverTable& driver() {
    static const worker::DriverTable table = [] {
        worker::DriverTable loaded;
        void* library = dlopen(CARREL_SOFTGPU_LIBRARY, RTLD_NOW | RTLD_LOCAL);
        if (!library || !loaded.load(library)) {
            std::cerr << "cannot load the software GPU: " << dlerror() << '\n';
            std::exit(EXIT_FAILURE);
        }
        return loaded;
    }();
    return table;
}

/// Sets the configuration, initialises, and makes a context of device 0 current while it lives.
class WithContext {
  public:
    explicit WithContext(const char* config = "vram=64MiB,sms=4,threads=2") {
        setenv("CARREL_SOFTGPU", config, 0);
        CHECK_EQ(driver().cuInit(0), CUDA_SUCCESS);
        CHECK_EQ(driver().cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
    }
    ~WithContext() { CHECK_EQ(driver().cuCtxDestroy_v2(context), CUDA_SUCCESS); }
    WithContext(const WithContext&) = delete;
    WithContext& operator=(const WithContext&) = delete;

    CUcontext context = nullptr;
};

inline std::size_t free_memory() {
    std::size_t free = 0, total = 0;
    CHECK_EQ(driver().cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
}

/// A device array of `values`.
template <class T>
CUdeviceptr upload(const std::vector<T>& values) {
    CUdeviceptr address = 0;
    CHECK_EQ(driver().cuMemAlloc_v2(&address, values.size() * sizeof(T)), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyHtoD_v2(address, values.data(), values.size() * sizeof(T)),
             CUDA_SUCCESS);
    return address;
}

template <class T>
std::vector<T> download(CUdeviceptr address, std::size_t count) {
    std::vector<T> values(count);
    CHECK_EQ(driver().cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)), CUDA_SUCCESS);
    return values;
}

/// A module and one of its kernels.
struct Loaded {
    explicit Loaded(const char* ptx, const char* kernel) {
        CHECK_EQ(driver().cuModuleLoadData(&module, ptx), CUDA_SUCCESS);
        CHECK_EQ(driver().cuModuleGetFunction(&function, module, kernel), CUDA_SUCCESS);
    }
    CUresult operator()(unsigned blocks, unsigned threads, CUstream stream,
                        std::vector<void*> arguments) const {
        return driver().cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream,
                                       arguments.data(), nullptr);
    }
    CUmodule module = nullptr;
    CUfunction function = nullptr;
};

}  // namespace carrel::test
