// One line on stderr per message, above the level of CARREL_LOG (debug, info, warning; default
// warning). Never log a lease key.
#pragma once

namespace carrel {

enum class LogLevel { debug, info, warning };

// Where the lines go; stderr unless set.
void log_to(int descriptor);
bool log_enabled(LogLevel level);
void log(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace carrel

#define CARREL_DEBUG(...)                                      \
    do {                                                       \
        if (carrel::log_enabled(carrel::LogLevel::debug))      \
            carrel::log(carrel::LogLevel::debug, __VA_ARGS__); \
    } while (0)
#define CARREL_INFO(...) carrel::log(carrel::LogLevel::info, __VA_ARGS__)
#define CARREL_WARNING(...) carrel::log(carrel::LogLevel::warning, __VA_ARGS__)
