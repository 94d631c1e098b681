#include "softgpu/ptx/decoder.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;
using Kind = Operand::Kind;

namespace {

constexpr std::size_t kMaxLocalBytes = std::size_t{512} << 10;
constexpr unsigned kReservedRegisters = 6;  // what ptxas spends on addresses and the stack pointer
constexpr std::uint32_t kPredicatesPerChunk = 16;  // one 64-byte line of the frame

std::uint64_t align_up(std::uint64_t value, std::uint64_t align) {
    return (value + align - 1) / align * align;
}

template <class From, class To>
struct Resize {
    CARREL_INLINE To apply(From value) { return static_cast<To>(value); }
};

template <class U, class S>
Handler resize_from(unsigned to, bool sign) {
    switch (to) {
        case 2:
            return map1<std::uint16_t, U, Resize<U, std::uint16_t>>();
        case 4:
            return sign ? map1<std::uint32_t, S, Resize<S, std::uint32_t>>()
                        : map1<std::uint32_t, U, Resize<U, std::uint32_t>>();
        case 8:
            return sign ? map1<std::uint64_t, S, Resize<S, std::uint64_t>>()
                        : map1<std::uint64_t, U, Resize<U, std::uint64_t>>();
        default:
            return map1<unsigned __int128, U, Resize<U, unsigned __int128>>();
    }
}

}  // namespace

Handler resize_handler(unsigned from, unsigned to, bool sign) {
    switch (from) {
        case 2:
            return resize_from<std::uint16_t, std::int16_t>(to, sign);
        case 4:
            return resize_from<std::uint32_t, std::int32_t>(to, sign);
        case 8:
            return resize_from<std::uint64_t, std::int64_t>(to, sign);
        default:
            return resize_from<unsigned __int128, __int128>(to, sign);
    }
}

Decoder::Decoder(const syntax::Function& function, const ModuleNames& names,
                 std::vector<SharedVariable>& shared, const RegisterPlan* plan)
    : function_(function), names_(names), shared_(shared), plan_(plan) {}

FunctionCode decode(const syntax::Function& function, const ModuleNames& names,
                    std::vector<SharedVariable>& shared) {
    // Once to learn which registers each instruction touches, once more with places that they
    // share.
    std::vector<SharedVariable> discarded = shared;
    Decoder trial(function, names, discarded, nullptr);
    (void)trial.run();
    const RegisterPlan plan = plan_registers(function, trial.touches());
    return Decoder(function, names, shared, &plan).run();
}

void Decoder::fail(const std::string& message) const {
    throw SyntaxError(in_ != nullptr ? in_->line : function_.line, message);
}

void Decoder::unsupported() const {
    std::string text(in_->opcode);
    for (const std::string_view modifier : in_->modifiers) text += "." + std::string(modifier);
    fail("Unsupported or malformed instruction '" + text + "'");
}

Type Decoder::type(unsigned i) const {
    if (i >= types_.size()) unsupported();
    return types_[i];
}

bool Decoder::word_or_more() const {
    return std::all_of(types_.begin(), types_.end(),
                       [](Type each) { return width_of(each) == 4 || width_of(each) == 8; });
}

const Operand& Decoder::operand(std::size_t i) const {
    if (i >= in_->operands.size())
        fail("Too few arguments for instruction '" + std::string(in_->opcode) + "'");
    return in_->operands[i];
}

void Decoder::need(std::size_t at_least, std::size_t at_most) const {
    if (in_->operands.size() < at_least || in_->operands.size() > std::max(at_least, at_most))
        fail("Arguments mismatch for instruction '" + std::string(in_->opcode) + "'");
}

void Decoder::layout_parameters() {
    const auto place = [this](const std::vector<syntax::Variable>& formals,
                              const std::vector<std::uint32_t>& registers,
                              std::vector<std::uint32_t>& places, std::uint64_t& at) {
        for (std::size_t i = 0; i < formals.size(); ++i) {
            const syntax::Variable& formal = formals[i];
            if (i < registers.size() && registers[i] != syntax::kNoIndex) {
                places.push_back(kNoOperand);
                continue;
            }
            at = align_up(at, formal.align);
            places.push_back(static_cast<std::uint32_t>(at));
            at += formal.size;
            if (at > (1U << 20)) fail("Parameters are too large");
        }
    };
    std::uint64_t at = 0;
    place(function_.parameters, function_.parameter_registers, parameter_places_, at);
    if (function_.is_entry) {
        for (std::size_t i = 0; i < function_.parameters.size(); ++i)
            code_.parameters.push_back({false, false, parameter_places_[i],
                                        static_cast<std::uint32_t>(function_.parameters[i].size)});
        at = 0;  // those are in the launch's buffer, not in the frame
    }
    place(function_.results, function_.result_registers, result_places_, at);
    code_.param_bytes = static_cast<std::uint32_t>(at);
    const auto formals = [this](const std::vector<syntax::Variable>& declared,
                                const std::vector<std::uint32_t>& registers,
                                const std::vector<std::uint32_t>& places,
                                std::vector<Transfer>& out) {
        for (std::size_t i = 0; i < declared.size(); ++i) {
            if (places[i] != kNoOperand) {
                out.push_back(
                    {false, false, places[i], static_cast<std::uint32_t>(declared[i].size)});
                continue;
            }
            const bool predicate = declared[i].type == Type::pred;
            out.push_back({true, predicate, slot(registers[i], true),
                           predicate ? 4 : width_of(declared[i].type)});
        }
    };
    if (!function_.is_entry)
        formals(function_.parameters, function_.parameter_registers, parameter_places_,
                code_.parameters);
    formals(function_.results, function_.result_registers, result_places_, code_.results);
}

void Decoder::declare_variables() {
    std::uint64_t local = 0;
    std::uint64_t param = code_.param_bytes;
    for (const syntax::Variable& variable : function_.variables) {
        switch (variable.space) {
            case StateSpace::local:
                local = align_up(local, variable.align);
                variable_places_.push_back(static_cast<std::uint32_t>(local));
                local += variable.size;
                if (local > kMaxLocalBytes) fail("Too much local memory: more than 512 KiB");
                break;
            case StateSpace::param:
                param = align_up(param, variable.align);
                variable_places_.push_back(static_cast<std::uint32_t>(param));
                param += variable.size;
                if (param > (1U << 20)) fail("Parameters are too large");
                break;
            case StateSpace::shared:
                variable_places_.push_back(static_cast<std::uint32_t>(shared_.size()));
                shared_.push_back(
                    {variable.name, variable.size, variable.align,
                     variable.linkage == syntax::Linkage::external || variable.size == 0});
                break;
            default:
                throw SyntaxError(
                    variable.line,
                    "Variables of this state space must be declared outside functions");
        }
    }
    code_.local_bytes = static_cast<std::uint32_t>(align_up(local, 16));
    code_.param_bytes = static_cast<std::uint32_t>(align_up(param, 16));
}

// Temporaries live within one instruction of the text; the next one uses the same places again.
std::uint32_t Decoder::temporary(unsigned width) {
    Temporaries& all = temporaries_[width];
    if (all.used == all.places.size()) all.places.push_back(new_place(width));
    return all.places[all.used++];
}

std::uint32_t Decoder::new_place(unsigned width) {
    // Predicates (width 0) have 32 bits for all lanes together, in a line of their own.
    const std::uint32_t place = code_.frame_bytes;
    code_.frame_bytes += width == 0 ? 64 : width * kLanes;
    return place | kFrame;
}

std::uint32_t Decoder::slot(std::uint32_t reg, bool write) {
    if (!touches_.empty()) touches_.back().push_back({reg, write});
    const unsigned width = width_of(function_.registers[reg].type);
    const std::uint32_t number = plan_ == nullptr ? reg : plan_->places[reg];
    const auto [found, fresh] = slots_.try_emplace({width, number}, 0);
    if (fresh && width != 0) found->second = new_place(width);
    if (fresh && width == 0) {
        if (predicates_used_ % kPredicatesPerChunk == 0) predicate_chunk_ = new_place(0);
        found->second = predicate_chunk_ + predicates_used_++ % kPredicatesPerChunk * 4;
    }
    return found->second;
}

std::uint32_t Decoder::constant(std::uint64_t low, unsigned width, std::uint64_t high) {
    if (width < 8) low &= (std::uint64_t{1} << (width * 8)) - 1;
    const auto key = std::make_pair(width, std::make_pair(low, high));
    const auto [found, fresh] = constants_.try_emplace(key, 0);
    if (!fresh) return found->second;
    const std::size_t at = code_.pool.size();
    code_.pool.resize(at + std::size_t{width} * kLanes);
    const std::uint64_t words[2] = {low, high};
    for (unsigned lane = 0; lane < kLanes; ++lane)
        std::memcpy(code_.pool.data() + at + lane * width, words, width);
    return found->second = static_cast<std::uint32_t>(at) | kPool;
}

std::uint32_t Decoder::predicate_constant(bool value) {
    return constant(value ? ~std::uint64_t{0} : 0, 4);
}

void Decoder::emit_before(Inst extra) {
    extra.guard = inst.guard;
    extra.guard_negated = inst.guard_negated;
    extra.line = inst.line;
    code_.code.push_back(extra);
}

std::uint32_t Decoder::resized(std::uint32_t place, unsigned from, unsigned to, bool sign) {
    if (from == to) return place;
    Inst copy;
    copy.run = resize_handler(from, to, sign);
    copy.a = place;
    copy.d = temporary(to);
    emit_before(copy);
    return copy.d;
}

bool Decoder::is_predicate(const Operand& operand) const {
    return operand.kind == Kind::reg && function_.registers[operand.index].type == Type::pred;
}

Type Decoder::register_type(const Operand& operand) const {
    return operand.kind == Kind::reg ? function_.registers[operand.index].type : Type::none;
}

std::uint32_t Decoder::predicate_source(std::size_t i, std::uint8_t negate_flag) {
    const Operand& from = operand(i);
    if (from.negated) inst.flags |= negate_flag;
    if (from.kind == Kind::integer) return predicate_constant(from.value != 0);
    if (!is_predicate(from)) fail("Argument " + std::to_string(i) + " must be a predicate");
    return slot(from.index, false);
}

std::uint32_t Decoder::predicate_dest(const Operand& to) {
    if (to.kind == Kind::sink) return temporary(0);
    if (!is_predicate(to)) fail("The destination must be a predicate");
    return slot(to.index, true);
}

std::uint32_t Decoder::shared_address(std::uint32_t shared, std::int64_t addend, unsigned width) {
    if (std::find(code_.shared_uses.begin(), code_.shared_uses.end(), shared) ==
        code_.shared_uses.end())
        code_.shared_uses.push_back(shared);
    if (shared_[shared].dynamic) {
        const std::uint32_t base =
            special_operand(width == 8 ? kDynamicShared64 : kDynamicShared32);
        if (addend == 0) return base;
        struct Add32 {
            CARREL_INLINE std::uint32_t apply(std::uint32_t a, std::uint32_t b) { return a + b; }
        };
        struct Add64 {
            CARREL_INLINE std::uint64_t apply(std::uint64_t a, std::uint64_t b) { return a + b; }
        };
        Inst add;
        add.run = width == 8 ? map2<std::uint64_t, std::uint64_t, std::uint64_t, Add64>()
                             : map2<std::uint32_t, std::uint32_t, std::uint32_t, Add32>();
        add.a = base;
        add.b = constant(static_cast<std::uint64_t>(addend), width);
        add.d = temporary(width);
        emit_before(add);
        return add.d;
    }
    PoolSymbol symbol;
    symbol.kind = PoolSymbol::Kind::shared;
    symbol.offset = code_.pool.size();
    symbol.width = width;
    symbol.shared = shared;
    symbol.addend = addend;
    code_.pool.resize(code_.pool.size() + std::size_t{width} * kLanes);
    code_.pool_symbols.push_back(symbol);
    return static_cast<std::uint32_t>(symbol.offset) | kPool;
}

std::uint32_t Decoder::symbol_address(const Operand& from, Type type) {
    const unsigned width = width_of(type);
    if (width != 4 && width != 8) fail("An address needs a 32-bit or 64-bit register");
    const auto value = static_cast<std::uint64_t>(from.value);
    if (from.kind == Kind::parameter)
        return constant((function_.is_entry ? kParamWindow : kFrameParamWindow) +
                            parameter_places_[from.index] + value,
                        width);
    if (from.kind == Kind::result)
        return constant(kFrameParamWindow + result_places_[from.index] + value, width);
    if (from.kind == Kind::variable) {
        const syntax::Variable& variable = function_.variables[from.index];
        const std::uint32_t place = variable_places_[from.index];
        if (variable.space == StateSpace::param)
            return constant(kFrameParamWindow + place + value, width);
        if (variable.space == StateSpace::shared) return shared_address(place, from.value, width);
        // Where the frame's local memory starts is known only when it runs.
        Inst add;
        add.run = width == 8 ? &local_address64 : &local_address32;
        add.imm = static_cast<std::int64_t>(place + value);
        add.d = temporary(width);
        emit_before(add);
        return add.d;
    }
    const std::string name(from.name);
    if (const auto found = names_.shared.find(name); found != names_.shared.end())
        return shared_address(found->second, from.value, width);
    if (!names_.variables.contains(name) && !names_.functions.contains(name))
        fail("Unknown symbol '" + name + "'");
    for (const PoolSymbol& known : code_.pool_symbols)
        if (known.kind == PoolSymbol::Kind::named && known.name == name && known.width == width &&
            known.addend == from.value)
            return static_cast<std::uint32_t>(known.offset) | kPool;
    PoolSymbol symbol;
    symbol.offset = code_.pool.size();
    symbol.width = width;
    symbol.name = name;
    symbol.addend = from.value;
    code_.pool.resize(code_.pool.size() + std::size_t{width} * kLanes);
    code_.pool_symbols.push_back(symbol);
    return static_cast<std::uint32_t>(symbol.offset) | kPool;
}

std::uint32_t Decoder::source(const Operand& from, Type type) {
    const unsigned width = width_of(type);
    switch (from.kind) {
        case Kind::reg: {
            const Type own = function_.registers[from.index].type;
            if (own == Type::pred) fail("A predicate cannot be used here");
            return resized(slot(from.index, false), width_of(own), width, is_signed(type));
        }
        case Kind::integer: {
            const auto value = static_cast<std::uint64_t>(from.value);
            if (type == Type::f32)
                return constant(std::bit_cast<std::uint32_t>(static_cast<float>(from.value)), 4);
            if (type == Type::f64)
                return constant(std::bit_cast<std::uint64_t>(static_cast<double>(from.value)), 8);
            return constant(value, width, from.value < 0 ? ~std::uint64_t{0} : 0);
        }
        case Kind::floating: {
            if (width == 4 && from.float_size == 8 && (type == Type::f32 || type == Type::b32)) {
                const auto narrow = static_cast<float>(std::bit_cast<double>(from.bits));
                return constant(std::bit_cast<std::uint32_t>(narrow), 4);
            }
            if (type == Type::f64 && from.float_size == 4) {
                const double wide = std::bit_cast<float>(static_cast<std::uint32_t>(from.bits));
                return constant(std::bit_cast<std::uint64_t>(wide), 8);
            }
            return constant(from.bits, width);
        }
        case Kind::special:
            return special(from.name, type);
        case Kind::symbol:
        case Kind::variable:
        case Kind::parameter:
        case Kind::result:
            return symbol_address(from, type);
        default:
            fail("This kind of argument cannot be used here");
    }
}

std::uint32_t Decoder::dest(const Operand& to, Type type) {
    const unsigned width = width_of(type);
    if (to.kind == Kind::sink) return temporary(width);
    if (to.kind != Kind::reg) fail("The destination must be a register");
    const Type own = function_.registers[to.index].type;
    if (own == Type::pred) fail("A predicate cannot be used here");
    const std::uint32_t place = slot(to.index, true);
    if (width_of(own) == width) return place;
    Inst copy;
    copy.run = resize_handler(width, width_of(own), is_signed(type));
    copy.a = temporary(width);
    copy.d = place;
    emit_after(copy);
    return copy.a;
}

StateSpace Decoder::address(const Operand& operand, StateSpace space) {
    if (operand.kind != Kind::memory || operand.elements.size() != 1)
        fail("Argument must be an address in brackets");
    const Operand& base = operand.elements[0];
    inst.imm = operand.value;
    StateSpace named = space;
    if (base.kind == Kind::reg && width_of(function_.registers[base.index].type) == 4) {
        inst.flags |= kAddress32;
        inst.a = source(base, Type::u32);
        return named;
    }
    if (base.kind == Kind::symbol) {
        const std::string name(base.name);
        if (names_.shared.contains(name)) named = StateSpace::shared;
    } else if (base.kind == Kind::variable) {
        named = function_.variables[base.index].space;
    } else if (base.kind == Kind::parameter || base.kind == Kind::result) {
        named = StateSpace::param;
    }
    inst.a = source(base, Type::u64);
    return space == StateSpace::generic ? named : space;
}

std::uint32_t Decoder::param_place(const Operand& operand) const {
    switch (operand.kind) {
        case Kind::parameter:
            return parameter_places_[operand.index];
        case Kind::result:
            return result_places_[operand.index];
        case Kind::variable:
            return variable_places_[operand.index];
        default:
            fail("Argument must be a .param variable");
    }
}

Transfer Decoder::transfer(const Operand& operand, bool is_result) {
    if (operand.kind == Kind::variable || operand.kind == Kind::parameter ||
        operand.kind == Kind::result) {
        const syntax::Variable& variable =
            operand.kind == Kind::variable    ? function_.variables[operand.index]
            : operand.kind == Kind::parameter ? function_.parameters[operand.index]
                                              : function_.results[operand.index];
        if (variable.space == StateSpace::param) {
            if (function_.is_entry && operand.kind == Kind::parameter)
                fail("A kernel's parameter cannot be passed on directly");
            return {false, false, param_place(operand), static_cast<std::uint32_t>(variable.size)};
        }
    }
    if (is_predicate(operand)) return {true, true, slot(operand.index, is_result), 4};
    if (operand.kind == Kind::reg) {
        const Type own = function_.registers[operand.index].type;
        return {true, false, is_result ? dest(operand, own) : source(operand, own), width_of(own)};
    }
    if (is_result) fail("A call's result must be a variable or register");
    const Type type =
        operand.kind == Kind::floating && operand.float_size == 4 ? Type::b32 : Type::b64;
    return {true, false, source(operand, type), width_of(type)};
}

std::uint32_t Decoder::label_target(const Operand& operand) const {
    if (operand.kind != Kind::symbol) fail("Argument must be a label");
    const syntax::Label* label = function_.find_label(operand.name, operand.scope);
    if (label == nullptr) fail("Unknown label '" + std::string(operand.name) + "'");
    return label->target;
}

void Decoder::decode_one(const syntax::Instruction& instruction) {
    in_ = &instruction;
    for (auto& each : temporaries_) each.second.used = 0;
    touches_.emplace_back();
    inst = Inst{};
    inst.line = instruction.line;
    if (instruction.guard != syntax::kNoIndex) {
        inst.guard = slot(instruction.guard, false);
        inst.guard_negated = instruction.guard_negated;
    }
    types_.clear();
    for (const std::string_view modifier : instruction.modifiers)
        if (const auto type = type_named(modifier)) types_.push_back(*type);
    after_.clear();
    static constexpr bool (*kFamilies[])(Decoder&) = {
        decode_move,    decode_integer,  decode_float,  decode_memory, decode_compare,
        decode_control, decode_convert,  decode_bits,   decode_half,   decode_atomic,
        decode_warp,    decode_mbarrier, decode_matrix,
    };
    for (const auto family : kFamilies) {
        if (!family(*this)) continue;
        if (inst.run != nullptr || inst.control != Control::plain) code_.code.push_back(inst);
        for (Inst extra : after_) emit_before(extra);
        return;
    }
    std::string text(instruction.opcode);
    for (const std::string_view modifier : instruction.modifiers)
        text += "." + std::string(modifier);
    fail("Unknown or unsupported instruction '" + text + "'");
}

void Decoder::finish_branches() {
    for (Inst& each : code_.code) {
        if (each.control == Control::branch) each.aux = starts_[each.aux];
        if (each.run == &branch_indexed) {
            const std::uint32_t count = code_.operands[each.aux];
            for (std::uint32_t i = 1; i <= count; ++i)
                code_.operands[each.aux + i] = starts_[code_.operands[each.aux + i]];
        }
    }
}

FunctionCode Decoder::run() {
    code_.name = function_.name;
    code_.is_entry = function_.is_entry;
    code_.linkage = function_.linkage;
    layout_parameters();
    declare_variables();
    for (const syntax::Instruction& instruction : function_.instructions) {
        starts_.push_back(static_cast<std::uint32_t>(code_.code.size()));
        decode_one(instruction);
    }
    starts_.push_back(static_cast<std::uint32_t>(code_.code.size()));
    in_ = nullptr;
    Inst end;  // falling off the end of a function returns from it
    end.control = Control::flow;
    end.run = &return_lanes;
    end.line = function_.instructions.empty() ? function_.line : function_.instructions.back().line;
    code_.code.push_back(end);
    finish_branches();
    code_.registers = plan_ == nullptr ? 0 : plan_->pressure + kReservedRegisters;
    return std::move(code_);
}

}  // namespace carrel::softgpu::ptx
