// Allocation, copies, fills, host memory, pools and what the driver says about pointers.
#include <cstdint>
#include <numeric>
#include <thread>

#include "driver.hpp"

using namespace carrel::test;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(nothing_works_before_init) {
    int count = 0;
    CHECK_EQ(driver().cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
}

TEST(copies_come_back) {
    WithContext with;
    std::vector<std::uint32_t> values(300'000);
    std::iota(values.begin(), values.end(), 1u);
    const CUdeviceptr first = upload(values);
    CUdeviceptr second = 0;
    REQUIRE(driver().cuMemAlloc_v2(&second, values.size() * 4) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyDtoD_v2(second, first, values.size() * 4), CUDA_SUCCESS);
    CHECK(download<std::uint32_t>(second, values.size()) == values);
    CHECK_EQ(driver().cuMemFree_v2(first), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(first), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemFree_v2(second), CUDA_SUCCESS);
}

TEST(memory_is_zero_when_handed_out) {
    WithContext with;
    CUdeviceptr keep = 0;
    REQUIRE(driver().cuMemAlloc_v2(&keep, 64) == CUDA_SUCCESS);  // keeps the granule in use
    for (int round = 0; round < 3; ++round) {
        CUdeviceptr address = 0;
        REQUIRE(driver().cuMemAlloc_v2(&address, 4096) == CUDA_SUCCESS);
        CHECK(download<std::uint8_t>(address, 4096) == std::vector<std::uint8_t>(4096, 0));
        CHECK_EQ(driver().cuMemsetD8_v2(address, 0xab, 4096), CUDA_SUCCESS);
        CHECK(download<std::uint8_t>(address, 4096) == std::vector<std::uint8_t>(4096, 0xab));
        CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
    }
    CHECK_EQ(driver().cuMemFree_v2(keep), CUDA_SUCCESS);
}

TEST(size_is_enforced) {
    WithContext with;
    const std::size_t before = free_memory();
    CHECK_EQ(before, 64 * kMiB);
    CUdeviceptr large = 0, more = 0;
    CHECK_EQ(driver().cuMemAlloc_v2(&large, 60 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAlloc_v2(&more, 5 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(driver().cuMemAlloc_v2(&more, SIZE_MAX), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(driver().cuMemAlloc_v2(&more, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(free_memory(), 4 * kMiB);
    CHECK_EQ(driver().cuMemAlloc_v2(&more, 4 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(large), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(more), CUDA_SUCCESS);
    CHECK_EQ(free_memory(), before);
}

TEST(copies_beyond_an_allocation_are_refused) {
    WithContext with;
    std::vector<std::uint8_t> host(8192);
    CUdeviceptr address = 0;
    REQUIRE(driver().cuMemAlloc_v2(&address, 4096) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyHtoD_v2(address, host.data(), 4096), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemcpyHtoD_v2(address, host.data(), 4097), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemcpyHtoD_v2(address + 1, host.data(), 4096), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemcpyDtoH_v2(host.data(), 0x1234, 16), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemsetD32_v2(address, 1, 1025), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemsetD32_v2(address + 2, 1, 1), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST(rectangles_and_boxes) {
    WithContext with;
    CUdeviceptr pitched = 0;
    std::size_t pitch = 0;
    REQUIRE(driver().cuMemAllocPitch_v2(&pitched, &pitch, 100, 8, 4) == CUDA_SUCCESS);
    CHECK_EQ(pitch % 512, 0u);
    std::vector<std::uint8_t> in(100 * 8);
    std::iota(in.begin(), in.end(), std::uint8_t{0});
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = in.data();
    copy.srcPitch = 100;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = pitched;
    copy.dstPitch = pitch;
    copy.WidthInBytes = 100;
    copy.Height = 8;
    CHECK_EQ(driver().cuMemcpy2D_v2(&copy), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemsetD2D8_v2(pitched + 10, pitch, 0xee, 5, 8), CUDA_SUCCESS);
    std::vector<std::uint8_t> out(100 * 8);
    CUDA_MEMCPY3D back{};
    back.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    back.srcDevice = pitched;
    back.srcPitch = pitch;
    back.srcHeight = 4;
    back.dstMemoryType = CU_MEMORYTYPE_HOST;
    back.dstHost = out.data();
    back.dstPitch = 100;
    back.dstHeight = 4;
    back.WidthInBytes = 100;
    back.Height = 4;
    back.Depth = 2;
    CHECK_EQ(driver().cuMemcpy3D_v2(&back), CUDA_SUCCESS);
    for (std::size_t y = 0; y < 8; ++y)
        for (std::size_t x = 10; x < 15; ++x) in[y * 100 + x] = 0xee;
    CHECK(in == out);
    CHECK_EQ(driver().cuMemFree_v2(pitched), CUDA_SUCCESS);
}

TEST(host_memory) {
    WithContext with;
    void* pinned = nullptr;
    CHECK_EQ(driver().cuMemHostAlloc(&pinned, 1000, 3), CUDA_SUCCESS);
    unsigned flags = 0, type = 0;
    CHECK_EQ(driver().cuMemHostGetFlags(&flags, pinned), CUDA_SUCCESS);
    CHECK_EQ(flags, 3u);
    CUdeviceptr device = 0;
    CHECK_EQ(driver().cuMemHostGetDevicePointer_v2(&device, pinned, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device),
             CUDA_SUCCESS);
    CHECK_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_HOST));
    CHECK_EQ(driver().cuMemFreeHost(pinned), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemHostAlloc(&pinned, std::size_t{1} << 45, 0), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(free_memory(), 64 * kMiB);

    std::vector<std::uint8_t> own(10'000);
    CHECK_EQ(driver().cuMemHostRegister_v2(own.data(), own.size(), 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemHostRegister_v2(own.data(), own.size(), 0),
             CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CHECK_EQ(driver().cuMemHostGetDevicePointer_v2(&device, own.data(), 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemHostUnregister(own.data()), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemHostUnregister(own.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

TEST(what_is_known_of_a_pointer) {
    WithContext with;
    CUdeviceptr address = 0, base = 0;
    REQUIRE(driver().cuMemAlloc_v2(&address, 1000) == CUDA_SUCCESS);
    std::size_t size = 0;
    CHECK_EQ(driver().cuMemGetAddressRange_v2(&base, &size, address + 999), CUDA_SUCCESS);
    CHECK_EQ(base, address);
    CHECK_EQ(size, 1000u);
    CUcontext context = nullptr;
    CHECK_EQ(driver().cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, address),
             CUDA_SUCCESS);
    CHECK(context == with.context);
    int local = 0;
    CHECK_EQ(driver().cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT,
                                            reinterpret_cast<CUdeviceptr>(&local)),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST(pools_allocate_in_stream_order) {
    WithContext with;
    CUmemoryPool pool = nullptr;
    CHECK_EQ(driver().cuDeviceGetDefaultMemPool(&pool, 0), CUDA_SUCCESS);
    CUdeviceptr address = 0;
    CHECK_EQ(driver().cuMemAllocAsync(&address, 3 * kMiB, nullptr), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemsetD8Async(address, 5, 3 * kMiB, nullptr), CUDA_SUCCESS);
    std::uint64_t used = 0;
    CHECK_EQ(driver().cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used),
             CUDA_SUCCESS);
    CHECK_EQ(used, 3 * kMiB);
    CHECK_EQ(driver().cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFreeAsync(address, nullptr), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuCtxSynchronize(), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used),
             CUDA_SUCCESS);
    CHECK_EQ(used, 0u);
    CHECK_EQ(free_memory(), 64 * kMiB);
}

TEST(a_context_takes_its_memory_along) {
    {
        WithContext with;
        CUdeviceptr address = 0;
        CHECK_EQ(driver().cuMemAlloc_v2(&address, 10 * kMiB), CUDA_SUCCESS);
        CHECK_EQ(free_memory(), 54 * kMiB);
    }
    WithContext with;
    CHECK_EQ(free_memory(), 64 * kMiB);
}

TEST(threads_allocate_at_once) {
    WithContext with;
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&with, t] {
            CHECK_EQ(driver().cuCtxSetCurrent(with.context), CUDA_SUCCESS);
            for (int i = 0; i < 100; ++i) {
                CUdeviceptr address = 0;
                const std::size_t bytes = 256u << ((i + t) % 9);
                CHECK_EQ(driver().cuMemAlloc_v2(&address, bytes), CUDA_SUCCESS);
                CHECK_EQ(driver().cuMemsetD8_v2(address, static_cast<unsigned char>(t), bytes),
                         CUDA_SUCCESS);
                CHECK(download<std::uint8_t>(address, bytes) ==
                      std::vector<std::uint8_t>(bytes, static_cast<std::uint8_t>(t)));
                CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
            }
        });
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(free_memory(), 64 * kMiB);
}

}  // namespace

CARREL_TEST_MAIN
