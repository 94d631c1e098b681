// The device of the slice, ordinal 0: everything comes from the session's snapshot.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "client/forward.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

CUresult check(CUdevice device) {
    if (const CUresult bad = session().status(); bad && !corrupts_context(bad)) return bad;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

bool attribute(int number, int* value) {
    const auto& all = session().snapshot().attributes;  // sorted by number
    const auto at =
        std::lower_bound(all.begin(), all.end(), std::pair<int32_t, int32_t>{number, INT32_MIN});
    if (at == all.end() || at->first != number) return false;
    *value = at->second;
    return true;
}

int attribute(int number) {
    int value = 0;
    attribute(number, &value);
    return value;
}

void copy_text(char* to, int room, const std::string& text) {
    std::strncpy(to, text.c_str(), static_cast<size_t>(room));
    to[room - 1] = 0;
}

}  // namespace

CUresult CUDAAPI cuInit(unsigned int Flags) {
    // The runtime says it with each of its calls; only the first goes anywhere.
    trace(Call::cuInit, session().status() == CUDA_ERROR_NOT_INITIALIZED);
    if (Flags) return CUDA_ERROR_INVALID_VALUE;
    return session().attach();
}

CUresult CUDAAPI cuDriverGetVersion(int* driverVersion) {
    if (!driverVersion) return CUDA_ERROR_INVALID_VALUE;
    // May be asked before cuInit; only the node knows.
    if (const CUresult bad = session().attach(); bad && !corrupts_context(bad)) return bad;
    *driverVersion = session().snapshot().driver_version;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
    if (const CUresult bad = check(0)) return bad;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
    if (const CUresult bad = check(0)) return bad;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    // An empty list hides the device, as with NVIDIA's driver.
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    *count = visible && (!*visible || *visible == '-') ? 0 : 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char* name, int len, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!name || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    copy_text(name, len, session().snapshot().name);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!uuid) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(uuid->bytes, session().snapshot().uuid.data(), sizeof uuid->bytes);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid* uuid, CUdevice_v1 dev) {
    return cuDeviceGetUuid_v2(uuid, dev);
}

CUresult CUDAAPI cuDeviceGetLuid(char*, unsigned int*, CUdevice) {
    return CUDA_ERROR_NOT_SUPPORTED;  // exists on Windows only
}

CUresult CUDAAPI cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    *bytes = session().snapshot().total_memory;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pi || !attribute(attrib, pi)) return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!prop) return CUDA_ERROR_INVALID_VALUE;
    prop->maxThreadsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    for (int i = 0; i < 3; ++i) {
        prop->maxThreadsDim[i] = attribute(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X + i);
        prop->maxGridSize[i] = attribute(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i);
    }
    prop->sharedMemPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    prop->totalConstantMemory = attribute(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
    prop->SIMDWidth = attribute(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    prop->memPitch = attribute(CU_DEVICE_ATTRIBUTE_MAX_PITCH);
    prop->regsPerBlock = attribute(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
    prop->clockRate = attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
    prop->textureAlign = attribute(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!major || !minor) return CUDA_ERROR_INVALID_VALUE;
    *major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    *minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char* pciBusId, int len, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pciBusId || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    copy_text(pciBusId, len, session().snapshot().pci_bus_id);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice* dev, const char* pciBusId) {
    if (const CUresult bad = check(0)) return bad;
    if (!dev || !pciBusId) return CUDA_ERROR_INVALID_VALUE;
    if (session().snapshot().pci_bus_id != pciBusId) return CUDA_ERROR_INVALID_DEVICE;
    *dev = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceCanAccessPeer(int* canAccessPeer, CUdevice dev, CUdevice peerDev) {
    if (const CUresult bad = check(dev)) return bad;
    if (const CUresult bad = check(peerDev)) return bad;
    if (!canAccessPeer) return CUDA_ERROR_INVALID_VALUE;
    *canAccessPeer = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetP2PAttribute(int*, CUdevice_P2PAttribute, CUdevice srcDevice,
                                         CUdevice) {
    if (const CUresult bad = check(srcDevice)) return bad;
    return CUDA_ERROR_INVALID_DEVICE;  // needs two devices
}

CUresult CUDAAPI cuDeviceGetExecAffinitySupport(int* pi, CUexecAffinityType, CUdevice dev) {
    if (const CUresult bad = check(dev)) return bad;
    if (!pi) return CUDA_ERROR_INVALID_VALUE;
    *pi = 0;
    return CUDA_SUCCESS;
}

// Profilers run where the GPU is; there is nothing to start here.
CUresult CUDAAPI cuProfilerStart() {
    return current_context() ? session().status() : no_context();
}
CUresult CUDAAPI cuProfilerStop() {
    return current_context() ? session().status() : no_context();
}
