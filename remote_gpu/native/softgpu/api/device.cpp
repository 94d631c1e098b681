// cuInit, cuDevice*: what exists and what it looks like.
#include <cstdio>
#include <cstring>

#include "cuda_functions.hpp"
#include "softgpu/runtime.hpp"

using namespace carrel::softgpu;

namespace {

void copy_text(char* to, int length, const std::string& text) {
    require(to != nullptr && length > 0);
    std::snprintf(to, static_cast<std::size_t>(length), "%s", text.c_str());
}

}  // namespace

CUresult cuInit(unsigned int Flags) {
    if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
    return Runtime::initialise();
}

CUresult cuDriverGetVersion(int* driverVersion) {
    if (!driverVersion) return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = kDriverVersion;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    return entry([&] {
        require(device != nullptr);
        *device = Runtime::get().device(ordinal).ordinal();
    });
}

CUresult cuDeviceGetCount(int* count) {
    return entry([&] {
        require(count != nullptr);
        *count = static_cast<int>(Runtime::get().device_count());
    });
}

CUresult cuDeviceGetName(char* name, int len, CUdevice dev) {
    return entry([&] { copy_text(name, len, Runtime::get().device(dev).config().name); });
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) {
    return entry([&] {
        require(uuid != nullptr);
        *uuid = Runtime::get().device(dev).uuid();
    });
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) {
    return cuDeviceGetUuid_v2(uuid, dev);
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
    return entry([&] {
        require(bytes != nullptr);
        *bytes = Runtime::get().device(dev).config().vram_bytes;
    });
}

CUresult cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev) {
    return entry([&] {
        require(pi != nullptr);
        const auto value = Runtime::get().device(dev).attribute(attrib);
        require(value.has_value());
        *pi = *value;
    });
}

CUresult cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) {
    return entry([&] {
        require(prop != nullptr);
        const Device& device = Runtime::get().device(dev);
        const auto value = [&](CUdevice_attribute which) { return *device.attribute(which); };
        *prop = {};
        prop->maxThreadsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
        for (int i = 0; i < 3; ++i) {
            prop->maxThreadsDim[i] =
                value(static_cast<CUdevice_attribute>(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i));
            prop->maxGridSize[i] =
                value(static_cast<CUdevice_attribute>(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i));
        }
        prop->sharedMemPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
        prop->totalConstantMemory = value(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
        prop->SIMDWidth = value(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
        prop->memPitch = value(CU_DEVICE_ATTRIBUTE_MAX_PITCH);
        prop->regsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
        prop->clockRate = value(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
        prop->textureAlign = value(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    });
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) {
    return entry([&] {
        require(major && minor);
        const Config& config = Runtime::get().device(dev).config();
        *major = static_cast<int>(config.cc_major);
        *minor = static_cast<int>(config.cc_minor);
    });
}

CUresult cuDeviceGetPCIBusId(char* pciBusId, int len, CUdevice dev) {
    return entry([&] { copy_text(pciBusId, len, Runtime::get().device(dev).pci_bus_id()); });
}

CUresult cuDeviceGetByPCIBusId(CUdevice* dev, const char* pciBusId) {
    return entry([&] {
        require(dev && pciBusId);
        // The domain, the function and leading zeros may be left out.
        unsigned domain = 0, bus = 0, slot = 0;
        if (std::sscanf(pciBusId, "%x:%x:%x", &domain, &bus, &slot) != 3) {
            domain = 0;
            require(std::sscanf(pciBusId, "%x:%x", &bus, &slot) == 2);
        }
        for (int i = 0; i < static_cast<int>(Runtime::get().device_count()); ++i)
            if (domain == 0 && slot == 0 &&
                *Runtime::get().device(i).attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID) ==
                    static_cast<int>(bus)) {
                *dev = i;
                return CUDA_SUCCESS;
            }
        return CUDA_ERROR_INVALID_DEVICE;
    });
}

CUresult cuDeviceCanAccessPeer(int* canAccessPeer, CUdevice dev, CUdevice peerDev) {
    return entry([&] {
        require(canAccessPeer != nullptr);
        *canAccessPeer = &Runtime::get().device(dev) != &Runtime::get().device(peerDev);
    });
}

CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                                 CUdevice dstDevice) {
    return entry([&] {
        require(value != nullptr);
        const bool two = &Runtime::get().device(srcDevice) != &Runtime::get().device(dstDevice);
        require(two, CUDA_ERROR_INVALID_DEVICE);
        switch (attrib) {
            case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
                *value = 0;
                return;
            case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
            case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
                *value = 1;
                return;
            case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
            case CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED:
                *value = 0;
                return;
        }
        throw Failure(CUDA_ERROR_INVALID_VALUE);
    });
}

CUresult cuDeviceGetExecAffinitySupport(int* pi, CUexecAffinityType, CUdevice dev) {
    return entry([&] {
        require(pi != nullptr);
        (void)Runtime::get().device(dev);
        *pi = 0;
    });
}
