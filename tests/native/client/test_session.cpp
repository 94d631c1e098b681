// The pipeline: order, waiting, many threads, streams, events, host functions.
#include <atomic>
#include <thread>
#include <vector>

#include "check.hpp"
#include "client/worker_process.hpp"

using carrel::client::session;
using carrel::test::kPtx;
using carrel::test::worker;

#define OK(call) CHECK_EQ(static_cast<int>(call), 0)

namespace {

struct Kernels {
    CUmodule module = nullptr;
    CUfunction saxpy = nullptr;
    CUfunction spin = nullptr;

    Kernels() {
        worker();
        OK(cuModuleLoadData(&module, kPtx));
        OK(cuModuleGetFunction(&saxpy, module, "saxpy"));
        OK(cuModuleGetFunction(&spin, module, "spin"));
    }
};

Kernels& kernels() {
    static Kernels all;
    return all;
}

CUresult launch_saxpy(int n, float a, CUdeviceptr x, CUdeviceptr y, CUstream stream) {
    void* params[] = {&n, &a, &x, &y};
    return cuLaunchKernel(kernels().saxpy, static_cast<unsigned>(n + 127) / 128, 1, 1, 128, 1, 1, 0,
                          stream, params, nullptr);
}

}  // namespace

TEST(attaches_and_answers_locally) {
    REQUIRE(worker().attached() == CUDA_SUCCESS);
    int count = 0;
    OK(cuDeviceGetCount(&count));
    CHECK_EQ(count, 1);
    int major = 0;
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    CHECK_EQ(major, 8);
    size_t total = 0;
    OK(cuDeviceTotalMem_v2(&total, 0));
    CHECK_EQ(total, size_t{1} << 30);
    CHECK_EQ(static_cast<int>(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1)),
             static_cast<int>(CUDA_ERROR_INVALID_DEVICE));
}

TEST(kernels_compute) {
    constexpr int n = 1000;
    std::vector<float> x(n, 2.0f);
    std::vector<float> y(n, 1.0f);
    CUdeviceptr dx = 0;
    CUdeviceptr dy = 0;
    OK(cuMemAlloc_v2(&dx, n * 4));
    OK(cuMemAlloc_v2(&dy, n * 4));
    OK(cuMemcpyHtoD_v2(dx, x.data(), n * 4));
    OK(cuMemcpyHtoD_v2(dy, y.data(), n * 4));
    for (int i = 0; i < 10; ++i) OK(launch_saxpy(n, 3.0f, dx, dy, nullptr));
    OK(cuMemcpyDtoH_v2(y.data(), dy, n * 4));
    for (const float v : y) CHECK_EQ(v, 61.0f);
    OK(cuMemFree_v2(dx));
    OK(cuMemFree_v2(dy));
}

TEST(parameters_in_a_buffer_work_too) {
    CUdeviceptr d[2];
    for (auto& p : d) {
        OK(cuMemAlloc_v2(&p, 4));
        OK(cuMemsetD32_v2(p, 0x3f800000, 1));
    }
    struct {
        int n;
        float a;
        CUdeviceptr x, y;
    } packed{1, 5.0f, d[0], d[1]};
    size_t size = sizeof packed;
    void* extra[] = {reinterpret_cast<void*>(1), &packed, reinterpret_cast<void*>(2), &size,
                     nullptr};
    OK(cuLaunchKernel(kernels().saxpy, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, extra));
    float result = 0;
    OK(cuMemcpyDtoH_v2(&result, d[1], 4));
    CHECK_EQ(result, 6.0f);
    for (const auto p : d) OK(cuMemFree_v2(p));
}

TEST(impossible_launches_are_refused_at_once) {
    int n = 0;
    float a = 0;
    CUdeviceptr p = 0;
    void* params[] = {&n, &a, &p, &p};
    const auto launch = [&](unsigned grid, unsigned block, unsigned shared) {
        return static_cast<int>(cuLaunchKernel(kernels().saxpy, grid, 1, 1, block, 1, 1, shared,
                                               nullptr, params, nullptr));
    };
    CHECK_EQ(launch(0, 32, 0), 1);
    CHECK_EQ(launch(1, 0, 0), 1);
    CHECK_EQ(launch(1, 4096, 0), 1);
    CHECK_EQ(launch(1, 32, 64 << 20), 1);
    CHECK_EQ(static_cast<int>(cuLaunchKernel(reinterpret_cast<CUfunction>(0x1234), 1, 1, 1, 1, 1, 1,
                                             0, nullptr, params, nullptr)),
             static_cast<int>(CUDA_ERROR_INVALID_HANDLE));
    CHECK_EQ(static_cast<int>(cuLaunchKernel(kernels().saxpy, 1, 1, 1, 1, 1, 1, 0,
                                             reinterpret_cast<CUstream>(0x5555), params, nullptr)),
             static_cast<int>(CUDA_ERROR_INVALID_HANDLE));
    OK(cuCtxSynchronize());
}

TEST(events_order_and_time_streams) {
    CUstream stream = nullptr;
    CUevent start = nullptr;
    CUevent stop = nullptr;
    OK(cuStreamCreate(&stream, 1));
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&stop, 0));
    OK(cuEventRecord(start, stream));
    unsigned rounds = 200000;
    void* params[] = {&rounds};
    OK(cuLaunchKernel(kernels().spin, 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr));
    OK(cuEventRecord(stop, stream));
    OK(cuEventSynchronize(stop));
    float ms = -1;
    OK(cuEventElapsedTime(&ms, start, stop));
    CHECK(ms >= 0);
    OK(cuStreamQuery(stream));
    OK(cuEventDestroy_v2(start));
    CHECK_EQ(static_cast<int>(cuEventQuery(start)), static_cast<int>(CUDA_ERROR_INVALID_HANDLE));
    OK(cuEventDestroy_v2(stop));
    OK(cuStreamDestroy_v2(stream));
    CHECK_EQ(static_cast<int>(cuStreamSynchronize(stream)),
             static_cast<int>(CUDA_ERROR_INVALID_HANDLE));
}

// While one thread waits for a long kernel, another's calls are answered.
TEST(waiting_does_not_block_other_threads) {
    CUstream slow = nullptr;
    OK(cuStreamCreate(&slow, 1));
    unsigned rounds = 3000000;
    void* params[] = {&rounds};
    OK(cuLaunchKernel(kernels().spin, 1, 1, 1, 32, 1, 1, 0, slow, params, nullptr));
    std::atomic<bool> done{false};
    std::thread waiting([&] {
        worker();
        OK(cuStreamSynchronize(slow));
        done = true;
    });
    CUstream quick = nullptr;
    OK(cuStreamCreate(&quick, 1));
    int answered = 0;
    while (!done && answered < 50) {
        int priority = 0;
        OK(cuStreamGetPriority(quick, &priority));
        ++answered;
    }
    CHECK(answered > 1);
    waiting.join();
    OK(cuStreamDestroy_v2(quick));
    OK(cuStreamDestroy_v2(slow));
}

TEST(a_synchronise_after_a_copy_is_answered_here) {
    worker();
    CUstream stream = nullptr;
    CUstream other = nullptr;
    OK(cuStreamCreate(&stream, 1));
    OK(cuStreamCreate(&other, 1));
    CUdeviceptr there = 0;
    OK(cuMemAlloc_v2(&there, 64));
    int number = 7;
    const auto asked = [](CUstream which) {
        const uint64_t before = session().calls();
        OK(cuStreamSynchronize(which));
        return session().calls() - before;
    };
    OK(cuMemcpyHtoDAsync_v2(there, &number, sizeof number, stream));
    CHECK_EQ(asked(stream), 0u);
    CHECK_EQ(asked(stream), 0u);
    CHECK_EQ(asked(other), 1u);  // of another stream nothing is known
    CHECK_EQ(asked(stream), 1u);
    OK(cuMemcpyDtoHAsync_v2(&number, there, sizeof number, stream));
    CHECK_EQ(number, 7);
    CHECK_EQ(asked(stream), 0u);
    OK(cuMemsetD8Async(there, 1, sizeof number, stream));
    CHECK_EQ(asked(stream), 1u);
    // Another thread's call in between.
    OK(cuMemcpyHtoDAsync_v2(there, &number, sizeof number, stream));
    std::thread([&] {
        worker();
        CHECK_EQ(asked(stream), 1u);
    }).join();
    CHECK_EQ(asked(stream), 1u);
    // Not with a host function before it: it may not have run.
    std::atomic<bool> ran{false};
    const auto slow = [](void* flag) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        *static_cast<std::atomic<bool>*>(flag) = true;
    };
    OK(cuLaunchHostFunc(stream, slow, &ran));
    OK(cuMemcpyHtoDAsync_v2(there, &number, sizeof number, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(ran);
    OK(cuMemFree_v2(there));
    OK(cuStreamDestroy_v2(other));
    OK(cuStreamDestroy_v2(stream));
}

TEST(an_answer_that_another_thread_has_read_wakes_who_waits_for_it) {
    worker();
    std::atomic<bool> done{false};
    std::thread reader([&] {
        while (!done) session().poll();
    });
    for (int i = 0; i < 20'000; ++i) OK(cuCtxSynchronize());
    done = true;
    reader.join();
}

TEST(eight_threads_at_once) {
    kernels();
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([t] {
            worker();
            constexpr int n = 256;
            CUstream stream = nullptr;
            OK(cuStreamCreate(&stream, 1));
            for (int round = 0; round < 20; ++round) {
                std::vector<float> x(n, static_cast<float>(t));
                std::vector<float> y(n, static_cast<float>(round));
                CUdeviceptr dx = 0;
                CUdeviceptr dy = 0;
                OK(cuMemAlloc_v2(&dx, n * 4));
                OK(cuMemAlloc_v2(&dy, n * 4));
                OK(cuMemcpyHtoDAsync_v2(dx, x.data(), n * 4, stream));
                OK(cuMemcpyHtoDAsync_v2(dy, y.data(), n * 4, stream));
                for (int i = 0; i < 5; ++i) OK(launch_saxpy(n, 1.0f, dx, dy, stream));
                OK(cuMemcpyDtoHAsync_v2(y.data(), dy, n * 4, stream));
                OK(cuStreamSynchronize(stream));
                for (const float v : y) CHECK_EQ(v, static_cast<float>(round + 5 * t));
                OK(cuMemFree_v2(dx));
                OK(cuMemFree_v2(dy));
            }
            OK(cuStreamDestroy_v2(stream));
        });
    }
    for (auto& thread : threads) thread.join();
}

TEST(host_functions_run_here_in_stream_order) {
    struct Step {
        std::vector<int>* order;
        int value;
    };
    std::vector<int> order;
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, 1));
    CUdeviceptr d[2];
    for (auto& p : d) {
        OK(cuMemAlloc_v2(&p, 4));
        OK(cuMemsetD32Async(p, 0x3f800000, 1, stream));
    }
    Step steps[3] = {{&order, 0}, {&order, 1}, {&order, 2}};
    for (Step& step : steps) {
        OK(cuLaunchHostFunc(
            stream,
            [](void* data) {
                auto* s = static_cast<Step*>(data);
                s->order->push_back(s->value);
            },
            &step));
        OK(launch_saxpy(1, 1.0f, d[0], d[1], stream));
    }
    std::atomic<int> status{-1};
    OK(cuStreamAddCallback(
        stream,
        [](CUstream, CUresult result, void* data) {
            *static_cast<std::atomic<int>*>(data) = result;
        },
        &status, 0));
    // More data than the staging ring holds, behind a stream that waits for this process.
    std::vector<char> large(24 << 20, 1);
    CUdeviceptr big = 0;
    OK(cuMemAlloc_v2(&big, large.size()));
    OK(cuMemcpyHtoDAsync_v2(big, large.data(), large.size(), stream));
    CUDA_MEMCPY2D block{};
    block.srcMemoryType = CU_MEMORYTYPE_HOST;
    block.srcHost = large.data();
    block.srcPitch = 4096;
    block.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    block.dstDevice = big;
    block.dstPitch = 4096;
    block.WidthInBytes = 4000, block.Height = 1000;
    for (int i = 0; i < 3; ++i) OK(cuMemcpy2DAsync_v2(&block, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(order == (std::vector<int>{0, 1, 2}));
    CHECK_EQ(status.load(), 0);
    float result = 0;
    OK(cuMemcpyDtoH_v2(&result, d[1], 4));
    CHECK_EQ(result, 4.0f);
    for (const auto p : {d[0], d[1], big}) OK(cuMemFree_v2(p));
    OK(cuStreamDestroy_v2(stream));
}

TEST(large_copies_to_the_host_let_host_functions_run) {
    worker();
    constexpr size_t size = 64 << 20;
    CUdeviceptr d = 0;
    OK(cuMemAlloc_v2(&d, size));
    OK(cuMemsetD8_v2(d, 7, size));
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, 0));  // the default stream waits for it
    std::atomic<int> called{0};
    std::atomic<bool> done{false};
    std::thread copying([&] {
        worker();
        std::vector<char> host(size);
        for (int i = 0; i < 4; ++i) OK(cuMemcpyDtoH_v2(host.data(), d, size));
        CHECK_EQ(int{host.front()}, 7);
        CHECK_EQ(int{host.back()}, 7);
        done = true;
    });
    int launched = 0;
    while (!done || !launched) {
        OK(cuLaunchHostFunc(
            stream, [](void* count) { ++*static_cast<std::atomic<int>*>(count); }, &called));
        ++launched;
        OK(cuStreamSynchronize(stream));
    }
    copying.join();
    CHECK_EQ(called.load(), launched);
    OK(cuMemFree_v2(d));
    OK(cuStreamDestroy_v2(stream));
}

// More data than the node may hold for a stream that waits: the function's end overtakes it.
TEST(large_copies_from_the_host_wait_behind_a_host_function) {
    worker();
    std::vector<char> host(400 << 20, 3);
    CUdeviceptr d = 0;
    OK(cuMemAlloc_v2(&d, host.size()));
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, 1));
    std::atomic<int> called{0};
    OK(cuLaunchHostFunc(
        stream, [](void* count) { ++*static_cast<std::atomic<int>*>(count); }, &called));
    for (int i = 0; i < 3; ++i) {
        OK(cuMemcpyHtoDAsync_v2(d, host.data(), host.size(), stream));
    }
    OK(cuStreamSynchronize(stream));
    CHECK_EQ(called.load(), 1);
    char last = 0;
    OK(cuMemcpyDtoH_v2(&last, d + host.size() - 1, 1));
    CHECK_EQ(int{last}, 3);
    OK(cuMemFree_v2(d));
    OK(cuStreamDestroy_v2(stream));
}

TEST(kernels_of_libraries_serve_as_functions) {
    worker();
    CUlibrary library = nullptr;
    CUkernel kernel = nullptr;
    CUkernel missing = nullptr;
    OK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
    OK(cuLibraryGetKernel(&kernel, library, "saxpy"));
    CHECK_EQ(static_cast<int>(cuLibraryGetKernel(&missing, library, "nothing")),
             static_cast<int>(CUDA_ERROR_NOT_FOUND));
    int threads = 0;
    OK(cuKernelGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel, 0));
    CHECK(threads >= 128);
    CUdeviceptr d[2];
    for (auto& p : d) {
        OK(cuMemAlloc_v2(&p, 4));
        OK(cuMemsetD32_v2(p, 0x3f800000, 1));
    }
    int n = 1;
    float a = 2;
    void* params[] = {&n, &a, &d[0], &d[1]};
    CUlaunchConfig config{};
    config.gridDimX = config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = 32, config.blockDimY = config.blockDimZ = 1;
    OK(cuLaunchKernelEx(&config, reinterpret_cast<CUfunction>(kernel), params, nullptr));
    CUfunction function = nullptr;
    OK(cuKernelGetFunction(&function, kernel));
    OK(cuLaunchKernelEx(&config, function, params, nullptr));
    float result = 0;
    OK(cuMemcpyDtoH_v2(&result, d[1], 4));
    CHECK_EQ(result, 5.0f);
    size_t offset = 0;
    size_t size = 0;
    OK(cuKernelGetParamInfo(kernel, 2, &offset, &size));
    CHECK_EQ(offset, size_t{8});
    CHECK_EQ(size, size_t{8});
    for (const auto p : d) OK(cuMemFree_v2(p));
    OK(cuLibraryUnload(library));
}

TEST(broken_ptx_comes_back_with_the_compilers_words) {
    worker();
    CUmodule module = nullptr;
    char log[512] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
    CHECK(cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_80\nnonsense", 2, options,
                             values) != CUDA_SUCCESS);
    CHECK(std::string(log).size() > 5);
    OK(cuCtxSynchronize());
}

TEST(every_function_can_be_looked_up_by_version) {
    void* address = nullptr;
    CUdriverProcAddressQueryResult status;
    OK(cuGetProcAddress_v2("cuMemAlloc", &address, 13000, 0, &status));
    CHECK(address == reinterpret_cast<void*>(&cuMemAlloc_v2));
    OK(cuGetProcAddress_v2("cuCtxCreate", &address, 11040, 0, &status));
    CHECK(address == reinterpret_cast<void*>(&cuCtxCreate_v3));
    CHECK(cuGetProcAddress_v2("cuLibraryLoadData", &address, 11000, 0, &status) ==
          CUDA_ERROR_NOT_FOUND);
    CHECK(address == nullptr);
    CHECK(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    CHECK(cuGetProcAddress_v2("cuNoSuchThing", &address, 13000, 0, &status) ==
          CUDA_ERROR_NOT_FOUND);
    CHECK(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    const CUuuid table{};
    const void* exported = &table;
    CHECK(cuGetExportTable(&exported, &table) != CUDA_SUCCESS);
    CHECK(exported == nullptr);
}

CARREL_TEST_MAIN
