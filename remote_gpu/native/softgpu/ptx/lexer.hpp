// Cuts PTX text into tokens. Knows nothing of grammar beyond comments and number formats.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace carrel::softgpu::ptx {

enum class TokenKind : std::uint8_t {
    end,
    word,      // identifiers: opcodes, names, %registers
    dotted,    // ".u32", ".shared::cta"; text excludes the dot
    integer,   // value in `integer`
    floating,  // value in `floating`; `bits` of the float say which hexadecimal form it had
    string,    // text excludes the quotes
    symbol,    // one character of punctuation
};

struct Token {
    TokenKind kind = TokenKind::end;
    std::string_view text;
    unsigned line = 0;
    std::uint64_t integer = 0;
    double floating = 0;
    std::uint64_t bits = 0;   // the exact pattern of 0f… (32 bits) or 0d… (64 bits)
    unsigned float_size = 0;  // 4 for 0f…, 8 for 0d… and decimal

    [[nodiscard]] bool is(char symbol) const {
        return kind == TokenKind::symbol && text[0] == symbol;
    }
    [[nodiscard]] bool is_dotted(std::string_view name) const {
        return kind == TokenKind::dotted && text == name;
    }
    [[nodiscard]] bool is_word(std::string_view name) const {
        return kind == TokenKind::word && text == name;
    }
};

/// A text that is not PTX: thrown inside the engine, turned into a Diagnostic by `parse`.
class SyntaxError : public std::runtime_error {
  public:
    SyntaxError(unsigned line, const std::string& message)
        : std::runtime_error(message), line_(line) {}
    [[nodiscard]] unsigned line() const { return line_; }

  private:
    unsigned line_;
};

class Lexer {
  public:
    explicit Lexer(std::string_view text) : text_(text) {}
    /// The next token; `end` for ever once the text is used up. Throws SyntaxError.
    Token next();

  private:
    void skip_blanks();
    void skip_line();
    Token number();

    std::string_view text_;
    std::size_t at_ = 0;
    unsigned line_ = 1;
};

}  // namespace carrel::softgpu::ptx
