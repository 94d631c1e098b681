// What the parser makes of a text: declarations and instructions with registers, variables and
// labels resolved, but opcodes still words. Views point into the text that was parsed and live no
// longer than it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "softgpu/ptx/types.hpp"

namespace carrel::softgpu::ptx::syntax {

enum class Linkage : std::uint8_t { internal, visible, external, weak, common };

/// "At `offset` of the initial bytes stands the address of `symbol` plus `addend`."
struct Relocation {
    std::size_t offset = 0;
    std::string symbol;
    std::int64_t addend = 0;
    unsigned size = 8;   // bytes written
    unsigned shift = 0;  // bits the address is shifted right by first (mask() operator)
};

struct Variable {
    std::string name;
    StateSpace space = StateSpace::none;
    Type type = Type::none;
    Linkage linkage = Linkage::internal;
    std::size_t align = 1;
    std::size_t size = 0;  // bytes; 0 for `[]` without initialiser
    bool is_array = false;
    bool managed = false;          // .attribute(.managed)
    std::vector<std::byte> bytes;  // empty or `size` long
    std::vector<Relocation> relocations;
    unsigned line = 0;
};

struct Register {
    Type type = Type::none;
};

inline constexpr std::uint32_t kNoIndex = UINT32_MAX;

struct Operand {
    enum class Kind : std::uint8_t {
        reg,        // index: into Function::registers
        special,    // name: "%tid.x"
        integer,    // value
        floating,   // bits/float_size
        variable,   // index: into Function::variables; value: byte offset
        parameter,  // index: into Function::parameters; value: byte offset
        result,     // index: into Function::results; value: byte offset
        symbol,     // name: of the module, or a label; value: byte offset; scope: of the use
        memory,     // elements[0]: base; value: byte offset
        vector,     // elements
        list,       // elements: ( … ) of a call
        pair,       // elements: p|q
        sink,       // _
    };
    Kind kind = Kind::sink;
    bool negated = false;  // !p
    std::uint32_t index = kNoIndex;
    std::uint32_t scope = 0;
    std::int64_t value = 0;
    std::uint64_t bits = 0;
    unsigned float_size = 0;
    std::string_view name;
    std::vector<Operand> elements;
};

struct Instruction {
    unsigned line = 0;
    std::uint32_t guard = kNoIndex;  // predicate register
    bool guard_negated = false;
    std::string_view opcode;
    std::vector<std::string_view> modifiers;
    std::vector<Operand> operands;

    [[nodiscard]] bool has(std::string_view modifier) const {
        for (const std::string_view each : modifiers)
            if (each == modifier) return true;
        return false;
    }
};

struct Label {
    std::string_view name;
    std::uint32_t scope = 0;
    std::uint32_t target = 0;               // instruction index
    std::vector<std::string_view> targets;  // of .branchtargets
    bool is_table = false;
};

struct Function {
    std::string name;
    bool is_entry = false;
    bool has_body = false;
    Linkage linkage = Linkage::internal;
    unsigned line = 0;
    std::vector<Variable> parameters;
    std::vector<Variable> results;
    std::vector<Register> registers;
    std::vector<std::uint32_t> parameter_registers;  // kNoIndex where the parameter is memory
    std::vector<std::uint32_t> result_registers;
    std::vector<Variable> variables;  // .local, .shared and .param of the body
    std::vector<Instruction> instructions;
    std::vector<Label> labels;
    std::vector<std::uint32_t> scope_parents;  // [scope] -> enclosing scope; [0] = 0
    std::array<unsigned, 3> max_block{0, 0, 0};
    std::array<unsigned, 3> required_block{0, 0, 0};
    unsigned min_blocks = 0;
    unsigned max_registers = 0;

    /// The label a name means when used inside `scope`; nullptr if there is none.
    [[nodiscard]] const Label* find_label(std::string_view name, std::uint32_t scope) const {
        for (;; scope = scope_parents[scope]) {
            for (const Label& label : labels)
                if (label.scope == scope && label.name == name) return &label;
            if (scope == 0) return nullptr;
        }
    }
};

struct Alias {
    std::string name;
    std::string target;
};

struct Module {
    unsigned version = 0;  // 10 × major + minor
    unsigned target = 0;
    unsigned address_size = 64;
    std::vector<Variable> variables;
    std::vector<Function> functions;
    std::vector<Alias> aliases;
};

}  // namespace carrel::softgpu::ptx::syntax
