// What a course's CUDA C++ programs do, each checked; run by test_cudart.py. One argument: a name.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define OK(call)                                                                          \
    do {                                                                                  \
        const cudaError_t error = (call);                                                 \
        if (error != cudaSuccess) {                                                       \
            std::printf("%s:%d: %s: %s (%s)\n", __FILE__, __LINE__, #call,                \
                        cudaGetErrorName(error), cudaGetErrorString(error));              \
            std::exit(1);                                                                 \
        }                                                                                 \
    } while (0)
#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                       \
        }                                                                       \
    } while (0)

__global__ void add(const float* x, const float* y, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}

__global__ void sum(const float* x, float* total, int n) {
    extern __shared__ float part[];
    float mine = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        mine += x[i];
    }
    part[threadIdx.x] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(total, part[0]);
}

__constant__ float factors[4];
__device__ int counter = 5;

__global__ void scale(float* x) {
    x[threadIdx.x] *= factors[threadIdx.x % 4];
    atomicAdd(&counter, 1);
}

__global__ void spin(int rounds, int* out) {
    int x = 1;
    for (int i = 0; i < rounds; ++i) x = x * 1664525 + 1013904223;
    *out = x;
}

__global__ void wild(int* nowhere) { *nowhere = 1; }

template <int kSize>
__global__ void fill(int* out) {
    __shared__ int tile[kSize];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = tile[kSize - 1 - threadIdx.x];
}

static void vector_add() {
    const int n = 100000;
    std::vector<float> x(n), y(n), out(n);
    for (int i = 0; i < n; ++i) x[i] = i, y[i] = 2 * i;
    float *dx, *dy, *dout;
    OK(cudaMalloc(&dx, n * 4));
    OK(cudaMalloc(&dy, n * 4));
    OK(cudaMalloc(&dout, n * 4));
    OK(cudaMemcpy(dx, x.data(), n * 4, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(dy, y.data(), n * 4, cudaMemcpyDefault));
    add<<<(n + 255) / 256, 256>>>(dx, dy, dout, n);
    OK(cudaGetLastError());
    OK(cudaMemcpy(out.data(), dout, n * 4, cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) CHECK(out[i] == 3.0f * i);
    OK(cudaFree(dx));
    OK(cudaFree(dy));
    OK(cudaFree(dout));
}

static void reduction() {
    const int n = 4096;
    std::vector<float> x(n, 0.5f);
    float *dx, *total, result;
    OK(cudaMalloc(&dx, n * 4));
    OK(cudaMalloc(&total, 4));
    OK(cudaMemcpy(dx, x.data(), n * 4, cudaMemcpyHostToDevice));
    OK(cudaMemset(total, 0, 4));
    sum<<<4, 128, 128 * sizeof(float)>>>(dx, total, n);
    OK(cudaMemcpy(&result, total, 4, cudaMemcpyDeviceToHost));
    CHECK(result == n * 0.5f);
}

static void symbols() {
    const float host[4] = {1, 2, 3, 4};
    OK(cudaMemcpyToSymbol(factors, host, sizeof host));
    std::vector<float> x(8, 1.0f);
    float* dx;
    OK(cudaMalloc(&dx, 32));
    OK(cudaMemcpy(dx, x.data(), 32, cudaMemcpyHostToDevice));
    scale<<<1, 8>>>(dx);
    OK(cudaMemcpy(x.data(), dx, 32, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 8; ++i) CHECK(x[i] == host[i % 4]);
    int count = 0;
    OK(cudaMemcpyFromSymbol(&count, counter, sizeof count));
    CHECK(count == 13);
    void* address = nullptr;
    size_t size = 0;
    OK(cudaGetSymbolAddress(&address, counter));
    OK(cudaGetSymbolSize(&size, counter));
    CHECK(address && size == sizeof(int));
    CHECK(cudaMemcpyToSymbol(factors, host, 64) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

static void streams() {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaEventCreate(&begin));
    OK(cudaEventCreate(&end));
    int *d, *pinned;
    OK(cudaMalloc(&d, 4));
    OK(cudaMallocHost(&pinned, 4));
    OK(cudaEventRecord(begin, stream));
    spin<<<1, 32, 0, stream>>>(200000, d);
    OK(cudaEventRecord(end, stream));
    const cudaError_t state = cudaStreamQuery(stream);
    CHECK(state == cudaSuccess || state == cudaErrorNotReady);
    cudaGetLastError();
    OK(cudaMemcpyAsync(pinned, d, 4, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    float ms = 0;
    OK(cudaEventElapsedTime(&ms, begin, end));
    CHECK(ms > 0);
    unsigned x = 1;
    for (int i = 0; i < 200000; ++i) x = x * 1664525u + 1013904223u;
    CHECK(static_cast<unsigned>(*pinned) == x);
    bool called = false;
    OK(cudaLaunchHostFunc(stream, [](void* flag) { *static_cast<bool*>(flag) = true; }, &called));
    OK(cudaStreamSynchronize(stream));
    CHECK(called);
    cudaPointerAttributes what;
    OK(cudaPointerGetAttributes(&what, pinned));
    CHECK(what.type == cudaMemoryTypeHost);
    OK(cudaPointerGetAttributes(&what, d));
    CHECK(what.type == cudaMemoryTypeDevice && what.devicePointer == d);
    OK(cudaPointerGetAttributes(&what, &ms));
    CHECK(what.type == cudaMemoryTypeUnregistered);
    OK(cudaFreeHost(pinned));
    OK(cudaEventDestroy(begin));
    OK(cudaStreamDestroy(stream));
}

static void properties() {
    int count = 0, device = -1, runtime = 0, driver = 0, blocks = 0;
    OK(cudaGetDeviceCount(&count));
    CHECK(count == 1);
    OK(cudaGetDevice(&device));
    CHECK(device == 0);
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaSuccess);
    OK(cudaRuntimeGetVersion(&runtime));
    OK(cudaDriverGetVersion(&driver));
    CHECK(runtime / 1000 == CUDART_VERSION / 1000 && driver >= 12000);
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    size_t free = 0, total = 0;
    OK(cudaMemGetInfo(&free, &total));
    CHECK(prop.totalGlobalMem == total && free <= total && total == size_t{256} << 20);
    CHECK(prop.major == 8 && prop.warpSize == 32 && prop.maxThreadsPerBlock == 1024);
    CHECK(prop.multiProcessorCount > 0 && prop.sharedMemPerBlock == 49152);
    CHECK(std::strlen(prop.name) > 3);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add, 256, 0));
    CHECK(blocks >= 1);
    cudaFuncAttributes attributes;
    OK(cudaFuncGetAttributes(&attributes, fill<64>));
    CHECK(attributes.sharedSizeBytes == 256 && attributes.maxThreadsPerBlock == 1024);
    int grid = 0, block = 0;
    OK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, add, 0, 0));
    CHECK(grid > 0 && block > 0);
    std::printf("%s\n", prop.name);
}

static void pitched() {
    char host[6][40], back[6][40];
    for (int y = 0; y < 6; ++y)
        for (int x = 0; x < 40; ++x) host[y][x] = static_cast<char>(y * 40 + x);
    void* d;
    size_t pitch;
    OK(cudaMallocPitch(&d, &pitch, 40, 6));
    OK(cudaMemcpy2D(d, pitch, host, 40, 40, 6, cudaMemcpyHostToDevice));
    OK(cudaMemset2D(d, pitch, 7, 3, 2));
    OK(cudaMemcpy2D(back, 40, d, pitch, 40, 6, cudaMemcpyDeviceToHost));
    for (int y = 0; y < 6; ++y)
        for (int x = 0; x < 40; ++x) CHECK(back[y][x] == (y < 2 && x < 3 ? 7 : host[y][x]));
}

static void managed() {
    float* x;
    OK(cudaMallocManaged(&x, 3000 * sizeof(float)));
    for (int i = 0; i < 1000; ++i) x[i] = i, x[1000 + i] = 1;
    add<<<8, 128>>>(x, x + 1000, x + 2000, 1000);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 1000; ++i) CHECK(x[2000 + i] == i + 1.0f);
    OK(cudaFree(x));
}

// Managed memory and host memory mapped into the device, where it lies: not at a page's start.
static void both_sides() {
    std::vector<float> own(5000);
    float *there, *managed;
    OK(cudaHostRegister(own.data() + 3, 4000 * sizeof(float), cudaHostRegisterMapped));
    OK(cudaHostGetDevicePointer(&there, own.data() + 3, 0));
    OK(cudaMallocManaged(&managed, 4000 * sizeof(float)));
    OK(cudaStreamAttachMemAsync(cudaStreamPerThread, managed, 0, cudaMemAttachGlobal));
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 4000; ++i) managed[i] = round, own[3 + i] = i;
        own[2] = own[4003] = -1;  // beside it
        add<<<32, 128>>>(there, managed, there, 4000);
        OK(cudaDeviceSynchronize());
        for (int i = 0; i < 4000; ++i) CHECK(own[3 + i] == i + round);
        CHECK(own[2] == -1 && own[4003] == -1);
    }
    cudaMemLocation host{};
    host.type = cudaMemLocationTypeHost;
    OK(cudaMemAdvise(managed, 4000 * sizeof(float), cudaMemAdviseSetReadMostly, host));
    OK(cudaMemPrefetchAsync(managed, 4000 * sizeof(float), host, 0, 0));
    int read_mostly = 0, place = 0;
    OK(cudaMemRangeGetAttribute(&read_mostly, 4, cudaMemRangeAttributeReadMostly, managed, 64));
    OK(cudaMemRangeGetAttribute(&place, 4, cudaMemRangeAttributeLastPrefetchLocation, managed, 64));
    CHECK(read_mostly == 1 && place == cudaCpuDeviceId);
    cudaPointerAttributes known{};
    OK(cudaPointerGetAttributes(&known, managed + 7));
    CHECK(known.type == cudaMemoryTypeManaged && known.hostPointer == managed + 7);
    OK(cudaHostUnregister(own.data() + 3));
    OK(cudaFree(managed));
    CHECK(cudaMemAdvise(managed, 64, cudaMemAdviseSetReadMostly, host) == cudaErrorInvalidValue);
    cudaGetLastError();
}

__managed__ int total = 5;
__managed__ float values[2000] = {1.5f};

__global__ void use_variables() {
    if (threadIdx.x == 0) total += 1;
    values[1 + threadIdx.x] = threadIdx.x;
}

static void managed_variables() {
    CHECK(total == 5 && values[0] == 1.5f && values[1999] == 0);
    total = 10, values[1999] = 7;
    use_variables<<<1, 64>>>();
    OK(cudaDeviceSynchronize());
    CHECK(total == 11 && values[0] == 1.5f && values[64] == 63 && values[1999] == 7);
    int* address;
    OK(cudaGetSymbolAddress(reinterpret_cast<void**>(&address), total));
    CHECK(address == &total);
    CHECK(cudaFree(&total) == cudaErrorInvalidValue);
    cudaGetLastError();
}

static void note(void* seen) {
    ++*static_cast<int*>(seen);
}

// A graph built by hand: fill, copy, kernel, host function, in that order.
static void graph_nodes() {
    float *a, *b;
    int seen = 0, n = 1000;
    OK(cudaMalloc(&a, n * sizeof(float)));
    OK(cudaMalloc(&b, n * sizeof(float)));
    cudaGraph_t graph;
    OK(cudaGraphCreate(&graph, 0));
    cudaGraphNode_t fill_node, copy_node, kernel_node, host_node, last;
    cudaMemsetParams fill_params{};
    fill_params.dst = a, fill_params.elementSize = 4, fill_params.value = 0x40000000;  // 2.0f
    fill_params.width = n, fill_params.height = 1;
    OK(cudaGraphAddMemsetNode(&fill_node, graph, nullptr, 0, &fill_params));
    OK(cudaGraphAddMemcpyNode1D(&copy_node, graph, &fill_node, 1, b, a, n * sizeof(float),
                                cudaMemcpyDeviceToDevice));
    void* arguments[] = {&a, &b, &b, &n};
    cudaKernelNodeParams kernel_params{};
    kernel_params.func = reinterpret_cast<void*>(add);
    kernel_params.gridDim = dim3(8), kernel_params.blockDim = dim3(128);
    kernel_params.kernelParams = arguments;
    OK(cudaGraphAddKernelNode(&kernel_node, graph, &copy_node, 1, &kernel_params));
    cudaHostNodeParams host_params{note, &seen};
    OK(cudaGraphAddHostNode(&host_node, graph, &kernel_node, 1, &host_params));
    OK(cudaGraphAddEmptyNode(&last, graph, &host_node, 1));
    size_t count = 0;
    OK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &count));
    CHECK(count == 4);
    cudaKernelNodeParams asked{};
    OK(cudaGraphKernelNodeGetParams(kernel_node, &asked));
    CHECK(asked.func == reinterpret_cast<void*>(add) && asked.gridDim.x == 8);
    cudaMemsetParams filled{};
    OK(cudaGraphMemsetNodeGetParams(fill_node, &filled));
    CHECK(filled.dst == a && filled.width == size_t(n));
    cudaGraphExec_t exec;
    OK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<float> out(n);
    for (int round = 1; round <= 3; ++round) {
        OK(cudaGraphLaunch(exec, 0));
        OK(cudaDeviceSynchronize());
        CHECK(seen == round);
        OK(cudaMemcpy(out.data(), b, n * sizeof(float), cudaMemcpyDeviceToHost));
        for (float each : out) CHECK(each == 4.0f);
    }
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    OK(cudaFree(a));
    OK(cudaFree(b));
}

static void threads() {
    std::vector<std::thread> all;
    for (int t = 0; t < 6; ++t) {
        all.emplace_back([t] {
            int *d, host[64];
            OK(cudaMalloc(&d, sizeof host));
            for (int round = 0; round < 10; ++round) {
                fill<64><<<1, 64>>>(d);
                OK(cudaMemcpy(host, d, sizeof host, cudaMemcpyDeviceToHost));
                for (int i = 0; i < 64; ++i) CHECK(host[i] == 63 - i);
            }
            CHECK(cudaSetDevice(t + 1) == cudaErrorInvalidDevice);
            CHECK(cudaGetLastError() == cudaErrorInvalidDevice);  // this thread's own
            OK(cudaFree(d));
        });
    }
    for (auto& each : all) each.join();
    CHECK(cudaGetLastError() == cudaSuccess);
}

static void errors() {
    void* d;
    CHECK(cudaMalloc(&d, size_t{1} << 40) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(std::strcmp(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation") == 0);
    fill<64><<<1, 5000>>>(nullptr);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaMemcpy(&d, &d, 8, static_cast<cudaMemcpyKind>(9)) == cudaErrorInvalidMemcpyDirection);
    cudaGetLastError();
    wild<<<1, 1>>>(reinterpret_cast<int*>(0x10));
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK(cudaMalloc(&d, 16) == cudaErrorIllegalAddress);  // sticky
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    OK(cudaDeviceReset());
    OK(cudaMalloc(&d, 16));
}

static void pools() {
    cudaStream_t stream;
    OK(cudaStreamCreate(&stream));
    int* d;
    OK(cudaMallocAsync(&d, 256, stream));
    fill<64><<<1, 64, 0, stream>>>(d);
    int host[64];
    OK(cudaMemcpyAsync(host, d, sizeof host, cudaMemcpyDeviceToHost, stream));
    OK(cudaFreeAsync(d, stream));
    OK(cudaStreamSynchronize(stream));
    for (int i = 0; i < 64; ++i) CHECK(host[i] == 63 - i);
    cudaMemPool_t pool;
    OK(cudaDeviceGetDefaultMemPool(&pool, 0));
}

int main(int, char** argv) {
    const struct {
        const char* name;
        void (*run)();
    } all[] = {{"vector_add", vector_add}, {"reduction", reduction}, {"symbols", symbols},
               {"streams", streams},       {"properties", properties}, {"pitched", pitched},
               {"managed", managed},       {"threads", threads},     {"errors", errors},
               {"pools", pools},           {"both_sides", both_sides},
               {"graph_nodes", graph_nodes}, {"managed_variables", managed_variables}};
    for (const auto& each : all) {
        if (std::strcmp(each.name, argv[1]) == 0) {
            each.run();
            std::printf("%s ok\n", each.name);
            return 0;
        }
    }
    return 2;
}
