// link(): symbols of several units resolved, shared memory laid out; and Program, the result.
#include <algorithm>
#include <cstring>
#include <set>

#include "softgpu/ptx/program.hpp"
#include "softgpu/ptx/warp.hpp"

namespace carrel::softgpu::ptx {
namespace {

using syntax::Linkage;

bool exported(Linkage linkage) {
    return linkage == Linkage::visible || linkage == Linkage::weak || linkage == Linkage::common;
}

class Linker {
  public:
    explicit Linker(std::span<const Module> modules) : modules_(modules) {}

    Result<Program> run() {
        program_->names.resize(modules_.size());
        add_variables();
        add_functions();
        if (!log_.empty()) return {std::nullopt, std::move(log_)};
        program_->uses.resize(program_->variables.size());
        resolve_functions();
        check_relocations();
        if (!log_.empty()) return {std::nullopt, std::move(log_)};
        layout_shared();
        return {Program(std::move(program_)), {}};
    }

  private:
    void error(const std::string& message) { log_.push_back({0, message}); }

    void add_variables() {
        std::unordered_map<std::string, bool> weak;
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            for (const syntax::Variable& variable : modules_[m].impl().variables) {
                if (variable.linkage == Linkage::external) continue;
                auto& global = program_->exported.variables;
                if (exported(variable.linkage)) {
                    const bool is_weak = variable.linkage != Linkage::visible;
                    if (const auto known = global.find(variable.name); known != global.end()) {
                        LinkedVariable& other = program_->linked_variables[known->second];
                        if (!is_weak && !weak[variable.name]) {
                            error("Multiple definition of '" + variable.name + "'");
                        } else if (!is_weak || variable.size > other.source.size) {
                            other.source = variable;
                            other.module = m;
                            describe(program_->variables[known->second], variable);
                        }
                        weak[variable.name] = weak[variable.name] && is_weak;
                        program_->names[m].variables[variable.name] = known->second;
                        continue;
                    }
                    weak[variable.name] = is_weak;
                    global[variable.name] = static_cast<std::uint32_t>(program_->variables.size());
                }
                program_->names[m].variables[variable.name] =
                    static_cast<std::uint32_t>(program_->variables.size());
                describe(program_->variables.emplace_back(), variable);
                program_->linked_variables.push_back({variable, m, 0});
            }
        }
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            for (const syntax::Variable& variable : modules_[m].impl().variables) {
                if (variable.linkage != Linkage::external) continue;
                const auto known = program_->exported.variables.find(variable.name);
                if (known == program_->exported.variables.end())
                    error("Undefined reference to '" + variable.name + "'");
                else
                    program_->names[m].variables.try_emplace(variable.name, known->second);
            }
        }
    }

    static void describe(Variable& out, const syntax::Variable& from) {
        out.name = from.name;
        out.size = from.size;
        out.align = from.align;
        out.space = from.space == StateSpace::constant ? Space::constant : Space::global;
        out.visible = exported(from.linkage);
        out.initialised = !from.bytes.empty();
        out.managed = from.managed;
    }

    std::uint32_t add_function(const FunctionCode& code, std::size_t module) {
        program_->functions.push_back(code);
        program_->function_modules.push_back(module);
        return static_cast<std::uint32_t>(program_->functions.size() - 1);
    }

    void add_functions() {
        auto& global = program_->exported.functions;
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            const ModuleImpl& module = modules_[m].impl();
            std::size_t entries = 0;
            for (const FunctionCode& code : module.functions) {
                const std::size_t entry = code.is_entry ? entries++ : 0;
                const auto known = global.find(code.name);
                // Kernels are found by name even without .visible.
                const bool is_exported = exported(code.linkage) || code.is_entry;
                if (is_exported && known != global.end()) {
                    FunctionCode& other = program_->functions[known->second];
                    if (code.linkage == Linkage::weak) {
                        program_->names[m].functions[code.name] = known->second;
                        continue;
                    }
                    if (other.linkage != Linkage::weak || code.is_entry) {
                        error("Multiple definition of '" + code.name + "'");
                        continue;
                    }
                    other = code;
                    program_->function_modules[known->second] = m;
                    program_->names[m].functions[code.name] = known->second;
                    continue;
                }
                const std::uint32_t index = add_function(code, m);
                program_->names[m].functions[code.name] = index;
                if (is_exported) global[code.name] = index;
                if (code.is_entry) {
                    program_->kernels.push_back(module.kernels[entry]);
                    program_->kernels.back().index =
                        static_cast<std::uint32_t>(program_->kernels.size() - 1);
                    program_->kernel_functions.push_back(index);
                }
            }
        }
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            auto& names = program_->names[m].functions;
            for (const std::string& name : modules_[m].impl().external_functions) {
                if (names.contains(name)) continue;
                if (const auto known = global.find(name); known != global.end()) {
                    names[name] = known->second;
                } else if (const FunctionCode* builtin = builtin_function(name)) {
                    names[name] = global[name] = add_function(*builtin, m);
                }  // else: an error only if something uses it
            }
            for (const syntax::Alias& alias : modules_[m].impl().aliases) {
                const auto target = names.find(alias.target);
                if (target == names.end())
                    error("Undefined reference to '" + alias.target + "'");
                else
                    names[alias.name] = global[alias.name] = target->second;
            }
        }
    }

    void resolve_functions() {
        for (std::uint32_t f = 0; f < program_->functions.size(); ++f) {
            FunctionCode& function = program_->functions[f];
            const ProgramImpl::Names& names = program_->names[program_->function_modules[f]];
            for (CallSite& call : function.calls) {
                if (call.callee.empty()) continue;
                const auto found = names.functions.find(call.callee);
                if (found == names.functions.end())
                    error("Undefined reference to '" + call.callee + "' in '" + function.name +
                          "'");
                else
                    call.function = found->second;
            }
            for (std::uint32_t s = 0; s < function.pool_symbols.size(); ++s) {
                const PoolSymbol& symbol = function.pool_symbols[s];
                if (symbol.kind != PoolSymbol::Kind::named) continue;
                if (const auto var = names.variables.find(symbol.name);
                    var != names.variables.end()) {
                    program_->uses[var->second].push_back({f, s});
                } else if (const auto fun = names.functions.find(symbol.name);
                           fun != names.functions.end()) {
                    address_taken_.insert(fun->second);
                    program_->fill(function, symbol, code_address(fun->second));
                } else {
                    error("Undefined reference to '" + symbol.name + "' in '" + function.name +
                          "'");
                }
            }
        }
    }

    void check_relocations() {
        for (const LinkedVariable& variable : program_->linked_variables) {
            const ProgramImpl::Names& names = program_->names[variable.module];
            for (const syntax::Relocation& each : variable.source.relocations) {
                if (const auto fun = names.functions.find(each.symbol);
                    fun != names.functions.end())
                    address_taken_.insert(fun->second);
                else if (!names.variables.contains(each.symbol))
                    error("Undefined reference to '" + each.symbol + "' in '" +
                          variable.source.name + "'");
            }
        }
    }

    std::set<std::uint32_t> reachable(std::uint32_t from) const {
        std::set<std::uint32_t> seen{from};
        std::vector<std::uint32_t> open{from};
        const auto visit = [&](std::uint32_t function) {
            if (seen.insert(function).second) open.push_back(function);
        };
        while (!open.empty()) {
            const std::uint32_t function = open.back();
            open.pop_back();
            for (const CallSite& call : program_->functions[function].calls) {
                if (!call.callee.empty())
                    visit(call.function);
                else
                    for (const std::uint32_t taken : address_taken_) visit(taken);
            }
        }
        return seen;
    }

    // Shared variables of device functions have one place for all kernels; those that only a kernel
    // itself uses come behind them, each kernel for itself.
    void layout_shared() {
        using Key = std::pair<std::size_t, std::uint32_t>;
        std::map<Key, std::uint64_t> places;
        const auto variable = [this](const Key& key) -> const SharedVariable& {
            return modules_[key.first].impl().shared[key.second];
        };
        const auto assign = [&](const Key& key, std::uint64_t& end) {
            const SharedVariable& shared = variable(key);
            if (shared.dynamic || places.contains(key)) return;
            end = (end + shared.align - 1) / shared.align * shared.align;
            places[key] = end;
            end += shared.size;
        };
        std::uint64_t common_end = 0;
        for (std::uint32_t f = 0; f < program_->functions.size(); ++f) {
            if (program_->functions[f].is_entry) continue;
            for (const std::uint32_t use : program_->functions[f].shared_uses)
                assign({program_->function_modules[f], use}, common_end);
        }
        for (std::size_t k = 0; k < program_->kernels.size(); ++k) {
            const std::uint32_t entry = program_->kernel_functions[k];
            std::uint64_t end = 0;
            std::uint64_t dynamic_align = 16;
            for (const std::uint32_t f : reachable(entry)) {
                const bool common = f != entry;
                for (const std::uint32_t use : program_->functions[f].shared_uses) {
                    const Key key{program_->function_modules[f], use};
                    const SharedVariable& shared = variable(key);
                    if (shared.dynamic)
                        dynamic_align = std::max<std::uint64_t>(dynamic_align, shared.align);
                    else if (common)
                        end = std::max(end, places[key] + shared.size);
                }
            }
            std::map<Key, std::uint64_t> own;
            FunctionCode& function = program_->functions[entry];
            const std::size_t m = program_->function_modules[entry];
            for (const std::uint32_t use : function.shared_uses) {
                const Key key{m, use};
                const SharedVariable& shared = variable(key);
                if (shared.dynamic) continue;
                if (const auto common = places.find(key); common != places.end()) {
                    end = std::max(end, common->second + shared.size);
                    own[key] = common->second;
                    continue;
                }
                end = (end + shared.align - 1) / shared.align * shared.align;
                own[key] = end;
                end += shared.size;
            }
            if (dynamic_align > 16)  // the launch's dynamic part follows behind
                end = (end + dynamic_align - 1) / dynamic_align * dynamic_align;
            program_->kernels[k].static_shared_bytes = end;
            fill_shared(function, m, own);
        }
        for (std::uint32_t f = 0; f < program_->functions.size(); ++f)
            if (!program_->functions[f].is_entry)
                fill_shared(program_->functions[f], program_->function_modules[f], places);
    }

    void fill_shared(FunctionCode& function, std::size_t module,
                     const std::map<std::pair<std::size_t, std::uint32_t>, std::uint64_t>& places) {
        for (const PoolSymbol& symbol : function.pool_symbols) {
            if (symbol.kind != PoolSymbol::Kind::shared) continue;
            const auto place = places.find({module, symbol.shared});
            if (place != places.end()) program_->fill(function, symbol, place->second);
        }
    }

    std::span<const Module> modules_;
    std::shared_ptr<ProgramImpl> program_ = std::make_shared<ProgramImpl>();
    std::vector<Diagnostic> log_;
    std::set<std::uint32_t> address_taken_;
};

}  // namespace

std::uint64_t code_address(std::uint32_t function) {
    return kCodeWindow + (std::uint64_t{function} + 1) * 16;
}

const FunctionCode* ProgramImpl::function_at(std::uint64_t address) const {
    const std::uint64_t index = (address - kCodeWindow) / 16 - 1;
    if (address <= kCodeWindow || address % 16 != 0 || index >= functions.size()) return nullptr;
    return functions[index].is_entry ? nullptr : &functions[index];
}

void ProgramImpl::fill(FunctionCode& function, const PoolSymbol& symbol,
                       std::uint64_t value) const {
    value += static_cast<std::uint64_t>(symbol.addend);
    for (unsigned lane = 0; lane < kLanes; ++lane)
        std::memcpy(function.pool.data() + symbol.offset + std::size_t{lane} * symbol.width, &value,
                    symbol.width);
}

Result<Program> link(std::span<const Module> modules) {
    return Linker(modules).run();
}

std::span<const Kernel> Program::kernels() const {
    return impl_->kernels;
}
std::span<const Variable> Program::variables() const {
    return impl_->variables;
}

const Kernel* Program::find_kernel(std::string_view name) const {
    for (const Kernel& kernel : impl_->kernels)
        if (kernel.name == name) return &kernel;
    return nullptr;
}

std::optional<std::size_t> Program::find_variable(std::string_view name) const {
    for (std::size_t i = 0; i < impl_->variables.size(); ++i)
        if (impl_->variables[i].name == name && impl_->variables[i].visible) return i;
    for (std::size_t i = 0; i < impl_->variables.size(); ++i)
        if (impl_->variables[i].name == name) return i;
    return std::nullopt;
}

void Program::bind(std::size_t variable, std::uint64_t address) {
    impl_->linked_variables.at(variable).address = address;
    for (const ProgramImpl::PoolPlace& use : impl_->uses[variable]) {
        FunctionCode& function = impl_->functions[use.function];
        impl_->fill(function, function.pool_symbols[use.symbol], address);
    }
}

std::vector<std::byte> Program::image(std::size_t index) const {
    const LinkedVariable& variable = impl_->linked_variables.at(index);
    std::vector<std::byte> bytes = variable.source.bytes;
    bytes.resize(variable.source.size);
    const ProgramImpl::Names& names = impl_->names[variable.module];
    for (const syntax::Relocation& each : variable.source.relocations) {
        std::uint64_t value = static_cast<std::uint64_t>(each.addend);
        if (const auto found = names.variables.find(each.symbol); found != names.variables.end())
            value += impl_->linked_variables[found->second].address;
        else if (const auto function = names.functions.find(each.symbol);
                 function != names.functions.end())
            value += code_address(function->second);
        value >>= each.shift;
        if (each.offset + each.size <= bytes.size())
            std::memcpy(bytes.data() + each.offset, &value, std::min(each.size, 8U));
    }
    return bytes;
}

std::uint64_t Program::function_address(std::string_view name) const {
    const auto found = impl_->exported.functions.find(std::string(name));
    return found == impl_->exported.functions.end() ? 0 : code_address(found->second);
}

RunResult Program::run(const Kernel& kernel, const LaunchConfig& launch,
                       std::span<const std::byte> params, const Environment& environment) const {
    return run_grid(*impl_, kernel, launch, params, environment);
}

}  // namespace carrel::softgpu::ptx
