// cuLink*: several PTX texts made one image.
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cuda_functions.hpp"
#include "image/fatbin.hpp"
#include "softgpu/module.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {

struct LinkState {
    std::mutex mutex;
    JitOptions options;
    std::vector<std::string> texts;
    std::string image;  // what cuLinkComplete handed out
};

namespace {

void add(LinkState& state, CUjitInputType type, std::string data, const char* name) {
    const std::string label = name && *name ? name : "an input";
    switch (type) {
        case CU_JIT_INPUT_PTX:
            break;
        case CU_JIT_INPUT_FATBINARY:
            // Nobody may read beyond the size that the caller gave.
            require(carrel::image::fatbin_in(std::as_bytes(std::span(data))).has_value(),
                    CUDA_ERROR_INVALID_IMAGE);
            break;
        case CU_JIT_INPUT_LIBRARY:
            // Libraries serve undefined symbols only. What libcudadevrt.a has, the engine has too;
            // a symbol that is nowhere else is named by cuLinkComplete.
            state.options.info(label + " holds machine code of NVIDIA GPUs and was left out\n");
            return;
        case CU_JIT_INPUT_OBJECT:
        case CU_JIT_INPUT_CUBIN:
            state.options.error(label +
                                " is machine code of NVIDIA GPUs; the software GPU links PTX only");
            throw Failure(CUDA_ERROR_NO_BINARY_FOR_GPU);
        default:
            state.options.error(label +
                                " is of a type that the software GPU does not link; hand it PTX");
            throw Failure(CUDA_ERROR_NOT_SUPPORTED);
    }
    std::vector<std::string> texts = read_image(data.c_str(), state.options).texts;
    for (const ptx::Module& unit : parse_units(texts, state.options)) (void)unit;
    const std::lock_guard lock(state.mutex);
    for (std::string& text : texts) state.texts.push_back(std::move(text));
}

}  // namespace
}  // namespace carrel::softgpu

using namespace carrel::softgpu;

CUresult cuLinkCreate_v2(unsigned int numOptions, CUjit_option* options, void** optionValues,
                         CUlinkState* stateOut) {
    return entry_in_context([&](Context&) {
        require(stateOut != nullptr);
        auto state = std::make_shared<LinkState>();
        state->options = JitOptions(numOptions, options, optionValues);
        *stateOut = Runtime::get().links.add(std::move(state));
    });
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void* data, size_t size,
                          const char* name, unsigned int, CUjit_option*, void**) {
    return entry_in_context([&](Context&) {
        require(data && size > 0);
        add(*Runtime::get().links.get(state), type, std::string(static_cast<char*>(data), size),
            name);
    });
}

CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char* path, unsigned int,
                          CUjit_option*, void**) {
    return entry_in_context(
        [&](Context&) { add(*Runtime::get().links.get(state), type, read_file(path), path); });
}

CUresult cuLinkComplete(CUlinkState state, void** cubinOut, size_t* sizeOut) {
    return entry_in_context([&](Context&) {
        require(cubinOut != nullptr);
        const auto link = Runtime::get().links.get(state);
        const std::lock_guard lock(link->mutex);
        require(!link->texts.empty());
        auto linked = ptx::link(parse_units(link->texts, link->options));
        if (!linked) {
            link->options.error(ptx::format_log(linked.log));
            throw Failure(CUDA_ERROR_INVALID_PTX);
        }
        link->image = write_image({link->texts, link->options.max_registers});
        *cubinOut = link->image.data();
        if (sizeOut) *sizeOut = link->image.size() + 1;  // with the NUL that ends a PTX image
    });
}

CUresult cuLinkDestroy(CUlinkState state) {
    return entry(
        [&] { require(Runtime::get().links.remove(state) != nullptr, CUDA_ERROR_INVALID_HANDLE); });
}
