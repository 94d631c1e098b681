#include "wire/log.hpp"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace carrel {

namespace {
int descriptor = STDERR_FILENO;
}

void log_to(int fd) {
    if (fd >= 0) descriptor = fd;
}

bool log_enabled(LogLevel level) {
    static const LogLevel lowest = [] {
        const char* wanted = std::getenv("CARREL_LOG");
        if (wanted && !std::strcmp(wanted, "debug")) return LogLevel::debug;
        if (wanted && !std::strcmp(wanted, "info")) return LogLevel::info;
        return LogLevel::warning;
    }();
    return level >= lowest;
}

void log(LogLevel level, const char* format, ...) {
    if (!log_enabled(level)) return;
    char line[1024];
    int size = std::snprintf(line, sizeof line, "carrel: ");
    va_list arguments;
    va_start(arguments, format);
    size +=
        std::vsnprintf(line + size, sizeof line - static_cast<size_t>(size) - 1, format, arguments);
    va_end(arguments);
    if (size > static_cast<int>(sizeof line) - 2) size = static_cast<int>(sizeof line) - 2;
    line[size++] = '\n';
    // One write, so that lines of several processes do not mix.
    [[maybe_unused]] const ssize_t written = ::write(descriptor, line, static_cast<size_t>(size));
}

}  // namespace carrel
