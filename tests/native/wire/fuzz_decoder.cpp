// libFuzzer: any bytes from a client are executed or refused; nothing crashes, hangs or leaks. The
// whole worker runs, on a driver whose functions succeed and do nothing.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "worker/server.hpp"

using namespace carrel;
using namespace carrel::worker;

namespace {

char some_object[64];

template <class H>
CUresult give(H* out) {
    *out = reinterpret_cast<H>(some_object);
    return CUDA_SUCCESS;
}

DriverTable make_driver() {
    DriverTable d;
    d.cuCtxSetCurrent = [](CUcontext) { return CUDA_SUCCESS; };
    d.cuCtxSynchronize = [] { return CUDA_SUCCESS; };
    d.cuStreamQuery = [](CUstream) { return CUDA_SUCCESS; };
    d.cuStreamSynchronize = [](CUstream) { return CUDA_SUCCESS; };
    d.cuStreamCreate = [](CUstream* out, unsigned int) { return give(out); };
    d.cuStreamDestroy_v2 = [](CUstream) { return CUDA_SUCCESS; };
    d.cuEventCreate = [](CUevent* out, unsigned int) { return give(out); };
    d.cuEventRecord = [](CUevent, CUstream) { return CUDA_SUCCESS; };
    d.cuEventQuery = [](CUevent) { return CUDA_SUCCESS; };
    d.cuEventSynchronize = [](CUevent) { return CUDA_SUCCESS; };
    d.cuEventDestroy_v2 = [](CUevent) { return CUDA_SUCCESS; };
    d.cuMemAddressReserve = [](CUdeviceptr* out, size_t, size_t, CUdeviceptr at,
                               unsigned long long) {
        *out = at;
        return CUDA_SUCCESS;
    };
    d.cuMemCreate = [](CUmemGenericAllocationHandle* out, size_t, const CUmemAllocationProp*,
                       unsigned long long) {
        *out = 1;
        return CUDA_SUCCESS;
    };
    d.cuMemMap = [](CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) {
        return CUDA_SUCCESS;
    };
    d.cuMemSetAccess = [](CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) {
        return CUDA_SUCCESS;
    };
    d.cuMemUnmap = [](CUdeviceptr, size_t) { return CUDA_SUCCESS; };
    d.cuMemRelease = [](CUmemGenericAllocationHandle) { return CUDA_SUCCESS; };
    d.cuMemcpyHtoD_v2 = [](CUdeviceptr, const void*, size_t) { return CUDA_SUCCESS; };
    d.cuMemcpyHtoDAsync_v2 = [](CUdeviceptr, const void*, size_t, CUstream) {
        return CUDA_SUCCESS;
    };
    d.cuMemcpyDtoHAsync_v2 = [](void*, CUdeviceptr, size_t, CUstream) { return CUDA_SUCCESS; };
    d.cuMemcpy3DAsync_v2 = [](const CUDA_MEMCPY3D*, CUstream) { return CUDA_SUCCESS; };
    d.cuModuleLoadDataEx = [](CUmodule* out, const void*, unsigned int, CUjit_option*, void**) {
        return give(out);
    };
    d.cuModuleGetFunction = [](CUfunction* out, CUmodule, const char*) { return give(out); };
    d.cuLibraryLoadData = [](CUlibrary* out, const void*, CUjit_option*, void**, unsigned int,
                             CUlibraryOption*, void**, unsigned int) { return give(out); };
    d.cuLibraryGetKernel = [](CUkernel* out, CUlibrary, const char*) { return give(out); };
    d.cuKernelGetFunction = [](CUfunction* out, CUkernel) { return give(out); };
    d.cuLinkCreate_v2 = [](unsigned int, CUjit_option*, void**, CUlinkState* out) {
        return give(out);
    };
    d.cuLinkAddData_v2 = [](CUlinkState, CUjitInputType, void*, size_t, const char*, unsigned int,
                            CUjit_option*, void**) { return CUDA_SUCCESS; };
    d.cuLinkComplete = [](CUlinkState, void** out, size_t* size) {
        *out = some_object;
        *size = sizeof some_object;
        return CUDA_SUCCESS;
    };
    d.cuLaunchKernel = [](CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                          unsigned int, unsigned int, unsigned int, CUstream, void**,
                          void**) { return CUDA_SUCCESS; };
    return d;
}

// Half of the inputs are taken as they are; from the others, well-formed calls are made, so that
// the fuzzer reaches what lies behind the header.
std::vector<uint8_t> stream_of(const uint8_t* data, size_t size) {
    if (!size || data[0] & 1) return {data, data + size};
    constexpr uint16_t kFirst = static_cast<uint16_t>(wire::Internal::first);
    constexpr uint16_t kInternals = static_cast<uint16_t>(wire::Internal::last) - kFirst;
    wire::Writer out;
    for (size_t at = 1; at + 4 <= size;) {
        const uint16_t number = static_cast<uint16_t>(data[at] | data[at + 1] << 8);
        const size_t payload = std::min<size_t>(data[at + 2], size - at - 4);
        const uint8_t flags = data[at + 3];
        const bool internal = flags & 2;
        const auto call =
            static_cast<uint16_t>(internal ? kFirst + number % kInternals : number % kCallCount);
        const uint64_t bulk = flags >> 3;
        at += 4;
        out.put(wire::CallHeader{call, static_cast<uint16_t>(bulk ? wire::kBulk : 0),
                                 static_cast<uint32_t>(payload), flags & 4u, 1});
        if (bulk) out.put(bulk);
        out.raw(data + at, payload);
        at += payload;
        for (uint64_t i = 0; i < bulk; ++i) out.put(uint8_t{0});
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(out.data());
    return {bytes, bytes + out.size()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const DriverTable driver = make_driver();
    int ends[2];
    const std::vector<uint8_t> stream = stream_of(data, size);
    if (stream.size() > 65536 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 0;
    // Replies nobody reads must not block the worker: the reading end is closed for them.
    if (::send(ends[1], stream.data(), stream.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(stream.size()))
        std::abort();
    ::shutdown(ends[1], SHUT_RDWR);
    Device device(driver);
    Options options;
    options.vram_bytes = uint64_t{1} << 30;
    Server server(device, options, wire::Channel(ends[0]));
    server.run();
    ::close(ends[1]);
    return 0;
}
