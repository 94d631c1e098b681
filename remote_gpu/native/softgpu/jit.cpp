// Images and their texts: what a program hands to the driver as code, and the logs it gets back.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "image/cubin.hpp"
#include "image/elf.hpp"
#include "image/fatbin.hpp"
#include "softgpu/failure.hpp"
#include "softgpu/module.hpp"
#include "softgpu/outline.hpp"
#include "softgpu/runtime.hpp"

namespace carrel::softgpu {
namespace {

// Comments in the text of a linked image, which stays PTX for whoever looks at it.
constexpr std::string_view kUnitMark = "\n// ---- carrel: next unit ----\n";
constexpr std::string_view kRegistersMark = "// carrel: registers at most ";
constexpr std::size_t kLargestText = std::size_t{256} << 20;

[[noreturn]] void refuse(const JitOptions& options, CUresult code, const std::string& why) {
    options.error(why);
    std::fprintf(stderr, "carrel-softgpu: %s\n", why.c_str());
    throw Failure(code);
}

// What a null device needs to know of machine code, as PTX that declares it.
std::string outline_of(std::span<const std::byte> cubin, const JitOptions& options) {
    const auto facts = image::read_cubin(cubin);
    if (!facts) refuse(options, CUDA_ERROR_INVALID_IMAGE, "the cubin is malformed, or not a cubin");
    return outline(*facts, Runtime::get().device(0).compute_capability());
}

// All software GPUs are of one setting: what runs on the first runs on each.
std::string ptx_of(std::span<const std::byte> fatbin, const JitOptions& options) {
    const auto no_binary = [&](const std::string& why) {
        refuse(options, CUDA_ERROR_NO_BINARY_FOR_GPU, why);
    };
    const auto entries = image::fatbin_entries(fatbin);
    if (!entries) no_binary("the fatbin is malformed");
    const Config& config = Runtime::get().device(0).config();
    const image::Capability here{config.cc_major, config.cc_minor};
    const auto accept = config.null ? image::Accept::ptx_and_cubins : image::Accept::ptx;
    const auto* const entry = image::choose(*entries, here, accept);
    if (!entry) {
        const bool later = std::any_of(entries->begin(), entries->end(),
                                       [](const auto& other) { return other.is_ptx(); });
        no_binary(later ? "the fatbin's PTX is for later GPUs than the software GPU's compute "
                          "capability " +
                              std::to_string(here.major) + "." + std::to_string(here.minor)
                        : "the fatbin holds machine code of NVIDIA GPUs only; the software GPU "
                          "executes PTX");
    }
    const auto code = image::unpack(*entry, kLargestText);
    if (!code || code->empty()) no_binary("the fatbin's code is damaged");
    if (entry->is_cubin()) return outline_of(*code, options);
    const auto* const text = reinterpret_cast<const char*>(code->data());
    return {text, ::strnlen(text, code->size())};
}

}  // namespace

JitOptions::JitOptions(unsigned count, const CUjit_option* options, void** values) {
    require(count == 0 || (options && values));
    for (unsigned i = 0; i < count; ++i) {
        const auto number = reinterpret_cast<std::uintptr_t>(values[i]);
        switch (options[i]) {
            case CU_JIT_MAX_REGISTERS:
                max_registers = static_cast<unsigned>(number);
                break;
            case CU_JIT_INFO_LOG_BUFFER:
                info_.buffer = static_cast<char*>(values[i]);
                break;
            case CU_JIT_ERROR_LOG_BUFFER:
                error_.buffer = static_cast<char*>(values[i]);
                break;
            case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
                info_.bytes = static_cast<unsigned>(number);
                info_.size_option = &values[i];
                break;
            case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
                error_.bytes = static_cast<unsigned>(number);
                error_.size_option = &values[i];
                break;
            case CU_JIT_WALL_TIME:
                values[i] = nullptr;  // a float, 0 ms
                break;
            default:
                break;  // how to compile: there is nothing to compile
        }
    }
    info("");
    error("");
}

void JitOptions::Log::write(std::string_view text) const {
    std::size_t written = 0;
    if (buffer && bytes > 0) {
        written = std::min(text.size(), bytes - 1);
        std::memcpy(buffer, text.data(), written);
        buffer[written] = 0;
    }
    if (size_option) *size_option = reinterpret_cast<void*>(written);
}

void JitOptions::info(std::string_view text) const {
    info_.write(text);
}

void JitOptions::error(std::string_view text) const {
    error_.write(text);
}

Image read_image(const void* image, const JitOptions& options) {
    require(image != nullptr);
    if (const auto fatbin = image::fatbin_at(image))
        return {{ptx_of(*fatbin, options)}, options.max_registers};
    const auto* const start = static_cast<const char*>(image);
    if (image::is_elf(image)) {
        if (Runtime::get().device(0).config().null)
            return {{outline_of({static_cast<const std::byte*>(image), image::elf_size(image)},
                                options)},
                    options.max_registers};
        refuse(options, CUDA_ERROR_NO_BINARY_FOR_GPU,
               "the image is a cubin (machine code of an NVIDIA GPU); the software GPU executes "
               "PTX only. "
               "For numba-cuda, uninstall nvidia-nvjitlink so that it hands over PTX.");
    }
    Image read{{}, options.max_registers};
    std::string_view rest(start);
    if (rest.starts_with(kRegistersMark))
        read.max_registers =
            static_cast<unsigned>(std::strtoul(start + kRegistersMark.size(), nullptr, 10));
    for (;;) {
        const std::size_t end = rest.find(kUnitMark);
        read.texts.emplace_back(rest.substr(0, end));
        if (end == std::string_view::npos) return read;
        rest.remove_prefix(end + kUnitMark.size());
    }
}

std::vector<ptx::Module> parse_units(std::span<const std::string> texts,
                                     const JitOptions& options) {
    std::vector<ptx::Module> units;
    for (const std::string& text : texts) {
        if (text.find(".version") == std::string::npos) {
            options.error("the image is neither PTX nor a fatbin");
            throw Failure(CUDA_ERROR_INVALID_IMAGE);
        }
        auto parsed = ptx::parse(text);
        if (!parsed) {
            options.error(ptx::format_log(parsed.log));
            throw Failure(CUDA_ERROR_INVALID_PTX);
        }
        units.push_back(std::move(*parsed));
    }
    return units;
}

std::string write_image(const Image& image) {
    std::string joined;
    if (image.max_registers > 0)
        joined = std::string(kRegistersMark) + std::to_string(image.max_registers) + "\n";
    for (const std::string& text : image.texts) {
        if (&text != &image.texts.front()) joined += kUnitMark;
        joined += text;
    }
    return joined;
}

std::string read_file(const char* path) {
    require(path != nullptr);
    std::ifstream file(path, std::ios::binary);
    require(file.good(), CUDA_ERROR_FILE_NOT_FOUND);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace carrel::softgpu
