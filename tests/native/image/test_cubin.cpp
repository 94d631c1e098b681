// Cubins: their kernels and variables, and files that are damaged on purpose and by chance.
#include <array>
#include <random>
#include <tuple>

#include "check.hpp"
#include "image/cubin.hpp"
#include "image/elf_file.hpp"

using namespace carrel::image;
using namespace carrel::test;

namespace {

std::optional<Cubin> cubin_of(const std::string& file) {
    return read_cubin(std::as_bytes(std::span(file)));
}

std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string threads(uint32_t x, uint32_t y, uint32_t z) {
    return sized(0x05, raw(x) + raw(y) + raw(z));
}

std::string sample(bool many = false) {
    ElfFile file;
    const std::string add = short_value(0x1b, 255) + parameter(2, 16, 24) + parameter(1, 8, 4) +
                            parameter(0, 0, 8) + short_value(0x19, 40) + threads(32, 8, 1);
    const uint32_t first = file.kernel("add", add, 520);
    file.kernel("empty", "");
    file.symbol("helper", STT_FUNC, 1, 0, 16);  // a function that kernels call
    const unsigned global = file.add(".nv.global", SHT_NOBITS, "", 4096);
    const unsigned initial = file.add(".nv.global.init", SHT_PROGBITS, "....seven...");
    const unsigned constant = file.add(".nv.constant3", SHT_PROGBITS, "table");
    file.symbol("buffer", STT_OBJECT, global, 96, 4000);
    file.symbol("counter", STT_OBJECT, initial, 4, 5);
    file.symbol("table", STT_OBJECT, constant, 0, 5);
    file.symbol("elsewhere", STT_OBJECT, SHN_UNDEF, 0, 4);
    file.add(".nv.info", SHT_LOPROC, registers(first, 12));
    return file.finish(many);
}

// A file with one kernel of these records.
std::optional<Cubin> with_info(const std::string& info) {
    ElfFile file;
    file.kernel("k", info);
    return cubin_of(file.finish());
}

}  // namespace

TEST(kernels_are_found_with_what_they_take) {
    for (const bool many : {false, true}) {
        const std::string file = sample(many);
        const auto cubin = cubin_of(file);
        REQUIRE(cubin && cubin->kernels.size() == 2);
        const CubinKernel& add = cubin->kernels[0];
        CHECK_EQ(add.name, "add");
        CHECK_EQ(add.parameter_bytes, 40u);
        CHECK_EQ(add.registers, 12u);
        CHECK_EQ(add.shared_bytes, 520u);
        CHECK_EQ(add.most_threads, 256u);
        REQUIRE(add.parameters.size() == 3);
        for (const auto& [ordinal, offset, size] :
             {std::array{0u, 0u, 8u}, std::array{1u, 8u, 4u}, std::array{2u, 16u, 24u}}) {
            CHECK_EQ(add.parameters[ordinal].offset, offset);
            CHECK_EQ(add.parameters[ordinal].size, size);
        }
        const CubinKernel& empty = cubin->kernels[1];
        CHECK_EQ(empty.name, "empty");
        CHECK(empty.parameters.empty() && !empty.parameter_bytes && !empty.registers);
        CHECK(!empty.shared_bytes && !empty.most_threads);
    }
}

TEST(variables_are_found_with_their_values) {
    const std::string file = sample();
    const auto cubin = cubin_of(file);
    REQUIRE(cubin && cubin->variables.size() == 3);
    const auto& [buffer, counter, table] =
        std::tie(cubin->variables[0], cubin->variables[1], cubin->variables[2]);
    CHECK_EQ(buffer.name, "buffer");
    CHECK_EQ(buffer.size, 4000u);
    CHECK(buffer.initial.empty() && !buffer.constant);
    CHECK_EQ(counter.name, "counter");
    CHECK_EQ(text_of(counter.initial), "seven");
    CHECK(!counter.constant);
    CHECK_EQ(text_of(table.initial), "table");
    CHECK(table.constant);
}

TEST(large_parameters_have_records_of_their_own) {
    const auto cubin =
        with_info(wide_parameter(1, 8, 20000) + wide_parameter(0, 0, 8) + short_value(0x19, 20008));
    REQUIRE(cubin && cubin->kernels.at(0).parameters.size() == 2);
    CHECK_EQ(cubin->kernels[0].parameters[1].size, 20000u);
    CHECK_EQ(cubin->kernels[0].parameters[0].size, 8u);
}

TEST(records_that_do_not_add_up_are_refused) {
    const std::string total = short_value(0x19, 16);
    CHECK(with_info(total + parameter(0, 0, 8) + parameter(1, 8, 8)));
    CHECK(!with_info(total + parameter(0, 0, 8) + parameter(2, 8, 8)));  // none is the second
    CHECK(!with_info(total + parameter(0, 0, 8) + parameter(0, 8, 8)));
    CHECK(!with_info(total + parameter(0, 0, 8) + parameter(1, 8, 9)));  // beyond the end
    CHECK(!with_info(total + sized(0x17, "short")));
    CHECK(!with_info(total + "\x04"));
    CHECK(!with_info(total + std::string("\x04\x99\x05\x00"
                                         "four",
                                         8)));
    CHECK(!with_info(threads(1 << 16, 1 << 16, 2)));
    CHECK(with_info(sized(0x99, "what we do not know")));
}

TEST(other_files_are_refused) {
    const std::string file = sample();
    REQUIRE(cubin_of(file));
    CHECK(!cubin_of(""));
    CHECK(!cubin_of("\177ELF"));
    CHECK(!cubin_of(std::string(100, 'x')));
    const auto with = [&](size_t at, auto value) {
        std::string damaged = file;
        put(damaged, at, value);
        return cubin_of(damaged).has_value();
    };
    CHECK(with(offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_CUDA}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_machine), uint16_t{EM_X86_64}));
    CHECK(!with(EI_CLASS, uint8_t{ELFCLASS32}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_shoff), ~uint64_t{0}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_shoff), uint64_t{file.size() - 63}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_shnum), uint16_t{0xFFFF}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_shstrndx), uint16_t{0xFFF0}));
    CHECK(!with(offsetof(Elf64_Ehdr, e_shentsize), uint16_t{1}));
    ElfFile twice;
    twice.kernel("k", "");
    twice.symbol("k", STT_FUNC, 1, 0, 128, 0x10);
    CHECK(!cubin_of(twice.finish()));
    ElfFile nobody;
    nobody.kernel("k", "");
    nobody.add(".nv.info", SHT_LOPROC, registers(1, 12));  // there is no symbol 1
    CHECK(!cubin_of(nobody.finish()));
    ElfFile beyond;
    beyond.symbol("v", STT_OBJECT, beyond.add(".nv.global.init", SHT_PROGBITS, "four"), 2, 4);
    CHECK(!cubin_of(beyond.finish()));
}

TEST(damage_is_noticed_or_harmless) {
    const std::string whole = sample();
    std::mt19937 random(1);
    for (int i = 0; i < 4000; ++i) {
        std::string damaged = whole;
        for (int j = 0; j < 3; ++j) {
            damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
        }
        const auto cubin = cubin_of(damaged);
        if (!cubin) continue;
        for (const CubinVariable& variable : cubin->variables) {
            CHECK(variable.initial.size() <= damaged.size());
        }
    }
    for (size_t cut = 0; cut < whole.size(); ++cut) {
        const std::string start = whole.substr(0, cut);  // the sections are listed at the end
        CHECK(!cubin_of(start));
    }
}

CARREL_TEST_MAIN
