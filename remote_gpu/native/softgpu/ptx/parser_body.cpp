#include <bit>

#include "softgpu/ptx/parser.hpp"

namespace carrel::softgpu::ptx {
namespace {

constexpr std::size_t kMaxRegisters = std::size_t{1} << 20;

}  // namespace

using syntax::Operand;

std::uint32_t Parser::add_register(Type type) {
    if (function_->registers.size() >= kMaxRegisters) fail("Too many registers");
    function_->registers.push_back({type});
    return static_cast<std::uint32_t>(function_->registers.size() - 1);
}

// Looks outwards through the scopes; `storage` holds the answer where it is one of a range such as
// %r<20>.
const Parser::Name* Parser::find(std::string_view name, Name& storage) const {
    std::size_t digits = name.size();
    while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') --digits;
    const std::string_view prefix = name.substr(0, digits);
    const std::string_view number = name.substr(digits);
    std::uint64_t index = 0;
    const bool canonical =
        !number.empty() && number.size() < 9 && (number == "0" || number[0] != '0');
    for (const char c : number.substr(0, 9)) index = index * 10 + static_cast<unsigned>(c - '0');
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        if (const auto found = scope->names.find(name); found != scope->names.end())
            return &found->second;
        if (!canonical) continue;
        for (const RegisterRange& range : scope->ranges) {
            if (range.prefix == prefix && index < range.count) {
                storage = {NameKind::reg, range.first + static_cast<std::uint32_t>(index)};
                return &storage;
            }
        }
    }
    return nullptr;
}

void Parser::body() {
    const std::size_t outer = scopes_.size();
    const auto open = [this] {
        Scope scope;
        scope.id = static_cast<std::uint32_t>(function_->scope_parents.size());
        function_->scope_parents.push_back(scopes_.back().id);
        scopes_.push_back(std::move(scope));
    };
    expect('{');
    open();
    while (scopes_.size() > outer) {
        if (token_.kind == TokenKind::end) fail("Parsing error: missing '}' at end of file");
        if (accept('{')) {
            if (scopes_.size() > 200) fail("Scopes are nested too deeply");
            open();
        } else if (accept('}')) {
            scopes_.pop_back();
        } else {
            statement();
        }
    }
}

void Parser::statement() {
    if (accept(';')) return;
    if (token_.kind == TokenKind::dotted) return body_directive();
    if (token_.is('@')) return instruction();
    if (token_.kind != TokenKind::word)
        fail("Parsing error near '" + std::string(token_.text) + "': syntax error");
    instruction();
}

void Parser::register_declaration() {
    unsigned vector = 1;
    Type type = Type::none;
    while (token_.kind == TokenKind::dotted) {
        const std::string_view word = take().text;
        if (word == "v2" || word == "v4") {
            vector = word == "v2" ? 2 : 4;
        } else if (const auto named = type_named(word)) {
            type = *named;
        } else {
            fail("Parsing error near '." + std::string(word) + "': unknown type");
        }
    }
    if (type == Type::none) fail("Parsing error: .reg needs a type");
    do {
        const Token name = take();
        if (name.kind != TokenKind::word)
            fail("Parsing error near '" + std::string(name.text) + "': expected a register name");
        Scope& scope = scopes_.back();
        if (accept('<')) {
            const std::int64_t count = constant();
            expect('>');
            if (count < 0 || count > static_cast<std::int64_t>(kMaxRegisters))
                fail("Invalid number of registers");
            const auto first = static_cast<std::uint32_t>(function_->registers.size());
            for (std::int64_t i = 0; i < count; ++i) add_register(type);
            scope.ranges.push_back({name.text, static_cast<std::uint32_t>(count), first});
        } else {
            if (scope.names.contains(name.text))
                fail("Duplicate definition of '" + std::string(name.text) + "'");
            const std::uint32_t first = add_register(type);
            for (unsigned i = 1; i < vector; ++i) add_register(type);  // .y, .z, .w follow .x
            scope.names[name.text] = {NameKind::reg, first};
        }
    } while (accept(','));
    expect(';');
}

void Parser::body_directive() {
    if (skip_debug_directive()) return;
    if (accept_dotted("reg")) return register_declaration();
    if (token_.text == "maxnreg" || token_.text == "maxntid" || token_.text == "minnctapersm")
        return function_directives();
    StateSpace space = StateSpace::none;
    if (token_.text == "local") space = StateSpace::local;
    if (token_.text == "shared") space = StateSpace::shared;
    if (token_.text == "param") space = StateSpace::param;
    if (token_.text == "global") space = StateSpace::global;
    if (token_.text == "const") space = StateSpace::constant;
    syntax::Linkage link = syntax::Linkage::internal;
    if (space == StateSpace::none) {
        link = linkage();
        if (!accept_dotted("shared"))
            fail("Parsing error near '." + std::string(token_.text) + "': syntax error");
        space = StateSpace::shared;
    } else {
        take();
    }
    for (syntax::Variable& variable : declare_variables(space, link)) {
        // The name's characters live in the text as long as the scope does, except for ranges
        // (a<4>).
        function_->variables.push_back(std::move(variable));
        const auto index = static_cast<std::uint32_t>(function_->variables.size() - 1);
        owned_names_.push_back(std::make_unique<std::string>(function_->variables[index].name));
        scopes_.back().names[*owned_names_.back()] = {NameKind::variable, index};
    }
}

void Parser::label(std::string_view name) {
    syntax::Label label;
    label.name = name;
    label.scope = scopes_.back().id;
    label.target = static_cast<std::uint32_t>(function_->instructions.size());
    if (token_.is_dotted("branchtargets")) {
        take();
        label.is_table = true;
        do {
            label.targets.push_back(expect_word("a label"));
        } while (accept(','));
        expect(';');
    } else if (token_.is_dotted("callprototype") || token_.is_dotted("calltargets")) {
        skip_past(';');
        label.is_table = true;
    }
    for (const syntax::Label& other : function_->labels)
        if (other.scope == label.scope && other.name == name)
            fail("Duplicate definition of label '" + std::string(name) + "'");
    function_->labels.push_back(std::move(label));
}

void Parser::instruction() {
    syntax::Instruction result;
    result.line = token_.line;
    if (accept('@')) {
        if (token_.is('@')) return skip_to_line_end(token_.line);
        result.guard_negated = accept('!');
        const std::string_view name = expect_word("a predicate");
        Name storage{};
        const Name* found = find(name, storage);
        if (found == nullptr) fail("Unknown symbol '" + std::string(name) + "'");
        if (found->kind != NameKind::reg || function_->registers[found->index].type != Type::pred)
            fail("'" + std::string(name) + "' is not a predicate");
        result.guard = found->index;
    }
    const Token opcode = take();
    if (opcode.kind != TokenKind::word)
        fail("Parsing error near '" + std::string(opcode.text) + "': syntax error");
    result.opcode = opcode.text;
    in_call_ = opcode.text == "call";  // elsewhere parentheses are constant expressions
    if (token_.is(':') && result.guard == syntax::kNoIndex) {
        take();
        return label(opcode.text);
    }
    while (token_.kind == TokenKind::dotted) result.modifiers.push_back(take().text);
    if (!token_.is(';')) {
        do {
            result.operands.push_back(operand());
        } while (accept(','));
    }
    expect(';');
    function_->instructions.push_back(std::move(result));
}

Operand Parser::operand() {
    Operand first = primary();
    if (!accept('|')) return first;
    Operand pair;
    pair.kind = Operand::Kind::pair;
    pair.elements.push_back(std::move(first));
    pair.elements.push_back(primary());
    return pair;
}

void Parser::optional_offset(Operand& operand) {
    while (token_.is('+') || token_.is('-')) {
        const bool add = take().is('+');
        const std::int64_t value = constant_term();
        operand.value += add ? value : -value;
    }
}

Operand Parser::memory() {
    Operand result;
    result.kind = Operand::Kind::memory;
    if (token_.kind == TokenKind::word && !token_.is_word("WARP_SZ")) {
        const Token base = take();
        result.elements.push_back(named(base));
        optional_offset(result.elements.back());
        result.value = result.elements.back().value;
        result.elements.back().value = 0;
    } else {
        Operand base;
        base.kind = Operand::Kind::integer;
        result.value = constant();
        result.elements.push_back(base);
    }
    while (accept(',')) result.elements.push_back(primary());  // textures and tensors
    expect(']');
    return result;
}

Operand Parser::named(const Token& token) {
    Operand result;
    result.name = token.text;
    result.scope = scopes_.back().id;
    Name storage{};
    if (const Name* found = find(token.text, storage)) {
        result.index = found->index;
        switch (found->kind) {
            case NameKind::reg:
                result.kind = Operand::Kind::reg;
                break;
            case NameKind::variable:
                result.kind = Operand::Kind::variable;
                break;
            case NameKind::parameter:
                result.kind = Operand::Kind::parameter;
                break;
            case NameKind::result:
                result.kind = Operand::Kind::result;
                break;
        }
        if (result.kind == Operand::Kind::reg && token_.kind == TokenKind::dotted &&
            token_.text.size() == 1) {
            const std::size_t component = std::string_view("xyzw").find(take().text);
            if (component == std::string_view::npos) fail("Unknown vector component");
            result.index += static_cast<std::uint32_t>(component);
            if (result.index >= function_->registers.size()) fail("Unknown vector component");
        }
        return result;
    }
    if (token.text[0] == '%') {
        result.kind = Operand::Kind::special;
        if (token_.kind == TokenKind::dotted) {
            const Token component = take();
            const auto* end = component.text.data() + component.text.size();
            result.name = std::string_view(token.text.data(),
                                           static_cast<std::size_t>(end - token.text.data()));
        }
        return result;
    }
    result.kind = Operand::Kind::symbol;
    return result;
}

Operand Parser::primary() {
    const Nesting nesting(*this);
    Operand result;
    if (accept('!')) {
        result = primary();
        result.negated = !result.negated;
        return result;
    }
    if (token_.is('{') || (token_.is('(') && in_call_)) {
        const bool is_vector = take().is('{');
        result.kind = is_vector ? Operand::Kind::vector : Operand::Kind::list;
        const char close = is_vector ? '}' : ')';
        while (!token_.is(close)) {
            result.elements.push_back(operand());
            if (!accept(',')) break;
        }
        expect(close);
        return result;
    }
    if (accept('[')) return memory();
    if (token_.is_word("_")) {
        take();
        return result;
    }
    if (token_.kind == TokenKind::word && !token_.is_word("WARP_SZ")) {
        const Token name = take();
        result = named(name);
        if (result.kind != Operand::Kind::reg && result.kind != Operand::Kind::special)
            optional_offset(result);
        return result;
    }
    const bool negative = token_.is('-');
    if (negative) take();
    if (token_.kind == TokenKind::floating) {
        const Token number = take();
        result.kind = Operand::Kind::floating;
        result.float_size = number.float_size;
        result.bits = number.bits;
        if (negative) result.bits ^= std::uint64_t{1} << (number.float_size * 8 - 1);
        return result;
    }
    result.kind = Operand::Kind::integer;
    if (negative)
        result.value = static_cast<std::int64_t>(0 - static_cast<std::uint64_t>(constant_factor()));
    else
        result.value = constant();
    return result;
}

}  // namespace carrel::softgpu::ptx
