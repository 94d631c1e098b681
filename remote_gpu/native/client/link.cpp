// Link jobs run in the worker; their logs and result come back here.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "client/forward.hpp"
#include "client/image.hpp"
#include "client/jit.hpp"
#include "cuda_functions.hpp"

using namespace carrel;
using namespace carrel::client;

namespace {

struct Link {
    JitOptions options;             // the program's buffers live until the job is destroyed
    std::vector<std::byte> result;  // what cuLinkComplete handed out
    ~Link() {
        if (!result.empty()) forget_image(result.data());
    }
};

Link* find_link(CUlinkState state) {
    const uint32_t name = Handles::name(state);
    return handles().kind(name) == Kind::link ? static_cast<Link*>(handles().object(name))
                                              : nullptr;
}

}  // namespace

CUresult CUDAAPI cuLinkCreate_v2(unsigned int numOptions, CUjit_option* options,
                                 void** optionValues, CUlinkState* stateOut) {
    if (!stateOut) return CUDA_ERROR_INVALID_VALUE;
    auto link = std::make_unique<Link>();
    link->options = JitOptions(numOptions, options, optionValues);
    if (const CUresult bad = link->options.check()) return bad;
    const CUlinkState state = mint<CUlinkState>(link.get());
    const CUresult result = ask(
        Call::cuLinkCreate_v2,
        [&](wire::Writer& w) {
            w.put(name_of(state));
            link->options.encode(w);
        },
        [](CUresult, wire::Reader&) {});
    if (result != CUDA_SUCCESS) {
        retire(state);
        return result;
    }
    link.release();
    *stateOut = state;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void* data, size_t size,
                                  const char* name, unsigned int numOptions, CUjit_option* options,
                                  void** optionValues) {
    const Link* link = find_link(state);
    if (!link) return CUDA_ERROR_INVALID_HANDLE;
    if (!data || !size || size > wire::kMaxPayload / 2) return CUDA_ERROR_INVALID_VALUE;
    const JitOptions own(numOptions, options, optionValues);
    if (const CUresult bad = own.check()) return bad;
    return ask(
        Call::cuLinkAddData_v2,
        [&](wire::Writer& w) {
            w.put(name_of(state));
            w.put(static_cast<int32_t>(type));
            w.text(name ? name : "");
            own.encode(w);
            w.bytes(data, size);
        },
        [&](CUresult, wire::Reader& r) { link->options.decode(r); });
}

CUresult CUDAAPI cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char* path,
                                  unsigned int numOptions, CUjit_option* options,
                                  void** optionValues) {
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    std::ifstream file(path, std::ios::binary);
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::vector<char> data(std::istreambuf_iterator<char>(file), {});
    if (type == CU_JIT_INPUT_PTX) data.push_back(0);
    return cuLinkAddData_v2(state, type, data.data(), data.size(), path, numOptions, options,
                            optionValues);
}

CUresult CUDAAPI cuLinkComplete(CUlinkState state, void** cubinOut, size_t* sizeOut) {
    Link* link = find_link(state);
    if (!link) return CUDA_ERROR_INVALID_HANDLE;
    if (!cubinOut) return CUDA_ERROR_INVALID_VALUE;
    return ask(
        Call::cuLinkComplete, [&](wire::Writer& w) { w.put(name_of(state)); },
        [&](CUresult result, wire::Reader& r) {
            link->options.decode(r);
            if (result != CUDA_SUCCESS) return;
            const auto image = r.bytes();
            if (!link->result.empty()) forget_image(link->result.data());
            link->result.assign(image.begin(), image.end());
            const size_t size = link->result.size();
            link->result.push_back(std::byte{0});  // the result may be text
            remember_image(link->result.data(), size);
            *cubinOut = link->result.data();
            if (sizeOut) *sizeOut = size;
        });
}

CUresult CUDAAPI cuLinkDestroy(CUlinkState state) {
    Link* link = find_link(state);
    if (!link) return CUDA_ERROR_INVALID_HANDLE;
    const CUresult result =
        post(Call::cuLinkDestroy, [&](wire::Writer& w) { w.put(name_of(state)); });
    retire(state);
    delete link;
    return result;
}
