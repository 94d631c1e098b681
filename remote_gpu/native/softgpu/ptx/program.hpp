// Behind Module and Program: decoded units and linked code.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/ptx.hpp"

namespace carrel::softgpu::ptx {

struct ModuleImpl {
    unsigned version = 0;
    unsigned target = 0;
    std::vector<FunctionCode> functions;  // those with a body
    std::vector<Kernel> kernels;          // parallel to the entries among them
    std::vector<SharedVariable> shared;
    std::vector<syntax::Variable> variables;
    std::vector<std::string> external_functions;
    std::vector<syntax::Alias> aliases;
};

struct LinkedVariable {
    syntax::Variable source;
    std::size_t module = 0;
    std::uint64_t address = 0;
};

struct ProgramImpl {
    std::vector<FunctionCode> functions;
    std::vector<std::size_t> function_modules;
    std::vector<Kernel> kernels;
    std::vector<std::uint32_t> kernel_functions;  // index into functions
    std::vector<Variable> variables;
    std::vector<LinkedVariable> linked_variables;

    struct PoolPlace {
        std::uint32_t function;
        std::uint32_t symbol;
    };
    std::vector<std::vector<PoolPlace>> uses;  // by variable: where its address is needed

    /// What a name means inside one module.
    struct Names {
        std::unordered_map<std::string, std::uint32_t> functions;
        std::unordered_map<std::string, std::uint32_t> variables;
    };
    std::vector<Names> names;  // by module
    Names exported;

    [[nodiscard]] const FunctionCode* function_at(std::uint64_t address) const;
    void fill(FunctionCode& function, const PoolSymbol& symbol, std::uint64_t value) const;
};

[[nodiscard]] std::uint64_t code_address(std::uint32_t function);

/// The body of a function that the engine provides (vprintf, malloc, …); nullptr if it does not.
[[nodiscard]] const FunctionCode* builtin_function(const std::string& name);

RunResult run_grid(const ProgramImpl& program, const Kernel& kernel, const LaunchConfig& launch,
                   std::span<const std::byte> params, const Environment& environment);

}  // namespace carrel::softgpu::ptx
