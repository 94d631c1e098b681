// Zstandard frames that the reference library packed (make_frames.py), whole and damaged.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "check.hpp"
#include "image/zstd.hpp"

using carrel::image::zstd_decompress;

namespace {

constexpr size_t kMost = size_t{1} << 24;

std::string lines(unsigned count) {
    std::string out;
    for (unsigned i = 0; i < count; ++i) {
        out += "ld.param.u64 %rd" + std::to_string(i * i % 97) + ", [p" + std::to_string(i % 13) +
               "];\n";
    }
    return out;
}

std::string skewed(unsigned count) {
    std::string out;
    uint32_t state = 1;
    for (unsigned i = 0; i < count; ++i) {
        state = state * 1664525 + 1013904223;
        const uint32_t byte = state >> 24;
        out += static_cast<char>(byte & (byte >> 3) & 0x1F);
    }
    return out;
}

std::string runs(unsigned count) {
    std::string out;
    for (unsigned i = 0; i < count; ++i) out.append(i % 9 + 1, static_cast<char>(i % 7));
    return out;
}

std::string file(const std::string& name) {
    std::ifstream in(std::string(CARREL_FRAMES) + "/" + name + ".zst", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

std::string unpacked(const std::string& packed, size_t most = kMost) {
    const auto out = zstd_decompress(std::as_bytes(std::span(packed)), most);
    if (!out) return "malformed";
    return {reinterpret_cast<const char*>(out->data()), out->size()};
}

}  // namespace

TEST(what_the_reference_packed_comes_back) {
    const std::pair<const char*, std::string> patterns[] = {
        {"lines", lines(3000)}, {"skewed", skewed(20000)}, {"runs", runs(40000)}};
    for (const auto& [name, data] : patterns) {
        for (const char* level : {"-5", "1", "6", "19"}) {
            const std::string packed = file(std::string(name) + level);
            REQUIRE(packed.size() > 8 && packed.size() < data.size());
            CHECK(unpacked(packed) == data);
        }
    }
    CHECK_EQ(unpacked(file("empty")), "");
}

TEST(frames_follow_each_other_and_may_be_skipped) {
    const std::string one = file("lines6");
    CHECK(unpacked(one + one) == lines(3000) + lines(3000));
    const std::string skippable("\x53\x2a\x4d\x18\x03\x00\x00\x00pad", 11);
    CHECK(unpacked(skippable + one) == lines(3000));
}

TEST(no_more_than_allowed) {
    const std::string data = runs(40000);
    CHECK(unpacked(file("runs19"), data.size()) == data);
    CHECK_EQ(unpacked(file("runs19"), data.size() - 1), "malformed");
}

TEST(damage_is_noticed_or_harmless) {
    std::mt19937 random(1);
    for (const char* name : {"lines1", "skewed6", "runs19"}) {
        const std::string whole = file(name);
        for (int i = 0; i < 400; ++i) {
            std::string damaged = whole;
            damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
            unpacked(damaged);
            CHECK_EQ(unpacked(whole.substr(0, random() % whole.size())), "malformed");
        }
    }
}

CARREL_TEST_MAIN
