// LZ4 blocks, written out by hand after the format's description, whole and damaged.
#include <random>

#include "check.hpp"
#include "image/lz4.hpp"

using carrel::image::lz4_decompress;

namespace {

std::string unpacked(const std::string& packed, size_t size) {
    const auto out = lz4_decompress(std::as_bytes(std::span(packed)), size);
    if (!out) return "malformed";
    return {reinterpret_cast<const char*>(out->data()), out->size()};
}

// A token, the literals' length beyond it, the literals, the distance, the copy's length beyond.
std::string sequence(const std::string& literals, unsigned distance, size_t copied) {
    std::string out;
    const auto more = [&](size_t length) {
        for (length -= 15; length >= 255; length -= 255) out += '\xff';
        out += static_cast<char>(length);
    };
    const size_t rest = copied ? copied - 4 : 0;
    out +=
        static_cast<char>(std::min<size_t>(literals.size(), 15) << 4 | std::min<size_t>(rest, 15));
    if (literals.size() >= 15) more(literals.size());
    out += literals;
    if (!copied) return out;
    out += static_cast<char>(distance & 255);
    out += static_cast<char>(distance >> 8);
    if (rest >= 15) more(rest);
    return out;
}

}  // namespace

TEST(literals_alone) {
    CHECK_EQ(unpacked(sequence("", 0, 0), 0), "");
    CHECK_EQ(unpacked(sequence("hello", 0, 0), 5), "hello");
    for (const size_t length : {14, 15, 16, 269, 270, 271, 600}) {
        const std::string text(length, 'x');
        CHECK_EQ(unpacked(sequence(text, 0, 0), length), text);
    }
}

TEST(copies_reach_back_and_into_themselves) {
    CHECK_EQ(unpacked(sequence("abcdef", 6, 4) + sequence("!", 0, 0), 11), "abcdefabcd!");
    for (const size_t length : {4, 18, 19, 20, 273, 274, 275, 1000}) {
        const std::string packed = sequence("a", 1, length) + sequence("end", 0, 0);
        CHECK_EQ(unpacked(packed, length + 4), std::string(length + 1, 'a') + "end");
    }
}

TEST(what_does_not_add_up_is_refused) {
    CHECK_EQ(unpacked("", 0), "malformed");
    CHECK_EQ(unpacked(sequence("hello", 0, 0), 4), "malformed");
    CHECK_EQ(unpacked(sequence("hello", 0, 0), 6), "malformed");
    CHECK_EQ(unpacked(sequence("a", 0, 4), 5), "malformed");   // no distance
    CHECK_EQ(unpacked(sequence("a", 2, 4), 5), "malformed");   // before the start
    CHECK_EQ(unpacked(sequence("a", 1, 40), 9), "malformed");  // more than was said
    CHECK_EQ(unpacked(std::string("\x10"
                                  "a\x01",
                                  3),
                      5),
             "malformed");  // half a distance
    CHECK_EQ(unpacked(std::string("\xf0\xff\xff", 3), 600), "malformed");
    CHECK_EQ(unpacked(sequence("a", 1, 4), size_t{1} << 60), "malformed");
}

TEST(damage_is_noticed_or_harmless) {
    const std::string whole =
        sequence("one two three four", 4, 300) + sequence("five", 200, 90) + sequence("end", 0, 0);
    const size_t size = 18 + 300 + 4 + 90 + 3;
    REQUIRE(unpacked(whole, size).size() == size);
    std::mt19937 random(1);
    for (int i = 0; i < 2000; ++i) {
        std::string damaged = whole;
        damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
        const std::string out = unpacked(damaged, size);
        CHECK(out.size() == size || out == "malformed");
    }
    for (size_t cut = 0; cut < whole.size(); ++cut) {
        CHECK_EQ(unpacked(whole.substr(0, cut), size), "malformed");
    }
}

CARREL_TEST_MAIN
