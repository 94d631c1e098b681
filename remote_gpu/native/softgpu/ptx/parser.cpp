#include "softgpu/ptx/parser.hpp"

#include <bit>
#include <cstring>
#include <optional>

namespace carrel::softgpu::ptx {
namespace {

constexpr std::size_t kMaxVariableBytes = std::size_t{1} << 32;

std::optional<StateSpace> space_named(std::string_view name) {
    if (name == "global") return StateSpace::global;
    if (name == "const") return StateSpace::constant;
    if (name == "shared") return StateSpace::shared;
    if (name == "local") return StateSpace::local;
    if (name == "param") return StateSpace::param;
    return std::nullopt;
}

unsigned parse_number(std::string_view text) {
    unsigned value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') break;
        value = value * 10 + static_cast<unsigned>(c - '0');
    }
    return value;
}

}  // namespace

Parser::Parser(std::string_view text) : lexer_(text), text_(text) {
    token_ = lexer_.next();
}

Token Parser::take() {
    const Token taken = token_;
    token_ = lexer_.next();
    return taken;
}

void Parser::fail(const std::string& message) const {
    throw SyntaxError(token_.line, message);
}

bool Parser::accept(char symbol) {
    if (!token_.is(symbol)) return false;
    take();
    return true;
}

bool Parser::accept_dotted(std::string_view name) {
    if (!token_.is_dotted(name)) return false;
    take();
    return true;
}

void Parser::expect(char symbol) {
    if (accept(symbol)) return;
    fail("Parsing error near '" + std::string(token_.text) + "': syntax error, expected '" +
         std::string(1, symbol) + "'");
}

std::string_view Parser::expect_word(const char* what) {
    if (token_.kind != TokenKind::word)
        fail("Parsing error near '" + std::string(token_.text) + "': syntax error, expected " +
             what);
    return take().text;
}

std::string_view Parser::expect_dotted(const char* what) {
    if (token_.kind != TokenKind::dotted)
        fail("Parsing error near '" + std::string(token_.text) + "': syntax error, expected " +
             what);
    return take().text;
}

void Parser::skip_to_line_end(unsigned line) {
    while (token_.kind != TokenKind::end && token_.line == line) take();
}

void Parser::skip_braces() {
    expect('{');
    for (unsigned depth = 1; depth > 0;) {
        if (token_.kind == TokenKind::end) fail("Parsing error: missing '}'");
        if (token_.is('{')) ++depth;
        if (token_.is('}')) --depth;
        take();
    }
}

void Parser::skip_past(char symbol) {
    while (!token_.is(symbol)) {
        if (token_.kind == TokenKind::end)
            fail("Parsing error: missing '" + std::string(1, symbol) + "'");
        take();
    }
    take();
}

syntax::Module Parser::run() {
    if (!token_.is_dotted("version")) fail("Missing .version directive at start of file");
    while (token_.kind != TokenKind::end) module_statement();
    if (module_.target == 0) fail("Missing .target directive");
    return std::move(module_);
}

void Parser::version_statement() {
    const Token number = take();
    const std::size_t dot = number.text.find('.');
    if (number.kind != TokenKind::floating || dot == std::string_view::npos)
        fail("Parsing error: .version expects a number such as 8.0");
    module_.version =
        parse_number(number.text.substr(0, dot)) * 10 + parse_number(number.text.substr(dot + 1));
    if (module_.version < 10 || module_.version >= 100)
        fail("Unsupported .version " + std::string(number.text));
}

void Parser::target_statement() {
    do {
        const std::string_view name = expect_word("a target");
        if (name.starts_with("sm_")) module_.target = parse_number(name.substr(3));
    } while (accept(','));
    if (module_.target == 0) fail(".target names no architecture such as sm_80");
}

bool Parser::skip_debug_directive() {
    if (token_.kind != TokenKind::dotted) return false;
    if (token_.text == "loc" || token_.text == "file") {
        skip_to_line_end(token_.line);
        return true;
    }
    if (token_.text == "section") {
        take();
        while (!token_.is('{') && token_.kind != TokenKind::end) take();
        skip_braces();
        return true;
    }
    if (token_.text == "pragma") {
        skip_past(';');
        return true;
    }
    return false;
}

syntax::Linkage Parser::linkage() {
    if (accept_dotted("extern")) return syntax::Linkage::external;
    if (accept_dotted("visible")) return syntax::Linkage::visible;
    if (accept_dotted("weak")) return syntax::Linkage::weak;
    if (accept_dotted("common")) return syntax::Linkage::common;
    return syntax::Linkage::internal;
}

void Parser::module_statement() {
    if (accept(';')) return;
    if (token_.is('@')) return skip_to_line_end(token_.line);  // @@DWARF of old compilers
    if (skip_debug_directive()) return;
    if (accept_dotted("version")) return version_statement();
    if (accept_dotted("target")) return target_statement();
    if (accept_dotted("address_size")) {
        module_.address_size = static_cast<unsigned>(take().integer);
        if (module_.address_size != 64) fail("Only .address_size 64 is supported");
        return;
    }
    if (accept_dotted("alias")) {
        const std::string_view name = expect_word("a function name");
        expect(',');
        const std::string_view target = expect_word("a function name");
        expect(';');
        module_.aliases.push_back({std::string(name), std::string(target)});
        return;
    }
    const syntax::Linkage link = linkage();
    if (accept_dotted("entry")) return function(true, link);
    if (accept_dotted("func")) return function(false, link);
    if (token_.kind == TokenKind::dotted) {
        if (const auto space = space_named(token_.text)) {
            take();
            for (syntax::Variable& variable : declare_variables(*space, link))
                module_.variables.push_back(std::move(variable));
            return;
        }
        if (token_.text == "tex") fail("Textures are not supported");
    }
    fail("Parsing error near '" + std::string(token_.text) + "': syntax error");
}

// After the state space: alignment, attributes, vector and element type, in any order.
syntax::Variable Parser::variable_head(StateSpace space) {
    syntax::Variable variable;
    variable.space = space;
    variable.line = token_.line;
    unsigned vector = 1;
    std::size_t align = 0;
    while (token_.kind == TokenKind::dotted) {
        const std::string_view word = take().text;
        if (word == "align") {
            align = static_cast<std::size_t>(constant());
            if (!std::has_single_bit(align) || align > 4096) fail("Invalid alignment");
        } else if (word == "v2" || word == "v4" || word == "v8") {
            vector = parse_number(word.substr(1));
        } else if (word == "attribute") {
            skip_past('(');
            for (unsigned depth = 1; depth > 0;) {
                if (token_.kind == TokenKind::end) fail("Parsing error: missing ')'");
                if (token_.is_dotted("managed")) variable.managed = true;
                if (token_.is('(')) ++depth;
                if (token_.is(')')) --depth;
                take();
            }
        } else if (word == "ptr") {
            // what a pointer parameter points to: only a hint
            while (token_.kind == TokenKind::dotted) {
                if (take().text == "align") constant();
            }
        } else if (word == "texref" || word == "samplerref" || word == "surfref") {
            variable.type = Type::b64;
        } else if (const auto type = type_named(word)) {
            variable.type = *type;
        } else {
            fail("Parsing error near '." + std::string(word) + "': unknown type");
        }
    }
    if (size_of(variable.type) == 0) fail("Parsing error: a variable needs a fundamental type");
    variable.align = align != 0 ? align : std::size_t{size_of(variable.type)} * vector;
    variable.size = std::size_t{size_of(variable.type)} * vector;
    return variable;
}

// After the name: dimensions and initial value. `variable.size` is that of one element so far.
void Parser::variable_shape(syntax::Variable& variable) {
    std::vector<std::size_t> dims;
    bool open = false;
    while (accept('[')) {
        variable.is_array = true;
        if (accept(']')) {
            open = true;
            dims.push_back(0);
            continue;
        }
        const std::int64_t extent = constant();
        if (extent < 0) fail("Array dimension must not be negative");
        dims.push_back(static_cast<std::size_t>(extent));
        expect(']');
    }
    std::size_t elements = 1;
    for (const std::size_t extent : dims) {
        if (extent != 0 && elements > kMaxVariableBytes / extent) fail("Variable is too large");
        elements *= extent;
    }
    const std::size_t element = variable.size;
    variable.size = element * elements;
    if (variable.size > kMaxVariableBytes) fail("Variable is too large");
    if (!accept('=')) return;
    if (open) variable.size = 0;
    variable_initialiser(variable, dims);
    if (variable.bytes.size() < variable.size) variable.bytes.resize(variable.size);
    if (open) variable.size = (variable.bytes.size() + element - 1) / element * element;
    variable.bytes.resize(variable.size);
}

void Parser::variable_initialiser(syntax::Variable& variable,
                                  const std::vector<std::size_t>& dims) {
    std::size_t at = 0;
    if (token_.is('{'))
        initialiser_list(variable, at, dims, 0);
    else
        initialiser_value(variable, at);
}

void Parser::initialiser_list(syntax::Variable& variable, std::size_t& at,
                              const std::vector<std::size_t>& dims, std::size_t depth) {
    const Nesting nesting(*this);
    const std::size_t start = at;
    expect('{');
    while (!token_.is('}')) {
        if (token_.is('{'))
            initialiser_list(variable, at, dims, depth + 1);
        else
            initialiser_value(variable, at);
        if (!accept(',')) break;
    }
    expect('}');
    if (depth == 0) return;
    std::size_t whole = size_of(variable.type);  // a short inner list leaves zeros behind it
    for (std::size_t i = depth; i < dims.size(); ++i) whole *= dims[i];
    if (depth < dims.size() && at < start + whole) at = start + whole;
}

void Parser::initialiser_value(syntax::Variable& variable, std::size_t& at) {
    const std::size_t size = size_of(variable.type);
    if (variable.size != 0 && at + size > variable.size) fail("Too many initializers");
    if (at + size > kMaxVariableBytes) fail("Variable is too large");
    if (variable.bytes.size() < at + size) variable.bytes.resize(at + size);
    std::uint64_t bits = 0;
    const bool negative = token_.is('-');
    syntax::Relocation relocation;
    relocation.offset = at;
    relocation.size = static_cast<unsigned>(size);
    const auto symbol = [&] {
        relocation.symbol = std::string(expect_word("a symbol"));
        if (relocation.symbol == "generic" && accept('(')) {
            relocation.symbol = std::string(expect_word("a symbol"));
            expect(')');
        }
        if (accept('[')) {  // symbol[3]: elements of bytes
            relocation.addend += constant();
            expect(']');
        }
        if (accept('+'))
            relocation.addend += constant_term();
        else if (accept('-'))
            relocation.addend -= constant_term();
        variable.relocations.push_back(relocation);
    };
    if (token_.kind == TokenKind::word) {
        symbol();
    } else if (token_.kind == TokenKind::floating || negative) {
        if (negative) take();
        if (token_.kind == TokenKind::floating) {
            const Token number = take();
            const double value = negative ? -number.floating : number.floating;
            if (variable.type == Type::f64 || (variable.type == Type::b64)) {
                bits = std::bit_cast<std::uint64_t>(value);
            } else if (number.float_size == 4 && !negative) {
                bits = number.bits;
            } else {
                bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
            }
        } else {
            bits = 0 - static_cast<std::uint64_t>(constant());
        }
    } else {
        bits = static_cast<std::uint64_t>(constant());
        if (accept('(')) {  // 0xff00(symbol): the byte of the address that the mask selects
            relocation.shift = bits == 0 ? 0 : static_cast<unsigned>(std::countr_zero(bits));
            symbol();
            expect(')');
            bits = 0;
        }
    }
    std::memcpy(variable.bytes.data() + at, &bits, std::min<std::size_t>(size, 8));
    at += size;
}

std::vector<syntax::Variable> Parser::declare_variables(StateSpace space, syntax::Linkage link) {
    syntax::Variable head = variable_head(space);
    head.linkage = link;
    std::vector<syntax::Variable> declared;
    do {
        syntax::Variable variable = head;
        const std::string_view name = expect_word("a variable name");
        variable.name = std::string(name);
        if (token_.is('<')) {  // .param .b32 a<4>: a0 … a3
            take();
            const std::int64_t count = constant();
            expect('>');
            if (count < 0 || count > 65536) fail("Invalid number of variables");
            for (std::int64_t i = 0; i < count; ++i) {
                declared.push_back(variable);
                declared.back().name += std::to_string(i);
            }
            continue;
        }
        variable_shape(variable);
        declared.push_back(std::move(variable));
    } while (accept(','));
    expect(';');
    return declared;
}

void Parser::formal_list(std::vector<syntax::Variable>& formals,
                         std::vector<std::uint32_t>& registers, NameKind kind) {
    expect('(');
    while (!token_.is(')')) {
        if (accept_dotted("reg")) {
            syntax::Variable formal = variable_head(StateSpace::reg);
            const std::string_view name = expect_word("a parameter name");
            formal.name = std::string(name);
            const std::uint32_t index = add_register(formal.type);
            scopes_.back().names[name] = {NameKind::reg, index};
            registers.push_back(index);
            formals.push_back(std::move(formal));
        } else {
            const std::string_view space = expect_dotted(".param or .reg");
            if (space != "param") fail("Parsing error near '." + std::string(space) + "'");
            syntax::Variable formal = variable_head(StateSpace::param);
            const std::string_view name = expect_word("a parameter name");
            formal.name = std::string(name);
            variable_shape(formal);
            scopes_.back().names[name] = {kind, static_cast<std::uint32_t>(formals.size())};
            registers.push_back(syntax::kNoIndex);
            formals.push_back(std::move(formal));
        }
        if (!accept(',')) break;
    }
    expect(')');
}

void Parser::function_directives() {
    const auto triple = [this] {
        std::array<unsigned, 3> values{1, 1, 1};
        for (unsigned& value : values) {
            value = static_cast<unsigned>(constant());
            if (!accept(',')) break;
        }
        return values;
    };
    while (token_.kind == TokenKind::dotted) {
        const unsigned line = token_.line;
        const std::string_view word = take().text;
        if (word == "maxntid") {
            function_->max_block = triple();
        } else if (word == "reqntid") {
            function_->required_block = triple();
        } else if (word == "minnctapersm" || word == "maxnctapersm") {
            function_->min_blocks = static_cast<unsigned>(constant());
        } else if (word == "maxnreg") {
            function_->max_registers = static_cast<unsigned>(constant());
        } else if (word == "reqnctapercluster" || word == "maxclusterrank") {
            for (const unsigned extent : triple())
                if (extent != 1)
                    fail("Thread block clusters of more than one block are not supported");
        } else if (word == "noreturn" || word == "explicitcluster" || word == "blocksareclusters" ||
                   word == "unified") {
            continue;
        } else if (word == "attribute") {
            skip_past(')');
        } else if (word == "pragma") {
            skip_past(';');
        } else if (word == "abi_preserve" || word == "abi_preserve_control") {
            constant();
        } else {
            throw SyntaxError(line, "Parsing error near '." + std::string(word) +
                                        "': unknown performance directive");
        }
    }
}

void Parser::function(bool is_entry, syntax::Linkage link) {
    syntax::Function result;
    result.is_entry = is_entry;
    result.linkage = link;
    result.line = token_.line;
    function_ = &result;
    scopes_.clear();
    scopes_.emplace_back();
    result.scope_parents = {0};
    while (token_.is_dotted("attribute")) {
        take();
        skip_past(')');
        if (token_.is(')')) take();
    }
    if (!is_entry && token_.is('('))
        formal_list(result.results, result.result_registers, NameKind::result);
    result.name = std::string(expect_word("a function name"));
    if (token_.is('('))
        formal_list(result.parameters, result.parameter_registers, NameKind::parameter);
    function_directives();
    if (token_.is('{')) {
        result.has_body = true;
        body();
    } else {
        expect(';');
    }
    function_ = nullptr;
    scopes_.clear();
    module_.functions.push_back(std::move(result));
}

std::int64_t Parser::constant_factor() {
    const Nesting nesting(*this);
    if (accept('-'))
        return static_cast<std::int64_t>(0 - static_cast<std::uint64_t>(constant_factor()));
    if (accept('+')) return constant_factor();
    if (accept('~')) return ~constant_factor();
    if (accept('!')) return constant_factor() == 0;
    if (accept('(')) {
        const std::int64_t value = constant();
        expect(')');
        return value;
    }
    if (token_.is_word("WARP_SZ")) {
        take();
        return 32;
    }
    if (token_.kind != TokenKind::integer)
        fail("Parsing error near '" + std::string(token_.text) +
             "': syntax error, expected a constant");
    return static_cast<std::int64_t>(take().integer);
}

std::int64_t Parser::constant_term() {
    std::uint64_t value = static_cast<std::uint64_t>(constant_factor());
    for (;;) {
        if (accept('*')) {
            value *= static_cast<std::uint64_t>(constant_factor());
        } else if (token_.is('/') || token_.is('%')) {
            const bool divide = take().is('/');
            const auto right = static_cast<std::uint64_t>(constant_factor());
            if (right == 0) fail("Division by zero in a constant expression");
            value = divide ? value / right : value % right;
        } else {
            return static_cast<std::int64_t>(value);
        }
    }
}

std::int64_t Parser::constant() {
    std::uint64_t value = static_cast<std::uint64_t>(constant_term());
    for (;;) {
        if (accept('+'))
            value += static_cast<std::uint64_t>(constant_term());
        else if (accept('-'))
            value -= static_cast<std::uint64_t>(constant_term());
        else
            return static_cast<std::int64_t>(value);
    }
}

}  // namespace carrel::softgpu::ptx
