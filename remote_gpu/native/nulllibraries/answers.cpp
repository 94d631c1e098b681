#include "nulllibraries/answers.hpp"

#include <cstring>
#include <string_view>
#include <unordered_map>

#include "nulllibraries/objects.hpp"

namespace carrel::null {
namespace {

template <class T>
void put(uint64_t address, T value) {
    if (address) std::memcpy(reinterpret_cast<void*>(address), &value, sizeof value);
}

// CUDA 13 and what came with it: programs compare with the version that they were built for.
constexpr int kCuda = 13000;
constexpr int kBlas = 130'000;
constexpr int kDnn = 92'800;
constexpr int kNccl = 23'203;

template <int major, int minor, int patch>
uint64_t property(const uint64_t* a) {
    const int values[] = {major, minor, patch};
    put(a[1], a[0] < 3 ? values[a[0]] : 0);
    return 0;
}

// The one algorithm, which needs no workspace.
void put_heuristic(uint64_t results, uint64_t count) {
    struct Heuristic {  // cublasLtMatmulHeuristicResult_t
        uint64_t algorithm[8];
        uint64_t workspace_bytes;
        int state;
        float waves;
        int reserved[4];
    };
    static_assert(sizeof(Heuristic) == 96);
    put(results, Heuristic{{1}, 0, 0, 1, {}});
    put(count, 1);
}

uint64_t layout_create(const uint64_t* a) {
    uint64_t value = 0;
    std::memcpy(&value, reinterpret_cast<const void*>(a[0]), sizeof value);
    if (Object* const layout = Objects::instance().find(value)) {
        layout->type = static_cast<int>(a[1]);
        layout->rows = static_cast<int64_t>(a[2]);
        layout->columns = static_cast<int64_t>(a[3]);
    }
    return 0;
}

// (layout, size, type, rows, columns, leading dimension): the struct is the program's.
uint64_t layout_init(const uint64_t* a) {
    if (Object* const layout = Objects::instance().find(a[0])) {
        layout->type = static_cast<int>(a[2]);
        layout->rows = static_cast<int64_t>(a[3]);
        layout->columns = static_cast<int64_t>(a[4]);
    }
    return 0;
}

uint64_t layout_set(const uint64_t* a) {
    constexpr uint64_t kType = 0, kRows = 2, kColumns = 3, kBatch = 5;
    Object* const layout = Objects::instance().find(a[0]);
    if (!layout || !a[2]) return 0;
    if (a[1] == kType) layout->type = static_cast<int>(library::i32(a[2]));
    if (a[1] == kRows) layout->rows = library::i64(a[2]);
    if (a[1] == kColumns) layout->columns = library::i64(a[2]);
    if (a[1] == kBatch) layout->batch = library::i32(a[2]);
    return 0;
}

// cudnnBackendGetAttribute(descriptor, name, type, requested, count, elements)
uint64_t backend_attribute(const uint64_t* a) {
    constexpr uint64_t kHeuristicResults = 202, kEngine = 300, kInt64 = 3;
    put(a[4], int64_t{a[1] == kHeuristicResults || a[1] == kEngine || a[2] == kInt64});
    return 0;
}

const std::unordered_map<std::string_view, Answer>& answers() {
    static const auto* const all = new std::unordered_map<std::string_view, Answer>{
        {"cublasGetVersion_v2", [](const uint64_t* a) -> uint64_t { return put(a[1], kBlas), 0; }},
        {"cublasGetProperty", property<13, 0, 0>},
        {"cublasGetCudartVersion", [](const uint64_t*) -> uint64_t { return kCuda; }},
        {"cublasLtGetVersion", [](const uint64_t*) -> uint64_t { return kBlas; }},
        {"cublasLtGetCudartVersion", [](const uint64_t*) -> uint64_t { return kCuda; }},
        {"cublasLtGetProperty", property<13, 0, 0>},
        {"cublasLtMatmulAlgoGetHeuristic",
         [](const uint64_t* a) -> uint64_t { return put_heuristic(a[8], a[9]), 0; }},
        {"cublasLtMatmulAlgoGetHeuristicForStream",
         [](const uint64_t* a) -> uint64_t { return put_heuristic(a[8], a[9]), 0; }},
        {"cublasLtMatmulAlgoCheck",
         [](const uint64_t* a) -> uint64_t { return put_heuristic(a[7], 0), 0; }},
        {"cublasLtMatrixLayoutCreate", layout_create},
        {"cublasLtMatrixLayoutInit_internal", layout_init},
        {"cublasLtMatrixLayoutSetAttribute", layout_set},
        {"cudnnGetVersion", [](const uint64_t*) -> uint64_t { return kDnn; }},
        {"cudnnGetMaxDeviceVersion", [](const uint64_t*) -> uint64_t { return 900; }},
        {"cudnnGetCudartVersion", [](const uint64_t*) -> uint64_t { return kCuda; }},
        {"cudnnGetProperty", property<9, 28, 0>},
        {"cudnnBackendGetAttribute", backend_attribute},
        {"cufftGetVersion", [](const uint64_t* a) -> uint64_t { return put(a[0], 12'500), 0; }},
        {"curandGetVersion", [](const uint64_t* a) -> uint64_t { return put(a[0], 10'405), 0; }},
        {"cusparseGetVersion", [](const uint64_t* a) -> uint64_t { return put(a[1], 12'904), 0; }},
        {"cusolverGetVersion", [](const uint64_t* a) -> uint64_t { return put(a[0], 12'401), 0; }},
        {"ncclGetVersion", [](const uint64_t* a) -> uint64_t { return put(a[0], kNccl), 0; }},
        {"ncclCommCount", [](const uint64_t* a) -> uint64_t { return put(a[1], 1), 0; }},
    };
    return *all;
}

}  // namespace

Answer find_answer(const char* function) {
    const auto found = answers().find(function);
    return found == answers().end() ? nullptr : found->second;
}

bool counts_algorithms(const char* function) {
    const std::string_view name = function;
    return (name.starts_with("cudnnGetConvolution") || name.starts_with("cudnnFindConvolution")) &&
           name.find("Algorithm") != std::string_view::npos &&
           name.find("MaxCount") == std::string_view::npos;
}

}  // namespace carrel::null
