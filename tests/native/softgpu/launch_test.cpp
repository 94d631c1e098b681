// Launches: what runs, what is refused, and what becomes of kernels that misbehave.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "driver.hpp"
#include "kernels.hpp"

using namespace carrel::test;

namespace {

TEST(kernels_compute) {
    WithContext with;
    Loaded add(kAdd, "add");
    unsigned n = 100'000, value = 3;
    CUdeviceptr data = upload(std::vector<unsigned>(n, 39));
    CHECK_EQ(add((n + 255) / 256, 256, nullptr, {&data, &n, &value}), CUDA_SUCCESS);
    CHECK(download<unsigned>(data, n) == std::vector<unsigned>(n, 42));

    struct {
        CUdeviceptr data;
        unsigned n, value;
    } packed{data, n, 1};
    std::size_t size = sizeof packed;
    void* extra[] = {reinterpret_cast<void*>(std::uintptr_t{1}), &packed,
                     reinterpret_cast<void*>(std::uintptr_t{2}), &size, nullptr};
    CHECK_EQ(driver().cuLaunchKernel(add.function, (n + 63) / 64, 1, 1, 64, 1, 1, 0, nullptr,
                                     nullptr, extra),
             CUDA_SUCCESS);
    CHECK(download<unsigned>(data, n) == std::vector<unsigned>(n, 43));
}

TEST(registered_host_memory_is_reachable) {
    WithContext with;
    Loaded add(kAdd, "add");
    unsigned n = 3000, value = 2;
    std::vector<unsigned> own(n, 40);
    REQUIRE(driver().cuMemHostRegister_v2(own.data(), n * 4, 0) == CUDA_SUCCESS);
    CUdeviceptr data = 0;
    CHECK_EQ(driver().cuMemHostGetDevicePointer_v2(&data, own.data(), 0), CUDA_SUCCESS);
    CHECK_EQ(add((n + 255) / 256, 256, nullptr, {&data, &n, &value}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK(own == std::vector<unsigned>(n, 42));
    CHECK_EQ(driver().cuMemHostUnregister(own.data()), CUDA_SUCCESS);
    CHECK_EQ(add((n + 255) / 256, 256, nullptr, {&data, &n, &value}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK(own == std::vector<unsigned>(n, 42));
}

TEST(impossible_launches_are_refused) {
    WithContext with;
    Loaded add(kAdd, "add");
    unsigned n = 1, value = 1;
    CUdeviceptr data = upload(std::vector<unsigned>{0});
    const auto launch = [&](unsigned gx, unsigned gy, unsigned bx, unsigned bz, unsigned shared) {
        void* arguments[] = {&data, &n, &value};
        return driver().cuLaunchKernel(add.function, gx, gy, 1, bx, 1, bz, shared, nullptr,
                                       arguments, nullptr);
    };
    CHECK_EQ(launch(0, 1, 32, 1, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(launch(1, 70'000, 32, 1, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(launch(1, 1, 1025, 1, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(launch(1, 1, 512, 3, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(launch(1, 1, 1, 65, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(launch(1, 1, 32, 1, 49'153), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuFuncSetAttribute(add.function,
                                         CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100'000),
             CUDA_SUCCESS);
    CHECK_EQ(launch(1, 1, 32, 1, 100'000), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLaunchKernel(nullptr, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
}

TEST(an_illegal_address_is_sticky_in_its_context_only) {
    WithContext with;
    Loaded store(kMisbehave, "store");
    CUdeviceptr kept = upload(std::vector<unsigned>(16, 5));
    CUdeviceptr nowhere = 0x1000;
    CHECK_EQ(store(1, 1, nullptr, {&nowhere}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CUdeviceptr more = 0;
    CHECK_EQ(driver().cuMemAlloc_v2(&more, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK_EQ(driver().cuStreamQuery(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK_EQ(driver().cuMemFree_v2(kept), CUDA_ERROR_ILLEGAL_ADDRESS);
    WithContext other;
    CHECK_EQ(driver().cuMemAlloc_v2(&more, 64), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
}

TEST(freed_memory_is_out_of_reach) {
    WithContext with;
    Loaded store(kMisbehave, "store");
    CUdeviceptr gone = 0;
    REQUIRE(driver().cuMemAlloc_v2(&gone, 8 << 20) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(gone), CUDA_SUCCESS);
    CHECK_EQ(store(1, 1, nullptr, {&gone}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
}

TEST(misaligned_and_trapping_kernels) {
    {
        WithContext with;
        Loaded store(kMisbehave, "store");
        CUdeviceptr data = upload(std::vector<unsigned>(4, 0)) + 1;
        CHECK_EQ(store(1, 1, nullptr, {&data}), CUDA_SUCCESS);
        CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_MISALIGNED_ADDRESS);
    }
    WithContext with;
    Loaded trap(kMisbehave, "trap_now");
    CHECK_EQ(trap(1, 1, nullptr, {}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
}

TEST(kernels_of_different_streams_run_at_once) {
    WithContext with;
    Loaded spin(kMisbehave, "spin");
    CUdeviceptr flag = upload(std::vector<unsigned>{0});
    CUstream first = nullptr, second = nullptr;
    CHECK_EQ(driver().cuStreamCreate(&first, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamCreate(&second, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    CHECK_EQ(spin(1, 1, first, {&flag}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamQuery(first), CUDA_ERROR_NOT_READY);
    CHECK_EQ(driver().cuStreamWriteValue32_v2(second, flag, 1, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuStreamSynchronize(first), CUDA_SUCCESS);
}

TEST(the_watchdog_stops_kernels) {
    WithContext with;  // watchdog=3, see main
    Loaded spin(kMisbehave, "spin");
    CUdeviceptr flag = upload(std::vector<unsigned>{0});
    const auto start = std::chrono::steady_clock::now();
    CHECK_EQ(spin(1, 1, nullptr, {&flag}), CUDA_SUCCESS);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_ERROR_LAUNCH_TIMEOUT);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
}

TEST(a_forked_child_is_told) {
    WithContext with;
    const pid_t child = fork();
    if (child == 0) {
        int count = 0;
        const bool told = driver().cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED &&
                          driver().cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _exit(told ? 0 : 1);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

}  // namespace

int main(int argc, char** argv) {
    setenv("CARREL_SOFTGPU", "vram=64MiB,sms=4,threads=2,watchdog=3", 1);
    return carrel::test::main(argc, argv);
}
