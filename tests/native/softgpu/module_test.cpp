// Loading, linking and asking about code.
#include <cstring>
#include <string>

#include "driver.hpp"
#include "image/containers.hpp"
#include "kernels.hpp"

using namespace carrel::test;

namespace {

TEST(modules_have_functions_and_globals) {
    WithContext with;
    Loaded add(kAdd, "add");
    CUfunction missing = nullptr;
    CHECK_EQ(driver().cuModuleGetFunction(&missing, add.module, "subtract"), CUDA_ERROR_NOT_FOUND);
    CUdeviceptr counter = 0;
    std::size_t bytes = 0;
    CHECK_EQ(driver().cuModuleGetGlobal_v2(&counter, &bytes, add.module, "counter"), CUDA_SUCCESS);
    CHECK_EQ(bytes, 4u);
    CHECK(download<unsigned>(counter, 1) == std::vector<unsigned>{7});
    unsigned count = 0;
    CHECK_EQ(driver().cuModuleGetFunctionCount(&count, add.module), CUDA_SUCCESS);
    CHECK_EQ(count, 1u);
    std::size_t offset = 0, size = 0;
    CHECK_EQ(driver().cuFuncGetParamInfo(add.function, 2, &offset, &size), CUDA_SUCCESS);
    CHECK_EQ(offset, 12u);
    CHECK_EQ(size, 4u);
    CHECK_EQ(driver().cuFuncGetParamInfo(add.function, 3, &offset, &size),
             CUDA_ERROR_INVALID_VALUE);
    int threads = 0;
    CHECK_EQ(driver().cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                                         add.function),
             CUDA_SUCCESS);
    CHECK_EQ(threads, 1024);
    CHECK_EQ(driver().cuModuleUnload(add.module), CUDA_SUCCESS);
    CHECK_EQ(driver().cuModuleUnload(add.module), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(driver().cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_NUM_REGS, add.function),
             CUDA_ERROR_INVALID_HANDLE);
}

TEST(errors_in_ptx_are_logged) {
    WithContext with;
    char log[1024] = "untouched";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
    CUmodule module = nullptr;
    const char* broken =
        ".version 7.0\n.target sm_80\n.address_size 64\n.entry k() { frobnicate; }\n";
    CHECK_EQ(driver().cuModuleLoadDataEx(&module, broken, 2, options, values),
             CUDA_ERROR_INVALID_PTX);
    CHECK(std::string(log).find("frobnicate") != std::string::npos);
    CHECK_EQ(reinterpret_cast<std::size_t>(values[1]), std::strlen(log));
}

TEST(machine_code_is_refused) {
    WithContext with;
    CUmodule module = nullptr;
    char cubin[128] = "\177ELF";
    CHECK_EQ(driver().cuModuleLoadData(&module, cubin), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CHECK_EQ(driver().cuModuleLoadData(&module, "hello"), CUDA_ERROR_INVALID_IMAGE);
    CHECK_EQ(driver().cuModuleLoadData(&module, ""), CUDA_ERROR_INVALID_IMAGE);
}

CUresult load(const std::string& fatbin) {
    CUmodule module = nullptr;
    return driver().cuModuleLoadData(&module, fatbin.data());
}

TEST(fatbins_give_up_their_ptx) {
    WithContext with;
    const std::string text = kAdd, broken = "no PTX";
    CHECK_EQ(load(fatbin_of({{kPtx, 80, text}})), CUDA_SUCCESS);
    // Of several the highest that the device runs: what is before and beyond is not looked at.
    CHECK_EQ(load(fatbin_of({{kPtx, 70, broken}, {kPtx, 80, text}, {kPtx, 90, broken}})),
             CUDA_SUCCESS);
    CHECK_EQ(load(fatbin_of({{kPtx, 90, text}})), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CHECK_EQ(load(fatbin_of({{kCubin, 80, text}})), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CHECK_EQ(load(fatbin_of({{kPtx, 80, broken, kZstd, 100}})), CUDA_ERROR_NO_BINARY_FOR_GPU);
    std::string beyond = fatbin_of({{kPtx, 80, text}});
    put(beyond, 16 + 8, static_cast<std::uint64_t>(beyond.size()));
    CHECK_EQ(load(beyond), CUDA_ERROR_NO_BINARY_FOR_GPU);
    put(beyond, 16 + 4, ~std::uint32_t{0});
    CHECK_EQ(load(beyond), CUDA_ERROR_NO_BINARY_FOR_GPU);
}

TEST(a_linked_fatbin_ends_where_its_bytes_end) {
    WithContext with;
    const std::string fatbin = fatbin_of({{kPtx, 80, kAdd}});
    CUlinkState state = nullptr;
    REQUIRE(driver().cuLinkCreate_v2(0, nullptr, nullptr, &state) == CUDA_SUCCESS);
    const auto add = [&](std::size_t size) {
        return driver().cuLinkAddData_v2(state, CU_JIT_INPUT_FATBINARY,
                                         const_cast<char*>(fatbin.data()), size, "fatbin", 0,
                                         nullptr, nullptr);
    };
    CHECK_EQ(add(fatbin.size() - 1), CUDA_ERROR_INVALID_IMAGE);
    CHECK_EQ(add(15), CUDA_ERROR_INVALID_IMAGE);
    CHECK_EQ(add(fatbin.size()), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLinkDestroy(state), CUDA_SUCCESS);
}

TEST(libraries_serve_every_context) {
    WithContext with;
    CUlibrary library = nullptr;
    CHECK_EQ(driver().cuLibraryLoadData(&library, kAdd, nullptr, nullptr, 0, nullptr, nullptr, 0),
             CUDA_SUCCESS);
    CUkernel kernel = nullptr;
    CHECK_EQ(driver().cuLibraryGetKernel(&kernel, library, "add"), CUDA_SUCCESS);
    CHECK_EQ(driver().cuLibraryGetKernel(&kernel, library, "nothing"), CUDA_ERROR_NOT_FOUND);
    CUdeviceptr counter = 0, other_counter = 0;
    CHECK_EQ(driver().cuLibraryGetGlobal(&counter, nullptr, library, "counter"), CUDA_SUCCESS);
    const CUdeviceptr data = upload(std::vector<unsigned>(100, 1));
    unsigned n = 100, value = 41;
    void* arguments[] = {const_cast<CUdeviceptr*>(&data), &n, &value};
    CHECK_EQ(driver().cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 4, 1, 1, 32, 1, 1, 0,
                                     nullptr, arguments, nullptr),
             CUDA_SUCCESS);
    CHECK(download<unsigned>(data, 100) == std::vector<unsigned>(100, 42));
    {
        WithContext other;
        CHECK_EQ(driver().cuLibraryGetGlobal(&other_counter, nullptr, library, "counter"),
                 CUDA_SUCCESS);
        CHECK(counter != other_counter);
    }
    CHECK_EQ(driver().cuLibraryUnload(library), CUDA_SUCCESS);
    const char* name = nullptr;
    CHECK_EQ(driver().cuKernelGetName(&name, kernel), CUDA_ERROR_INVALID_HANDLE);
}

TEST(linked_texts_are_one_image) {
    WithContext with;
    const std::string head = ".version 7.0\n.target sm_80\n.address_size 64\n";
    const std::string callee = head +
                               ".visible .func (.param .b32 out) twice(.param .b32 in) {\n"
                               ".reg .b32 %r<3>;\nld.param.u32 %r1, [in];\nadd.u32 %r2, %r1, %r1;\n"
                               "st.param.b32 [out], %r2;\nret;\n}\n";
    const std::string caller =
        head +
        ".extern .func (.param .b32 out) twice(.param .b32 in);\n"
        ".visible .entry apply(.param .u64 to) {\n.reg .b32 %r<3>;\n.reg .b64 %rd<2>;\n"
        "ld.param.u64 %rd1, [to];\nmov.u32 %r1, 21;\n{\n.param .b32 p;\n.param .b32 q;\n"
        "st.param.b32 [p], %r1;\ncall.uni (q), twice, (p);\nld.param.b32 %r2, [q];\n}\n"
        "st.global.u32 [%rd1], %r2;\nret;\n}\n";
    CUlinkState state = nullptr;
    REQUIRE(driver().cuLinkCreate_v2(0, nullptr, nullptr, &state) == CUDA_SUCCESS);
    CHECK_EQ(driver().cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, const_cast<char*>(caller.data()),
                                       caller.size(), "caller", 0, nullptr, nullptr),
             CUDA_SUCCESS);
    void* image = nullptr;
    std::size_t size = 0;
    CHECK_EQ(driver().cuLinkComplete(state, &image, &size), CUDA_ERROR_INVALID_PTX);  // no `twice`
    CHECK_EQ(driver().cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, const_cast<char*>(callee.data()),
                                       callee.size(), "callee", 0, nullptr, nullptr),
             CUDA_SUCCESS);
    REQUIRE(driver().cuLinkComplete(state, &image, &size) == CUDA_SUCCESS);
    const std::string copy(static_cast<char*>(image), size);
    CHECK_EQ(driver().cuLinkDestroy(state), CUDA_SUCCESS);
    Loaded apply(copy.c_str(), "apply");
    CUdeviceptr to = upload(std::vector<unsigned>{0});
    CHECK_EQ(apply(1, 1, nullptr, {&to}), CUDA_SUCCESS);
    CHECK(download<unsigned>(to, 1) == std::vector<unsigned>{42});
}

TEST(functions_are_found_by_name) {
    WithContext with;
    void* found = nullptr;
    CUdriverProcAddressQueryResult status{};
    CHECK_EQ(driver().cuGetProcAddress_v2("cuMemAlloc", &found, 12000, 0, &status), CUDA_SUCCESS);
    CHECK(found == reinterpret_cast<void*>(driver().cuMemAlloc_v2));
    CHECK_EQ(driver().cuGetProcAddress_v2("cuNoSuchThing", &found, 12000, 0, &status),
             CUDA_SUCCESS);
    CHECK(found == nullptr);
    CHECK_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    const void* table = &found;
    const CUuuid id{};
    CHECK(driver().cuGetExportTable(&table, &id) != CUDA_SUCCESS);
    CHECK(table == nullptr);
    CHECK_EQ(driver().cuArrayDestroy(nullptr), CUDA_ERROR_NOT_SUPPORTED);
}

}  // namespace

CARREL_TEST_MAIN
