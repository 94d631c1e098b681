#include "worker/device.hpp"

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>

namespace carrel::worker {

namespace {

void check(const DriverTable& driver, CUresult result, const char* what) {
    if (result == CUDA_SUCCESS) return;
    const char* name = nullptr;
    invoke(driver.cuGetErrorName, result, &name);
    throw std::runtime_error(
        std::string(what) + " failed: " + (name ? name : std::to_string(static_cast<int>(result))));
}

// What the device could do here but a remote program cannot use.
bool withheld(int attribute) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
        case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS:
        case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES:
        case CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST:
        case CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_MULTI_DEVICE_LAUNCH:
        case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
        case CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS:
            return true;
        default:
            return false;
    }
}

}  // namespace

Device::Device(const Options& options) {
    void* library = dlopen(options.driver.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library)
        throw std::runtime_error(std::string("the driver cannot be loaded: ") + dlerror());
    if (!driver.load(library)) {
        throw std::runtime_error(options.driver + " is not a CUDA driver: it lacks cuInit");
    }
    check(driver, driver.cuInit(0), "cuInit");
    check(driver, invoke(driver.cuDeviceGet, &device, options.device), "cuDeviceGet");
    check(driver, invoke(driver.cuDevicePrimaryCtxRetain, &primary, device),
          "cuDevicePrimaryCtxRetain");
    check(driver, invoke(driver.cuCtxSetCurrent, primary), "cuCtxSetCurrent");
    context_bytes = measure_context();
}

// A context's own memory cannot be asked for, so a second one is made and the difference taken.
uint64_t Device::measure_context() const {
    size_t before = 0;
    size_t after = 0;
    size_t total = 0;
    CUcontext probe = nullptr;
    invoke(driver.cuMemGetInfo_v2, &before, &total);
    const CUresult made = driver.cuCtxCreate_v4 ? driver.cuCtxCreate_v4(&probe, nullptr, 0, device)
                                                : invoke(driver.cuCtxCreate_v2, &probe, 0u, device);
    if (made != CUDA_SUCCESS) return 0;
    invoke(driver.cuMemGetInfo_v2, &after, &total);
    invoke(driver.cuCtxDestroy_v2, probe);
    invoke(driver.cuCtxSetCurrent, primary);
    return before > after ? before - after : 0;
}

wire::Snapshot Device::describe(const Options& options) const {
    wire::Snapshot s;
    s.session = options.session;
    s.total_memory = options.vram_bytes;
    s.tflops = options.tflops;
    char text[256] = {};
    if (invoke(driver.cuDeviceGetName, text, int{sizeof text}, device) == CUDA_SUCCESS)
        s.name = text;
    if (invoke(driver.cuDeviceGetPCIBusId, text, int{sizeof text}, device) == CUDA_SUCCESS) {
        s.pci_bus_id = text;
    }
    CUuuid uuid{};
    if (invoke(driver.cuDeviceGetUuid_v2, &uuid, device) == CUDA_SUCCESS) {
        std::memcpy(s.uuid.data(), uuid.bytes, s.uuid.size());
    }
    invoke(driver.cuDriverGetVersion, &s.driver_version);
    invoke(driver.cuCtxGetStreamPriorityRange, &s.least_priority, &s.greatest_priority);
    int active = 0;
    invoke(driver.cuDevicePrimaryCtxGetState, device, &s.context_flags, &active);
    for (int number = 1; number < CU_DEVICE_ATTRIBUTE_MAX; ++number) {
        int value = 0;
        const auto attribute = static_cast<CUdevice_attribute>(number);
        if (invoke(driver.cuDeviceGetAttribute, &value, attribute, device) == CUDA_SUCCESS) {
            s.attributes.emplace_back(number, withheld(number) ? 0 : value);
        }
    }
    return s;
}

}  // namespace carrel::worker
