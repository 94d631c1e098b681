// From syntax to code: the frame around the instruction families. It resolves operands to places in
// the register frame, the constant pool or the special registers, and leaves it to the families to
// choose handlers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "softgpu/ptx/code.hpp"
#include "softgpu/ptx/lexer.hpp"
#include "softgpu/ptx/registers.hpp"
#include "softgpu/ptx/syntax.hpp"

namespace carrel::softgpu::ptx {

/// A shared variable of a module or of one of its functions.
struct SharedVariable {
    std::string name;
    std::size_t size = 0;
    std::size_t align = 1;
    bool dynamic = false;  // extern or unsized: the launch's dynamic shared memory
};

/// What decoding a function needs to know of its module.
struct ModuleNames {
    std::unordered_map<std::string, std::uint32_t> shared;  // module-level shared variables
    std::unordered_map<std::string, StateSpace> variables;  // module-level .global and .const
    std::unordered_map<std::string, bool> functions;
};

class Decoder {
  public:
    /// Without a plan every register has a place of its own.
    Decoder(const syntax::Function& function, const ModuleNames& names,
            std::vector<SharedVariable>& shared, const RegisterPlan* plan);
    /// Decodes the whole function. Throws SyntaxError.
    FunctionCode run();
    /// After `run`: what each instruction read and wrote.
    const std::vector<std::vector<Touch>>& touches() const { return touches_; }

    // --- for the families, about the instruction at hand ---
    const syntax::Instruction& in() const { return *in_; }
    std::string_view opcode() const { return in_->opcode; }
    bool has(std::string_view modifier) const { return in_->has(modifier); }
    /// The i-th modifier that names a type; fails where there is none.
    Type type(unsigned i = 0) const;
    unsigned types() const { return static_cast<unsigned>(types_.size()); }
    /// Whether all types named have 32 or 64 bits, as most instructions on bits require.
    bool word_or_more() const;
    std::size_t operands() const { return in_->operands.size(); }
    const syntax::Operand& operand(std::size_t i) const;
    void need(std::size_t at_least, std::size_t at_most = 0) const;
    [[noreturn]] void fail(const std::string& message) const;
    [[noreturn]] void unsupported() const;

    Inst inst;  // the instruction being built; emitted when the family returns

    /// Places of operand values. Immediates go to the pool in the given type; registers of another
    /// width are converted.
    std::uint32_t source(const syntax::Operand& operand, Type type);
    std::uint32_t source(std::size_t i, Type type) { return source(operand(i), type); }
    std::uint32_t dest(const syntax::Operand& operand, Type type);
    std::uint32_t dest(std::size_t i, Type type) { return dest(operand(i), type); }
    std::uint32_t predicate_source(std::size_t i, std::uint8_t negate_flag);
    std::uint32_t predicate_dest(const syntax::Operand& operand);
    bool is_predicate(const syntax::Operand& operand) const;
    Type register_type(const syntax::Operand& operand) const;
    /// A new register that the program does not name.
    std::uint32_t temporary(unsigned width);
    std::uint32_t constant(std::uint64_t low, unsigned width, std::uint64_t high = 0);
    std::uint32_t predicate_constant(bool value);
    /// Emits an instruction before the one at hand, under the same guard.
    void emit_before(Inst extra);
    void emit_after(Inst extra) { after_.push_back(extra); }
    /// Sets inst.a, inst.imm and kAddress32 from a memory operand; returns its state space if the
    /// operand names one.
    StateSpace address(const syntax::Operand& operand, StateSpace space);
    /// Where a .param variable of the body, a formal or a result lives in parameter memory.
    std::uint32_t param_place(const syntax::Operand& operand) const;
    Transfer transfer(const syntax::Operand& operand, bool is_result);
    bool is_function(const std::string& name) const { return names_.functions.contains(name); }
    std::uint32_t label_target(const syntax::Operand& operand) const;
    const syntax::Function& function() const { return function_; }
    FunctionCode& code() { return code_; }

  private:
    struct Temporaries {
        std::vector<std::uint32_t> places;
        std::size_t used = 0;
    };
    void declare_variables();
    std::uint32_t new_place(unsigned width);
    void layout_parameters();
    void decode_one(const syntax::Instruction& instruction);
    std::uint32_t slot(std::uint32_t reg, bool write);
    std::uint32_t symbol_address(const syntax::Operand& operand, Type type);
    std::uint32_t shared_address(std::uint32_t shared, std::int64_t addend, unsigned width);
    std::uint32_t special(std::string_view name, Type type);
    std::uint32_t resized(std::uint32_t place, unsigned from, unsigned to, bool sign);
    void finish_branches();

    const syntax::Function& function_;
    const ModuleNames& names_;
    std::vector<SharedVariable>& shared_;
    FunctionCode code_;
    const syntax::Instruction* in_ = nullptr;
    std::vector<Type> types_;
    std::vector<Inst> after_;
    const RegisterPlan* plan_;
    std::map<std::pair<unsigned, std::uint32_t>, std::uint32_t> slots_;  // by width and number
    std::map<unsigned, Temporaries> temporaries_;                        // by width
    std::vector<std::vector<Touch>> touches_;
    std::vector<std::uint32_t>
        variable_places_;  // by variable: local offset, param offset, shared index
    std::vector<std::uint32_t> parameter_places_;
    std::vector<std::uint32_t> result_places_;
    std::vector<std::uint32_t> starts_;  // first Inst of every syntax instruction, and the end
    std::map<std::pair<unsigned, std::pair<std::uint64_t, std::uint64_t>>, std::uint32_t>
        constants_;
    std::uint32_t predicates_used_ = 0;
    std::uint32_t predicate_chunk_ = 0;
};

/// Decodes a function with its registers packed. Throws SyntaxError.
FunctionCode decode(const syntax::Function& function, const ModuleNames& names,
                    std::vector<SharedVariable>& shared);

// The families: each returns false if the opcode is not one of its own.
bool decode_integer(Decoder& d);
bool decode_bits(Decoder& d);
bool decode_float(Decoder& d);
bool decode_half(Decoder& d);
bool decode_compare(Decoder& d);
bool decode_convert(Decoder& d);
bool decode_move(Decoder& d);
bool decode_memory(Decoder& d);
bool decode_atomic(Decoder& d);
bool decode_control(Decoder& d);
bool decode_warp(Decoder& d);
bool decode_matrix(Decoder& d);
bool decode_mbarrier(Decoder& d);

// Handlers that the frame itself needs.
void read_clock32(Warp& w, const Inst& in, std::uint32_t mask);
void read_clock_hi(Warp& w, const Inst& in, std::uint32_t mask);
void read_clock64(Warp& w, const Inst& in, std::uint32_t mask);
void read_globaltimer(Warp& w, const Inst& in, std::uint32_t mask);
void read_globaltimer_lo(Warp& w, const Inst& in, std::uint32_t mask);
void read_globaltimer_hi(Warp& w, const Inst& in, std::uint32_t mask);
void local_address32(Warp& w, const Inst& in, std::uint32_t mask);
void local_address64(Warp& w, const Inst& in, std::uint32_t mask);
void branch_indexed(Warp& w, const Inst& in, std::uint32_t mask);
void return_lanes(Warp& w, const Inst& in, std::uint32_t mask);

/// Copies 32 lanes from one width to another (2, 4, 8 or 16 bytes), extending by sign or zero, or
/// cutting.
Handler resize_handler(unsigned from, unsigned to, bool sign);

}  // namespace carrel::softgpu::ptx
