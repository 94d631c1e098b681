// Addresses and memory apart: reserve, create, map, access.
#include "driver.hpp"

using namespace carrel::test;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

CUmemAllocationProp properties() {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
    return prop;
}

CUmemAccessDesc read_write() {
    CUmemAccessDesc access{};
    access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return access;
}

TEST(granularity_is_two_mib) {
    WithContext with;
    std::size_t granularity = 0;
    const auto prop = properties();
    CHECK_EQ(driver().cuMemGetAllocationGranularity(&granularity, &prop,
                                                    CU_MEM_ALLOC_GRANULARITY_MINIMUM),
             CUDA_SUCCESS);
    CHECK_EQ(granularity, 2 * kMiB);
}

TEST(a_free_address_is_honoured) {
    WithContext with;
    CUdeviceptr base = 0, again = 0, other = 0;
    REQUIRE(driver().cuMemAddressReserve(&base, 64 * kMiB, 0, 0, 0) == CUDA_SUCCESS);
    REQUIRE(driver().cuMemAddressFree(base, 64 * kMiB) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAddressReserve(&again, 64 * kMiB, 0, base, 0), CUDA_SUCCESS);
    CHECK_EQ(again, base);
    CHECK_EQ(driver().cuMemAddressReserve(&other, 2 * kMiB, 0, base, 0), CUDA_SUCCESS);
    CHECK(other != base);
    CHECK_EQ(driver().cuMemAddressFree(other, 2 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAddressFree(base, 2 * kMiB), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemAddressFree(base, 64 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAddressReserve(&base, 1000, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
}

TEST(mapped_memory_works_and_is_charged) {
    WithContext with;
    CUdeviceptr base = 0;
    REQUIRE(driver().cuMemAddressReserve(&base, 32 * kMiB, 0, 0, 0) == CUDA_SUCCESS);
    CHECK_EQ(free_memory(), 64 * kMiB);
    const auto prop = properties();
    CUmemGenericAllocationHandle handle = 0, too_much = 0;
    CHECK_EQ(driver().cuMemCreate(&too_much, 66 * kMiB, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    REQUIRE(driver().cuMemCreate(&handle, 8 * kMiB, &prop, 0) == CUDA_SUCCESS);
    CHECK_EQ(free_memory(), 56 * kMiB);
    CHECK_EQ(driver().cuMemMap(base, 8 * kMiB, 0, handle, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemMap(base, 8 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);

    CHECK_EQ(driver().cuMemsetD8_v2(base, 1, 16), CUDA_ERROR_INVALID_VALUE);  // no access yet
    const auto access = read_write();
    CHECK_EQ(driver().cuMemSetAccess(base, 8 * kMiB, &access, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemsetD8_v2(base, 9, 8 * kMiB), CUDA_SUCCESS);

    // The same memory at a second place; a copy may span two mappings side by side.
    CHECK_EQ(driver().cuMemMap(base + 8 * kMiB, 8 * kMiB, 0, handle, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemSetAccess(base + 8 * kMiB, 8 * kMiB, &access, 1), CUDA_SUCCESS);
    CHECK(download<unsigned char>(base + 4 * kMiB, 8 * kMiB) ==
          std::vector<unsigned char>(8 * kMiB, 9));
    CHECK_EQ(free_memory(), 56 * kMiB);

    CHECK_EQ(driver().cuMemRelease(handle), CUDA_SUCCESS);
    CHECK_EQ(free_memory(), 56 * kMiB);  // held by the mappings
    CUmemGenericAllocationHandle retained = 0;
    CHECK_EQ(driver().cuMemRetainAllocationHandle(&retained, reinterpret_cast<void*>(base)),
             CUDA_SUCCESS);
    CUmemAllocationProp seen{};
    CHECK_EQ(driver().cuMemGetAllocationPropertiesFromHandle(&seen, retained), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemRelease(retained), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAddressFree(base, 32 * kMiB), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemUnmap(base, 16 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(free_memory(), 64 * kMiB);
    CHECK_EQ(driver().cuMemAddressFree(base, 32 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
}

TEST(mappings_stay_inside_their_reservation) {
    WithContext with;
    CUdeviceptr base = 0;
    REQUIRE(driver().cuMemAddressReserve(&base, 4 * kMiB, 0, 0, 0) == CUDA_SUCCESS);
    const auto prop = properties();
    CUmemGenericAllocationHandle handle = 0;
    REQUIRE(driver().cuMemCreate(&handle, 8 * kMiB, &prop, 0) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemMap(base, 8 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemMap(base, 4 * kMiB, 6 * kMiB, handle, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemMap(base + 4096, 2 * kMiB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemUnmap(base, 2 * kMiB), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(driver().cuMemMap(base, 4 * kMiB, 4 * kMiB, handle, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemUnmap(base, 4 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemRelease(handle), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemAddressFree(base, 4 * kMiB), CUDA_SUCCESS);
}

}  // namespace

CARREL_TEST_MAIN
