// parse(): one unit, from text to decoded functions and a list of what it declares.
#include <algorithm>

#include "softgpu/ptx/parser.hpp"
#include "softgpu/ptx/program.hpp"

namespace carrel::softgpu::ptx {
namespace {

Kernel describe(const syntax::Module& module, const syntax::Function& function,
                const FunctionCode& code) {
    Kernel kernel;
    kernel.name = function.name;
    for (std::size_t i = 0; i < function.parameters.size(); ++i) {
        const syntax::Variable& formal = function.parameters[i];
        kernel.parameters.push_back(
            {formal.name, formal.size, formal.align, code.parameters[i].place});
        kernel.param_bytes = code.parameters[i].place + formal.size;
    }
    kernel.local_bytes = code.local_bytes;
    kernel.registers = code.registers;
    kernel.required_block = function.required_block;
    kernel.min_blocks = function.min_blocks;
    kernel.ptx_version = module.version;
    kernel.target = module.target;
    for (const auto& bound : {function.max_block, function.required_block}) {
        const std::uint64_t threads = std::uint64_t{bound[0]} * bound[1] * bound[2];
        if (threads != 0)
            kernel.max_threads =
                static_cast<unsigned>(std::min<std::uint64_t>(kernel.max_threads, threads));
    }
    if (function.max_registers != 0)
        kernel.registers = std::min(kernel.registers, function.max_registers);
    for (const syntax::Instruction& instruction : function.instructions)
        for (const syntax::Operand& operand : instruction.operands)
            kernel.cooperative |= operand.name == "%envreg2" || operand.name == "cudaCGSynchronize";
    return kernel;
}

ModuleNames names_of(const syntax::Module& module, std::vector<SharedVariable>& shared) {
    ModuleNames names;
    for (const syntax::Variable& variable : module.variables) {
        if (variable.space == StateSpace::shared) {
            names.shared.emplace(variable.name, static_cast<std::uint32_t>(shared.size()));
            shared.push_back({variable.name, variable.size, variable.align,
                              variable.linkage == syntax::Linkage::external || variable.size == 0});
        } else if (variable.space == StateSpace::global || variable.space == StateSpace::constant) {
            names.variables.emplace(variable.name, variable.space);
        } else {
            throw SyntaxError(variable.line,
                              "Variables of this state space must be declared inside functions");
        }
    }
    for (const syntax::Function& function : module.functions)
        names.functions.emplace(function.name, true);
    for (const syntax::Alias& alias : module.aliases) names.functions.emplace(alias.name, true);
    return names;
}

}  // namespace

std::string format_log(std::span<const Diagnostic> log) {
    std::string text;
    for (const Diagnostic& each : log) {
        text += "ptxas application ptx input, line " + std::to_string(each.line) +
                "; error   : " + each.message + "\n";
    }
    if (!log.empty()) text += "ptxas fatal   : Ptx assembly aborted due to errors\n";
    return text;
}

Result<Module> parse(std::string_view text) {
    Result<Module> result;
    try {
        const syntax::Module module = Parser(text).run();
        auto impl = std::make_shared<ModuleImpl>();
        impl->version = module.version;
        impl->target = module.target;
        const ModuleNames names = names_of(module, impl->shared);
        for (const syntax::Variable& variable : module.variables)
            if (variable.space != StateSpace::shared) impl->variables.push_back(variable);
        impl->aliases = module.aliases;
        std::vector<std::string> defined;
        for (const syntax::Function& function : module.functions) {
            if (!function.has_body) continue;
            if (std::find(defined.begin(), defined.end(), function.name) != defined.end()) {
                result.log.push_back(
                    {function.line, "Duplicate definition of function '" + function.name + "'"});
                continue;
            }
            defined.push_back(function.name);
            try {
                FunctionCode code = decode(function, names, impl->shared);
                if (function.is_entry) impl->kernels.push_back(describe(module, function, code));
                impl->functions.push_back(std::move(code));
            } catch (const SyntaxError& error) {
                result.log.push_back({error.line(), error.what()});
                if (result.log.size() >= 20) break;
            }
        }
        for (const syntax::Function& function : module.functions)
            if (!function.has_body &&
                std::find(defined.begin(), defined.end(), function.name) == defined.end())
                impl->external_functions.push_back(function.name);
        if (result.log.empty()) result.value = Module(std::move(impl));
    } catch (const SyntaxError& error) {
        result.log.push_back({error.line(), error.what()});
    }
    return result;
}

std::vector<std::string> Module::unresolved() const {
    std::vector<std::string> missing;
    for (const std::string& name : impl_->external_functions)
        if (builtin_function(name) == nullptr) missing.push_back(name);
    for (const syntax::Variable& variable : impl_->variables)
        if (variable.linkage == syntax::Linkage::external) missing.push_back(variable.name);
    return missing;
}

}  // namespace carrel::softgpu::ptx
