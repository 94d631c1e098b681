// Measures the CUDA driver API as a program sees it, each figure beside its own limit.
//
// Talks to whatever libcuda.so.1 the process is given: Carrel's client (a slice) or NVIDIA's
// driver. Prints one JSON object. Knows nothing of Carrel but the ABI header made from its
// descriptions.
//
//   driver_bench all | sync | copies | attach START_NS
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda_abi.hpp"
#include "raw_tcp.hpp"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "driver_bench: %s\n", what.c_str());
    std::exit(1);
}

// The few functions that are measured, found by their exported names.
struct Driver {
    CUresult (*init)(unsigned int);
    CUresult (*device_get)(CUdevice*, int);
    CUresult (*device_name)(char*, int, CUdevice);
    CUresult (*device_attribute)(int*, CUdevice_attribute, CUdevice);
    CUresult (*driver_version)(int*);
    CUresult (*primary_retain)(CUcontext*, CUdevice);
    CUresult (*set_current)(CUcontext);
    CUresult (*synchronize)();
    CUresult (*load)(CUmodule*, const void*);
    CUresult (*function)(CUfunction*, CUmodule, const char*);
    CUresult (*launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned, CUstream, void**, void**);
    CUresult (*alloc)(CUdeviceptr*, size_t);
    CUresult (*free)(CUdeviceptr);
    CUresult (*to_device)(CUdeviceptr, const void*, size_t);
    CUresult (*to_host)(void*, CUdeviceptr, size_t);
    CUresult (*error_name)(CUresult, const char**);

    Driver() {
        void* library = dlopen("libcuda.so.1", RTLD_NOW);
        if (!library) die(dlerror());
        const auto find = [&](const char* name, auto& pointer) {
            void* symbol = dlsym(library, name);
            if (!symbol) die(std::string("libcuda.so.1 lacks ") + name);
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(symbol);
        };
        find("cuInit", init);
        find("cuDeviceGet", device_get);
        find("cuDeviceGetName", device_name);
        find("cuDeviceGetAttribute", device_attribute);
        find("cuDriverGetVersion", driver_version);
        find("cuDevicePrimaryCtxRetain", primary_retain);
        find("cuCtxSetCurrent", set_current);
        find("cuCtxSynchronize", synchronize);
        find("cuModuleLoadData", load);
        find("cuModuleGetFunction", function);
        find("cuLaunchKernel", launch);
        find("cuMemAlloc_v2", alloc);
        find("cuMemFree_v2", free);
        find("cuMemcpyHtoD_v2", to_device);
        find("cuMemcpyDtoH_v2", to_host);
        find("cuGetErrorName", error_name);
    }

    void check(CUresult result, const char* what) const {
        if (result == CUDA_SUCCESS) return;
        const char* name = nullptr;
        error_name(result, &name);
        die(std::string(what) + ": " + (name ? name : "unknown error"));
    }

    void attach() const {
        CUdevice device = 0;
        CUcontext context = nullptr;
        check(init(0), "cuInit");
        check(device_get(&device, 0), "cuDeviceGet");
        check(primary_retain(&context, device), "cuDevicePrimaryCtxRetain");
        check(set_current(context), "cuCtxSetCurrent");
    }
};

// Five arguments, as a student's kernel has; the guard is false, so that nothing but the launch
// itself is measured.
constexpr char kPtx[] = R"(
.version 7.0
.target sm_52
.address_size 64
.visible .entry axpy(
    .param .u64 y, .param .u64 x, .param .f32 a, .param .u32 n, .param .u32 offset)
{
    .reg .pred %p;
    .reg .u32 %r<4>;
    .reg .f32 %f<4>;
    .reg .u64 %d<5>;
    ld.param.u64 %d1, [y];
    ld.param.u64 %d2, [x];
    ld.param.f32 %f1, [a];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [offset];
    mov.u32 %r3, %tid.x;
    add.u32 %r3, %r3, %r2;
    setp.ge.u32 %p, %r3, %r1;
    @%p bra done;
    mul.wide.u32 %d3, %r3, 4;
    add.u64 %d1, %d1, %d3;
    add.u64 %d2, %d2, %d3;
    ld.global.f32 %f2, [%d1];
    ld.global.f32 %f3, [%d2];
    fma.rn.f32 %f2, %f1, %f3, %f2;
    st.global.f32 [%d1], %f2;
done:
    ret;
}
)";

struct Axpy {
    const Driver& cuda;
    CUfunction function = nullptr;
    CUdeviceptr y = 0, x = 0;
    float a = 2;
    unsigned n = 0, offset = 0;

    explicit Axpy(const Driver& driver) : cuda(driver) {
        CUmodule module = nullptr;
        cuda.check(cuda.load(&module, kPtx), "cuModuleLoadData");
        cuda.check(cuda.function(&function, module, "axpy"), "cuModuleGetFunction");
        cuda.check(cuda.alloc(&y, 4096), "cuMemAlloc");
        cuda.check(cuda.alloc(&x, 4096), "cuMemAlloc");
    }

    void launch() {
        void* arguments[] = {&y, &x, &a, &n, &offset};
        cuda.check(cuda.launch(function, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr),
                   "cuLaunchKernel");
    }
};

// --- the figures
// ----------------------------------------------------------------------------------

using Figures = std::map<std::string, double>;

void measure_launches(const Driver& cuda, Figures& out) {
    Axpy axpy(cuda);
    for (int i = 0; i < 200; ++i) axpy.launch();
    cuda.check(cuda.synchronize(), "cuCtxSynchronize");
    std::vector<double> single, pipelined, waited;
    for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 500; ++i) {
            const auto start = Clock::now();
            axpy.launch();
            single.push_back(seconds_since(start));
        }
        cuda.check(cuda.synchronize(), "cuCtxSynchronize");
    }
    for (int round = 0; round < 7; ++round) {
        constexpr int kMany = 5000, kFew = 500;
        auto start = Clock::now();
        for (int i = 0; i < kMany; ++i) axpy.launch();
        cuda.check(cuda.synchronize(), "cuCtxSynchronize");
        pipelined.push_back(seconds_since(start) / kMany);
        start = Clock::now();
        for (int i = 0; i < kFew; ++i) {
            axpy.launch();
            cuda.check(cuda.synchronize(), "cuCtxSynchronize");
        }
        waited.push_back(seconds_since(start) / kFew);
    }
    out["launch_client_us"] = median(single) * 1e6;
    out["launches_per_s"] = 1 / median(pipelined);
    out["launches_waited_per_s"] = 1 / median(waited);
    out["launch_speedup"] = median(waited) / median(pipelined);
}

void measure_sync(const Driver& cuda, raw_tcp::Connection& raw, Figures& out) {
    std::vector<double> ours, limit;
    for (int round = 0; round < 40; ++round) {
        for (int i = 0; i < 100; ++i) limit.push_back(raw.ping());
        for (int i = 0; i < 100; ++i) {
            const auto start = Clock::now();
            cuda.check(cuda.synchronize(), "cuCtxSynchronize");
            ours.push_back(seconds_since(start));
        }
    }
    out["sync_us"] = median(ours) * 1e6;
    out["tcp_ping_us"] = median(limit) * 1e6;
    out["sync_ratio"] = median(ours) / median(limit);
}

void measure_copies(const Driver& cuda, raw_tcp::Connection& raw, Figures& out) {
    constexpr size_t kBytes = 256u << 20;
    std::vector<char> data(kBytes, 1);
    CUdeviceptr device = 0;
    cuda.check(cuda.alloc(&device, kBytes), "cuMemAlloc of 256 MiB");
    std::vector<double> h2d, d2h, sent, received;
    for (int round = 0; round < 6; ++round) {
        const double raw_send = raw.send(data);
        auto start = Clock::now();
        cuda.check(cuda.to_device(device, data.data(), kBytes), "cuMemcpyHtoD");
        cuda.check(cuda.synchronize(), "cuCtxSynchronize");
        const double ours_send = seconds_since(start);
        const double raw_receive = raw.receive(data);
        start = Clock::now();
        cuda.check(cuda.to_host(data.data(), device, kBytes), "cuMemcpyDtoH");
        const double ours_receive = seconds_since(start);
        if (round == 0) continue;  // first touch of all pages
        sent.push_back(raw_send);
        h2d.push_back(ours_send);
        received.push_back(raw_receive);
        d2h.push_back(ours_receive);
    }
    cuda.check(cuda.free(device), "cuMemFree");
    constexpr double kGiB = 1 << 30;
    out["h2d_gib_s"] = kBytes / kGiB / median(h2d);
    out["d2h_gib_s"] = kBytes / kGiB / median(d2h);
    out["tcp_send_gib_s"] = kBytes / kGiB / median(sent);
    out["tcp_receive_gib_s"] = kBytes / kGiB / median(received);
    out["h2d_ratio"] = median(sent) / median(h2d);
    out["d2h_ratio"] = median(received) / median(d2h);
}

void measure_allocations(const Driver& cuda, Figures& out) {
    std::vector<double> alloc, release;
    for (int round = 0; round < 10; ++round) {
        std::vector<CUdeviceptr> all(100);
        for (CUdeviceptr& p : all) {
            const auto start = Clock::now();
            cuda.check(cuda.alloc(&p, 1 << 20), "cuMemAlloc of 1 MiB");
            alloc.push_back(seconds_since(start));
        }
        for (const CUdeviceptr p : all) {
            const auto start = Clock::now();
            cuda.check(cuda.free(p), "cuMemFree");
            release.push_back(seconds_since(start));
        }
    }
    out["alloc_us"] = median(alloc) * 1e6;
    out["free_us"] = median(release) * 1e6;
}

void print(const Driver& cuda, const Figures& figures) {
    char name[128] = "";
    int version = 0;
    cuda.check(cuda.device_name(name, sizeof name, 0), "cuDeviceGetName");
    cuda.check(cuda.driver_version(&version), "cuDriverGetVersion");
    std::printf("{\"device\": \"%s\", \"driver_version\": %d", name, version);
    for (const auto& [key, value] : figures) std::printf(", \"%s\": %.6g", key.c_str(), value);
    std::printf("}\n");
}

}  // namespace

int main(int argc, char** argv) {
    const std::string mode = argc > 1 ? argv[1] : "all";
    if (mode == "attach") {
        if (argc < 3) die("attach needs the start time in nanoseconds of CLOCK_MONOTONIC");
        const Driver cuda;
        cuda.attach();
        CUdeviceptr memory = 0;
        cuda.check(cuda.alloc(&memory, 1024), "cuMemAlloc");
        const auto now =
            std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch());
        std::printf("%.3f\n", (static_cast<double>(now.count()) - std::atof(argv[2])) / 1e6);
        return 0;
    }
    raw_tcp::Peer peer;  // its process is forked before CUDA is there
    raw_tcp::Connection raw(peer.port());
    const Driver cuda;
    cuda.attach();
    Figures figures;
    if (mode == "sync") {
        measure_sync(cuda, raw, figures);
    } else if (mode == "launches") {
        measure_launches(cuda, figures);
    } else if (mode == "copies") {
        measure_copies(cuda, raw, figures);
    } else {
        measure_launches(cuda, figures);
        measure_allocations(cuda, figures);
        measure_copies(cuda, raw, figures);
    }
    print(cuda, figures);
}
