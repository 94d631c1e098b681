// Memory: every way to copy gives the bytes back; the slice's limit holds; freed memory is reused
// only when nobody uses it.
#include <cstring>
#include <numeric>
#include <vector>

#include "check.hpp"
#include "client/worker_process.hpp"

using carrel::test::worker;

#define OK(call) CHECK_EQ(static_cast<int>(call), 0)

namespace {

std::vector<unsigned char> pattern(size_t size, unsigned seed) {
    std::vector<unsigned char> data(size);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<unsigned char>((i * 31 + seed) >> 3);
    return data;
}

void there_and_back(size_t size, CUstream stream) {
    const auto data = pattern(size, static_cast<unsigned>(size));
    std::vector<unsigned char> back(size);
    CUdeviceptr d = 0;
    OK(cuMemAlloc_v2(&d, size));
    OK(cuMemcpyHtoDAsync_v2(d, data.data(), size, stream));
    OK(cuMemcpyDtoHAsync_v2(back.data(), d, size, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(data == back);
    CUdeviceptr other = 0;
    OK(cuMemAlloc_v2(&other, size));
    OK(cuMemcpyDtoDAsync_v2(other, d, size, stream));
    std::memset(back.data(), 0, size);
    OK(cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(back.data()), other, size, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(data == back);
    OK(cuMemFree_v2(d));
    OK(cuMemFree_v2(other));
}

}  // namespace

TEST(copies_of_all_sizes) {
    worker();
    CUstream stream = nullptr;
    OK(cuStreamCreate(&stream, 1));
    for (const size_t size : {size_t{1}, size_t{3}, size_t{4096}, size_t{65535}, size_t{65536},
                              size_t{65537}, size_t{4} << 20, (size_t{9} << 20) + 5}) {
        there_and_back(size, nullptr);
        there_and_back(size, stream);
    }
    OK(cuStreamDestroy_v2(stream));
}

TEST(copies_with_pitch_and_depth) {
    worker();
    constexpr size_t width = 40;
    constexpr size_t height = 7;
    constexpr size_t depth = 3;
    constexpr size_t host_pitch = 64;
    CUdeviceptr d = 0;
    size_t pitch = 0;
    OK(cuMemAllocPitch_v2(&d, &pitch, width, height * depth, 4));
    const auto source = pattern(host_pitch * height * depth, 5);
    std::vector<unsigned char> back(source.size(), 0xEE);
    CUDA_MEMCPY3D in{};
    in.srcMemoryType = CU_MEMORYTYPE_HOST;
    in.srcHost = source.data();
    in.srcPitch = host_pitch;
    in.srcHeight = height;
    in.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    in.dstDevice = d;
    in.dstPitch = pitch;
    in.dstHeight = height;
    in.WidthInBytes = width, in.Height = height, in.Depth = depth;
    OK(cuMemcpy3D_v2(&in));
    CUDA_MEMCPY3D out{};
    out.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    out.srcDevice = d;
    out.srcPitch = pitch;
    out.srcHeight = height;
    out.dstMemoryType = CU_MEMORYTYPE_HOST;
    out.dstHost = back.data();
    out.dstPitch = host_pitch;
    out.dstHeight = height;
    out.WidthInBytes = width, out.Height = height, out.Depth = depth;
    OK(cuMemcpy3D_v2(&out));
    for (size_t i = 0; i < back.size(); ++i) {
        CHECK_EQ(int{back[i]}, i % host_pitch < width ? int{source[i]} : 0xEE);
    }
    // A window of one plane, two ways.
    std::vector<unsigned char> window(10 * 3);
    CUDA_MEMCPY2D flat{};
    flat.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    flat.srcDevice = d;
    flat.srcPitch = pitch;
    flat.srcXInBytes = 5, flat.srcY = 2;
    flat.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    flat.dstDevice = reinterpret_cast<CUdeviceptr>(window.data());
    flat.dstPitch = 10;
    flat.WidthInBytes = 10, flat.Height = 3;
    OK(cuMemcpy2D_v2(&flat));
    for (size_t y = 0; y < 3; ++y) {
        for (size_t x = 0; x < 10; ++x) {
            CHECK_EQ(int{window[y * 10 + x]}, int{source[(y + 2) * host_pitch + x + 5]});
        }
    }
    flat.srcPitch = 8;
    CHECK(cuMemcpy2D_v2(&flat) == CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(d));
}

TEST(copies_that_cannot_be_are_refused) {
    worker();
    CUdeviceptr d = 0;
    OK(cuMemAlloc_v2(&d, 1000));
    char host[2000] = {};
    CHECK(cuMemcpyHtoD_v2(d, host, 1001) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemcpyDtoH_v2(host, d + 500, 501) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemcpyHtoD_v2(d, nullptr, 10) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemcpyDtoH_v2(host, 0, 10) != CUDA_SUCCESS);
    OK(cuMemFree_v2(d));
    CHECK(cuMemFree_v2(d) == CUDA_ERROR_INVALID_VALUE);
    CHECK(cuMemcpyHtoD_v2(d, host, 10) == CUDA_ERROR_INVALID_VALUE);
    OK(cuCtxSynchronize());
}

TEST(the_slice_is_the_limit) {
    worker();
    size_t free_before = 0;
    size_t total = 0;
    OK(cuMemGetInfo_v2(&free_before, &total));
    CHECK_EQ(total, size_t{1} << 30);
    CUdeviceptr keep = 0;
    OK(cuMemAlloc_v2(&keep, 1 << 20));
    OK(cuMemsetD32_v2(keep, 42, 1));
    CUdeviceptr d = 0;
    CHECK(cuMemAlloc_v2(&d, (size_t{1} << 30) + 1) == CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(cuMemAlloc_v2(&d, ~size_t{0} - 100) == CUDA_ERROR_OUT_OF_MEMORY);
    std::vector<CUdeviceptr> blocks;
    while (cuMemAlloc_v2(&d, 100 << 20) == CUDA_SUCCESS) blocks.push_back(d);
    CHECK_EQ(blocks.size(), size_t{9});
    int value = 0;
    OK(cuMemcpyDtoH_v2(&value, keep, 4));
    CHECK_EQ(value, 42);
    for (const auto b : blocks) OK(cuMemFree_v2(b));
    OK(cuMemAlloc_v2(&d, 900 << 20));
    OK(cuMemFree_v2(d));
    OK(cuMemFree_v2(keep));
    size_t free_after = 0;
    OK(cuMemGetInfo_v2(&free_after, &total));
    CHECK_EQ(free_after, free_before);
}

TEST(pointers_know_what_they_are) {
    worker();
    CUdeviceptr d = 0;
    OK(cuMemAlloc_v2(&d, 10000));
    CUdeviceptr base = 0;
    size_t size = 0;
    OK(cuMemGetAddressRange_v2(&base, &size, d + 9999));
    CHECK_EQ(base, d);
    CHECK_EQ(size, size_t{10000});
    unsigned int type = 0;
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, d + 5));
    CHECK_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_DEVICE));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, d + 10000) ==
          CUDA_ERROR_INVALID_VALUE);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                reinterpret_cast<CUdeviceptr>(&type)) == CUDA_ERROR_INVALID_VALUE);
    void* pinned = nullptr;
    OK(cuMemHostAlloc(&pinned, 4096, 0));
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                             reinterpret_cast<CUdeviceptr>(pinned)));
    CHECK_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_HOST));
    OK(cuMemFreeHost(pinned));
    OK(cuMemFree_v2(d));
}

TEST(globals_of_modules_can_be_copied) {
    worker();
    CUmodule module = nullptr;
    OK(cuModuleLoadData(&module, carrel::test::kPtx));
    CUdeviceptr d = 0;
    size_t size = 0;
    OK(cuModuleGetGlobal_v2(&d, &size, module, "counter"));
    CHECK_EQ(size, size_t{16});
    const int values[4] = {1, 2, 3, 4};
    int back[4] = {};
    OK(cuMemcpyHtoD_v2(d, values, 16));
    OK(cuMemcpyDtoH_v2(back, d, 16));
    CHECK(std::memcmp(values, back, 16) == 0);
    CHECK(cuModuleGetGlobal_v2(&d, &size, module, "nothing") == CUDA_ERROR_NOT_FOUND);
    OK(cuModuleUnload(module));
    CHECK(cuModuleUnload(module) == CUDA_ERROR_INVALID_HANDLE);
}

CARREL_TEST_MAIN
