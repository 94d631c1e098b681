#include "softgpu/ptx/lexer.hpp"

#include <bit>
#include <cstdlib>

namespace carrel::softgpu::ptx {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool starts_word(char c) {
    return is_letter(c) || c == '_' || c == '$' || c == '%';
}
bool in_word(char c) {
    return is_letter(c) || is_digit(c) || c == '_' || c == '$';
}

int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

}  // namespace

void Lexer::skip_line() {
    while (at_ < text_.size() && text_[at_] != '\n') ++at_;
}

void Lexer::skip_blanks() {
    while (at_ < text_.size()) {
        const char c = text_[at_];
        if (c == '\n') {
            ++line_;
            ++at_;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' || c == '\0') {
            ++at_;  // a NUL ends C strings; some callers pass it along
        } else if (text_.substr(at_, 2) == "//" || c == '#') {
            skip_line();
        } else if (text_.substr(at_, 2) == "/*") {
            const std::size_t close = text_.find("*/", at_ + 2);
            if (close == std::string_view::npos) throw SyntaxError(line_, "unterminated comment");
            for (; at_ < close + 2; ++at_) line_ += text_[at_] == '\n';
        } else {
            return;
        }
    }
}

Token Lexer::number() {
    Token token;
    token.line = line_;
    const std::size_t start = at_;
    const auto rest = [&](std::size_t n) {
        return start + n < text_.size() ? text_[start + n] : '\0';
    };
    const char second = rest(1);
    if (text_[start] == '0' && (second == 'f' || second == 'F' || second == 'd' || second == 'D')) {
        const unsigned digits = second == 'f' || second == 'F' ? 8 : 16;
        for (unsigned i = 0; i < digits; ++i) {
            const int value = digit_value(rest(2 + i));
            if (value > 15) throw SyntaxError(line_, "malformed hexadecimal float literal");
            token.bits = token.bits << 4 | static_cast<unsigned>(value);
        }
        at_ = start + 2 + digits;
        token.kind = TokenKind::floating;
        token.float_size = digits / 2;
        token.floating = digits == 8 ? std::bit_cast<float>(static_cast<std::uint32_t>(token.bits))
                                     : std::bit_cast<double>(token.bits);
        token.text = text_.substr(start, at_ - start);
        return token;
    }
    unsigned base = 10;
    std::size_t digits = start;
    if (text_[start] == '0' && (second == 'x' || second == 'X')) {
        base = 16;
        digits = start + 2;
    } else if (text_[start] == '0' && (second == 'b' || second == 'B')) {
        base = 2;
        digits = start + 2;
    } else if (text_[start] == '0' && is_digit(second)) {
        base = 8;
    }
    if (base == 10) {
        std::size_t end = start;
        while (end < text_.size() && is_digit(text_[end])) ++end;
        const char mark = end < text_.size() ? text_[end] : '\0';
        const bool fraction = mark == '.' && end + 1 < text_.size() && is_digit(text_[end + 1]);
        if (fraction || mark == 'e' || mark == 'E') {
            const std::string copy(text_.substr(start, 64));
            char* stop = nullptr;
            token.floating = std::strtod(copy.c_str(), &stop);
            token.kind = TokenKind::floating;
            token.float_size = 8;
            token.bits = std::bit_cast<std::uint64_t>(token.floating);
            at_ = start + static_cast<std::size_t>(stop - copy.c_str());
            token.text = text_.substr(start, at_ - start);
            return token;
        }
    }
    token.kind = TokenKind::integer;
    at_ = digits;
    while (at_ < text_.size() && digit_value(text_[at_]) < static_cast<int>(base)) {
        token.integer = token.integer * base + static_cast<unsigned>(digit_value(text_[at_]));
        ++at_;
    }
    if (at_ == digits) throw SyntaxError(line_, "malformed number");
    if (at_ < text_.size() && (text_[at_] == 'U' || text_[at_] == 'u')) ++at_;
    if (at_ < text_.size() && in_word(text_[at_])) throw SyntaxError(line_, "malformed number");
    token.text = text_.substr(start, at_ - start);
    return token;
}

Token Lexer::next() {
    skip_blanks();
    Token token;
    token.line = line_;
    if (at_ >= text_.size()) return token;
    const std::size_t start = at_;
    const char c = text_[at_];
    if (is_digit(c)) return number();
    if (starts_word(c)) {
        ++at_;
        while (at_ < text_.size() && in_word(text_[at_])) ++at_;
        token.kind = TokenKind::word;
        token.text = text_.substr(start, at_ - start);
        return token;
    }
    if (c == '.' && at_ + 1 < text_.size() && in_word(text_[at_ + 1])) {
        ++at_;
        while (at_ < text_.size()) {
            if (in_word(text_[at_]))
                ++at_;
            else if (text_.substr(at_, 2) == "::" && at_ + 2 < text_.size() &&
                     in_word(text_[at_ + 2]))
                at_ += 2;
            else
                break;
        }
        token.kind = TokenKind::dotted;
        token.text = text_.substr(start + 1, at_ - start - 1);
        return token;
    }
    if (c == '"') {
        const std::size_t close = text_.find('"', at_ + 1);
        if (close == std::string_view::npos) throw SyntaxError(line_, "unterminated string");
        token.kind = TokenKind::string;
        token.text = text_.substr(at_ + 1, close - at_ - 1);
        for (const char inside : token.text) line_ += inside == '\n';
        at_ = close + 1;
        return token;
    }
    token.kind = TokenKind::symbol;
    token.text = text_.substr(at_, 1);
    ++at_;
    return token;
}

}  // namespace carrel::softgpu::ptx
