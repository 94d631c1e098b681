// Measures the CUDA driver API as a program sees it, each figure beside its own limit.
//
// Talks to whatever libcuda.so.1 the process is given: Carrel's client (a slice) or NVIDIA's
// driver. Prints one JSON object. Knows nothing of Carrel but the ABI header made from its
// descriptions.
//
//   driver_bench all | sync | copies | attach START_NS
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda_abi.hpp"

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

// --- the raw limits: a TCP peer on loopback in a process of its own
// -------------------------------

void read_all(int fd, void* buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = read(fd, static_cast<char*>(buffer) + done, size - done);
        if (n <= 0) die("raw TCP peer went away");
        done += static_cast<size_t>(n);
    }
}

void write_all(int fd, const void* buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = write(fd, static_cast<const char*>(buffer) + done, size - done);
        if (n <= 0) die("raw TCP peer went away");
        done += static_cast<size_t>(n);
    }
}

constexpr size_t kPing = 16;
constexpr size_t kChunk = 1 << 20;

// Commands: 'p' echo kPing bytes; 'd' + u64: swallow so many bytes, then answer one; 'u' + u64:
// send so many bytes; end of file: leave.
void serve_raw(int fd) {
    std::vector<char> buffer(kChunk);
    for (;;) {
        char command[kPing];
        size_t got = 0;
        while (got < kPing) {
            const ssize_t n = read(fd, command + got, kPing - got);
            if (n <= 0) _exit(0);
            got += static_cast<size_t>(n);
        }
        uint64_t left = 0;
        std::memcpy(&left, command + 8, sizeof left);
        if (command[0] == 'p') {
            write_all(fd, command, kPing);
        } else if (command[0] == 'd') {
            while (left > 0) {
                const ssize_t n = read(fd, buffer.data(), std::min<uint64_t>(left, kChunk));
                if (n <= 0) _exit(1);
                left -= static_cast<uint64_t>(n);
            }
            write_all(fd, "!", 1);
        } else {
            while (left > 0) {
                const size_t n = std::min<uint64_t>(left, kChunk);
                write_all(fd, buffer.data(), n);
                left -= n;
            }
        }
    }
}

class RawTcp {
  public:
    RawTcp() {
        const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* where = reinterpret_cast<sockaddr*>(&address);
        if (listener < 0 || bind(listener, where, size) || listen(listener, 1) ||
            getsockname(listener, where, &size))
            die("no loopback socket");
        child_ = fork();
        if (child_ == 0) {
            const int fd = accept(listener, nullptr, nullptr);
            no_delay(fd);
            serve_raw(fd);
        }
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd_, where, size)) die("no loopback connection");
        close(listener);
        no_delay(fd_);
    }
    RawTcp(const RawTcp&) = delete;
    RawTcp& operator=(const RawTcp&) = delete;
    ~RawTcp() {
        close(fd_);
        waitpid(child_, nullptr, 0);
    }

    double ping() {
        char message[kPing] = {'p'};
        const auto start = Clock::now();
        write_all(fd_, message, kPing);
        read_all(fd_, message, kPing);
        return seconds_since(start);
    }
    double send(const std::vector<char>& data) {
        char answer = 0;
        const auto start = Clock::now();
        command('d', data.size());
        write_all(fd_, data.data(), data.size());
        read_all(fd_, &answer, 1);
        return seconds_since(start);
    }
    double receive(std::vector<char>& data) {
        const auto start = Clock::now();
        command('u', data.size());
        read_all(fd_, data.data(), data.size());
        return seconds_since(start);
    }

  private:
    static void no_delay(int fd) {
        const int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    void command(char what, uint64_t bytes) {
        char message[kPing] = {what};
        std::memcpy(message + 8, &bytes, sizeof bytes);
        write_all(fd_, message, kPing);
    }
    int fd_ = -1;
    pid_t child_ = -1;
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

void measure_sync(const Driver& cuda, RawTcp& raw, Figures& out) {
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

void measure_copies(const Driver& cuda, RawTcp& raw, Figures& out) {
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
    RawTcp raw;  // its process is forked before CUDA is there
    const Driver cuda;
    cuda.attach();
    Figures figures;
    if (mode == "sync") {
        measure_sync(cuda, raw, figures);
    } else if (mode == "copies") {
        measure_copies(cuda, raw, figures);
    } else {
        measure_launches(cuda, figures);
        measure_allocations(cuda, figures);
        measure_copies(cuda, raw, figures);
    }
    print(cuda, figures);
}
