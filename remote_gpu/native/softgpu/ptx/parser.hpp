// Turns PTX text into syntax::Module: declarations in parser.cpp, function bodies in
// parser_body.cpp. Knows the grammar, scopes and constant expressions, not what any instruction
// means.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "softgpu/ptx/lexer.hpp"
#include "softgpu/ptx/syntax.hpp"

namespace carrel::softgpu::ptx {

class Parser {
  public:
    explicit Parser(std::string_view text);
    /// Parses the whole text. Throws SyntaxError at the first thing that is wrong.
    syntax::Module run();

  private:
    enum class NameKind : std::uint8_t { reg, variable, parameter, result };
    struct Name {
        NameKind kind;
        std::uint32_t index;
    };
    struct RegisterRange {
        std::string_view prefix;
        std::uint32_t count;
        std::uint32_t first;
    };
    struct Scope {
        std::uint32_t id = 0;
        std::unordered_map<std::string_view, Name> names;
        std::vector<RegisterRange> ranges;
    };

    /// Bounds the recursion that a text can cause.
    class Nesting {
      public:
        explicit Nesting(Parser& parser) : depth_(parser.depth_) {
            if (++depth_ > 200) parser.fail("Expressions are nested too deeply");
        }
        ~Nesting() { --depth_; }
        Nesting(const Nesting&) = delete;
        Nesting& operator=(const Nesting&) = delete;

      private:
        unsigned& depth_;
    };

    // tokens
    const Token& peek() const { return token_; }
    Token take();
    bool accept(char symbol);
    bool accept_dotted(std::string_view name);
    void expect(char symbol);
    std::string_view expect_word(const char* what);
    std::string_view expect_dotted(const char* what);
    void skip_to_line_end(unsigned line);
    void skip_braces();
    void skip_past(char symbol);
    [[noreturn]] void fail(const std::string& message) const;

    // declarations
    void module_statement();
    void version_statement();
    void target_statement();
    bool skip_debug_directive();
    syntax::Linkage linkage();
    syntax::Variable variable_head(StateSpace space);
    void variable_shape(syntax::Variable& variable);
    void variable_initialiser(syntax::Variable& variable, const std::vector<std::size_t>& dims);
    void initialiser_list(syntax::Variable& variable, std::size_t& at,
                          const std::vector<std::size_t>& dims, std::size_t depth);
    void initialiser_value(syntax::Variable& variable, std::size_t& at);
    std::vector<syntax::Variable> declare_variables(StateSpace space, syntax::Linkage linkage);
    void function(bool is_entry, syntax::Linkage linkage);
    void formal_list(std::vector<syntax::Variable>& formals, std::vector<std::uint32_t>& registers,
                     NameKind kind);
    void function_directives();
    std::int64_t constant();
    std::int64_t constant_term();
    std::int64_t constant_factor();

    // bodies
    void body();
    void statement();
    void register_declaration();
    void body_directive();
    void label(std::string_view name);
    void instruction();
    syntax::Operand operand();
    syntax::Operand primary();
    syntax::Operand named(const Token& token);
    syntax::Operand memory();
    void optional_offset(syntax::Operand& operand);
    const Name* find(std::string_view name, Name& storage) const;
    std::uint32_t add_register(Type type);

    Lexer lexer_;
    Token token_;
    std::string_view text_;
    syntax::Module module_;
    syntax::Function* function_ = nullptr;
    std::vector<Scope> scopes_;
    bool in_call_ = false;
    unsigned depth_ = 0;
    std::vector<std::unique_ptr<std::string>> owned_names_;  // keys of scopes that no text holds
};

}  // namespace carrel::softgpu::ptx
