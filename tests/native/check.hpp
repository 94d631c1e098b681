// The native tests' few words: TEST(name) { CHECK(x); CHECK_EQ(a, b); } and one CARREL_TEST_MAIN.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

namespace carrel::test {

struct Case {
    const char* name;
    void (*run)();
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Register {
    Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

template <class T>
concept Printable = requires(std::ostream& out, const T& value) { out << value; };

template <class T>
void print(const char* label, const T& value) {
    std::cerr << "    " << label << ": ";
    if constexpr (Printable<T>) {
        std::cerr << value << '\n';
    } else {
        std::cerr << "(" << sizeof(T) << " bytes)\n";
    }
}

inline void fail(const char* file, int line, const char* what) {
    ++failures();
    std::cerr << file << ':' << line << ": failed: " << what << '\n';
}

// Runs every case, or those whose name contains argv[1].
inline int main(int argc, char** argv) {
    int ran = 0;
    for (const Case& c : cases()) {
        if (argc > 1 && !std::strstr(c.name, argv[1])) continue;
        const int before = failures();
        c.run();
        ++ran;
        std::cerr << (failures() == before ? "ok      " : "FAILED  ") << c.name << '\n';
    }
    std::cerr << ran << " cases, " << failures() << " failures\n";
    return failures() || ran == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace carrel::test

#define TEST(name)                                                           \
    static void test_##name();                                               \
    static const carrel::test::Register register_##name(#name, test_##name); \
    static void test_##name()

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) carrel::test::fail(__FILE__, __LINE__, #condition); \
    } while (0)

#define CHECK_EQ(left, right)                                            \
    do {                                                                 \
        const auto left_value = (left);                                  \
        const auto right_value = (right);                                \
        if (!(left_value == right_value)) {                              \
            carrel::test::fail(__FILE__, __LINE__, #left " == " #right); \
            carrel::test::print("left", left_value);                     \
            carrel::test::print("right", right_value);                   \
        }                                                                \
    } while (0)

// For conditions without which the case cannot go on.
#define REQUIRE(condition)                                      \
    do {                                                        \
        if (!(condition)) {                                     \
            carrel::test::fail(__FILE__, __LINE__, #condition); \
            return;                                             \
        }                                                       \
    } while (0)

#define CARREL_TEST_MAIN                       \
    int main(int argc, char** argv) {          \
        return carrel::test::main(argc, argv); \
    }
