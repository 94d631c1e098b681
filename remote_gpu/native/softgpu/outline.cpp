#include "softgpu/outline.hpp"

#include <algorithm>
#include <bit>
#include <cctype>
#include <string_view>

namespace carrel::softgpu {
namespace {

constexpr unsigned kLargestAlignment = 128;

bool is_identifier(std::string_view name) {
    return !name.empty() && !std::isdigit(static_cast<unsigned char>(name.front())) &&
           std::ranges::all_of(name, [](unsigned char c) {
               return std::isalnum(c) || c == '_' || c == '$' || c == '%';
           });
}

std::string bytes(unsigned align, const std::string& name, std::uint64_t size) {
    return ".align " + std::to_string(align) + " .b8 " + name + "[" + std::to_string(size) + "]";
}

void declare(std::string& text, const image::CubinVariable& variable) {
    text += variable.constant ? ".visible .const " : ".visible .global ";
    text += bytes(16, variable.name, std::max<std::uint64_t>(variable.size, 1));
    const std::size_t given = std::min<std::size_t>(variable.initial.size(), variable.size);
    if (given > 0) {
        text += " = {";
        for (std::size_t i = 0; i < given; ++i) {
            if (i > 0) text += ",";
            text += std::to_string(std::to_integer<unsigned>(variable.initial[i]));
        }
        text += "}";
    }
    text += ";\n";
}

void declare(std::string& text, const image::CubinKernel& kernel) {
    text += ".visible .entry " + kernel.name + "(";
    for (std::size_t i = 0; i < kernel.parameters.size(); ++i) {
        const image::CubinParameter& parameter = kernel.parameters[i];
        // The most that its offset is a multiple of: the least that puts it there.
        const unsigned align =
            parameter.offset == 0
                ? 16u
                : std::min(1u << std::countr_zero(parameter.offset), kLargestAlignment);
        if (i > 0) text += ", ";
        text += ".param " + bytes(align, "p" + std::to_string(i), parameter.size);
    }
    text += ")\n";
    if (kernel.most_threads > 0)
        text += ".maxntid " + std::to_string(kernel.most_threads) + ", 1, 1\n";
    text += "{\n";
    if (kernel.shared_bytes > 0)
        text += ".reg .b64 %rd1;\n.shared " + bytes(16, "carrel_shared", kernel.shared_bytes) +
                ";\nmov.u64 %rd1, carrel_shared;\n";
    text += "ret;\n}\n";
}

}  // namespace

std::string outline(const image::Cubin& cubin, unsigned arch) {
    std::string text = ".version 8.0\n.target sm_" + std::to_string(arch) + "\n.address_size 64\n";
    for (const image::CubinVariable& variable : cubin.variables)
        if (is_identifier(variable.name)) declare(text, variable);
    for (const image::CubinKernel& kernel : cubin.kernels)
        if (is_identifier(kernel.name)) declare(text, kernel);
    return text;
}

}  // namespace carrel::softgpu
