// Fatbins: what is found in them, what is chosen, what is left of them, and what is refused.
#include <random>

#include "check.hpp"
#include "image/containers.hpp"
#include "image/fatbin.hpp"

using namespace carrel::image;
using namespace carrel::test;

namespace {

constexpr Capability kAmpere{8, 0}, kAda{8, 9}, kHopper{9, 0}, kBlackwell{10, 3};

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

std::string text_of(const std::optional<std::vector<std::byte>>& bytes) {
    if (!bytes) return "refused";
    return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

// The kinds and architectures in a container, in order.
std::string listed(std::span<const std::byte> fatbin) {
    const auto entries = fatbin_entries(fatbin);
    if (!entries) return "malformed";
    std::string out;
    for (const FatbinEntry& entry : *entries) {
        out += (entry.is_ptx()     ? "ptx"
                : entry.is_cubin() ? "sm"
                                   : "other") +
               std::to_string(entry.arch) + " ";
    }
    return out;
}

std::string chosen(const std::string& fatbin, Capability device, Accept accept) {
    const auto entries = fatbin_entries(bytes_of(fatbin));
    if (!entries) return "malformed";
    const FatbinEntry* entry = choose(*entries, device, accept);
    if (!entry) return "none";
    return (entry->is_ptx() ? "ptx" : "sm") + std::to_string(entry->arch);
}

std::string left(const std::string& fatbin, Capability device) {
    const auto out = only_for(bytes_of(fatbin), device);
    return out ? listed(*out) : "all";
}

std::string several() {
    return fatbin_of({{kCubin, 75, "seven"},
                      {kCubin, 80, "eight"},
                      {kCubin, 86, "eight six"},
                      {kPtx, 80, "text"},
                      {kCubin, 90, "nine"},
                      {kPtx, 90, "later text"},
                      {kCubin, 100, "ten"},
                      {kCubin, 101, "ten one"}});
}

}  // namespace

TEST(entries_are_found_and_unpacked) {
    const std::string fatbin = fatbin_of({{kCubin, 86, "machine"},
                                          {kPtx, 80,
                                           "\x50"
                                           "hello",
                                           kLz4, 5}});
    const auto entries = fatbin_entries(bytes_of(fatbin));
    REQUIRE(entries && entries->size() == 2);
    CHECK_EQ(text_of(unpack(entries->front(), 100)), std::string("machine\0", 8));
    CHECK_EQ(text_of(unpack(entries->front(), 7)), "refused");
    CHECK_EQ(text_of(unpack(entries->back(), 5)), "hello");
    CHECK_EQ(text_of(unpack(entries->back(), 4)), "refused");
    // "hello" in one raw block of a Zstandard frame of known size, and once with a wrong size.
    const std::string frame("\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello", 14);
    for (const uint64_t size : {5, 6}) {
        const std::string packed = fatbin_of({{kPtx, 80, frame, kZstd, size}});
        CHECK_EQ(text_of(unpack(fatbin_entries(bytes_of(packed))->front(), 100)),
                 size == 5 ? "hello" : "refused");
    }
    CHECK_EQ(listed(bytes_of(fatbin_of({}))), "");
}

TEST(a_container_is_told_from_other_images) {
    const std::string fatbin = fatbin_of({{kPtx, 80, "text"}});
    const auto found = fatbin_at(fatbin.data());
    REQUIRE(found && found->size() == fatbin.size());
    struct {
        uint32_t magic = 0x466243B1, version = 1;
        const void* data;
        void* file = nullptr;
    } wrapper{.data = fatbin.data()};
    REQUIRE(fatbin_at(&wrapper) && fatbin_at(&wrapper)->data() == found->data());
    wrapper.data = nullptr;
    CHECK(!fatbin_at(&wrapper));
    wrapper.data = "text";
    CHECK(!fatbin_at(&wrapper));
    for (const char* other :
         {"", "P", ".version 8.0", "\177ELF", "\xb1", "\xb1\x43\x62", "\x50\xed"}) {
        CHECK(!fatbin_at(std::string(other).c_str()));
    }
    CHECK(!fatbin_at(nullptr));
    CHECK(fatbin_in(bytes_of(fatbin + "more")));
    for (size_t size = 0; size < fatbin.size(); ++size) {
        const std::string cut = fatbin.substr(0, size);
        CHECK(!fatbin_in(bytes_of(cut)));
    }
}

TEST(a_driver_takes_what_fits_best) {
    const std::string fatbin = several();
    const auto both = Accept::ptx_and_cubins;
    CHECK_EQ(chosen(fatbin, kAmpere, both), "sm80");
    CHECK_EQ(chosen(fatbin, kAda, both), "sm86");
    CHECK_EQ(chosen(fatbin, kHopper, both), "sm90");
    CHECK_EQ(chosen(fatbin, kBlackwell, both), "sm101");
    CHECK_EQ(chosen(fatbin, {12, 0}, both), "ptx90");  // another major's cubins do not run
    CHECK_EQ(chosen(fatbin, {7, 0}, both), "none");
    CHECK_EQ(chosen(fatbin, kAmpere, Accept::ptx), "ptx80");
    CHECK_EQ(chosen(fatbin, kHopper, Accept::ptx), "ptx90");
    CHECK_EQ(chosen(fatbin_of({{kCubin, 80, "x"}}), kAmpere, Accept::ptx), "none");
    CHECK_EQ(chosen(fatbin_of({{kPtx, 90, "x"}}), kAmpere, Accept::ptx), "none");
    CHECK_EQ(chosen(fatbin_of({{9, 80, "x"}}), kAmpere, both), "none");
}

TEST(only_what_a_device_can_use_is_left) {
    const std::string fatbin = several();
    CHECK_EQ(left(fatbin, kAmpere), "sm80 ptx80 ");
    CHECK_EQ(left(fatbin, kAda), "sm86 ptx80 ");
    CHECK_EQ(left(fatbin, kHopper), "sm90 ptx90 ");
    CHECK_EQ(left(fatbin, kBlackwell), "ptx90 sm100 sm101 ");  // either may be of one minor only
    CHECK_EQ(left(fatbin, {10, 1}), "ptx90 sm101 ");
    CHECK_EQ(left(fatbin, {12, 0}), "ptx90 ");
    CHECK_EQ(left(fatbin, {7, 0}), "all");  // that nothing runs is for the driver to say
    CHECK_EQ(left(fatbin_of({{kCubin, 80, "a"}, {kCubin, 80, "b"}}), kAmpere), "all");
    CHECK_EQ(left(fatbin_of({{9, 70, "?"}, {kCubin, 80, "a"}, {kCubin, 90, "b"}}), kAmpere),
             "other70 sm80 ");
    const auto out = only_for(bytes_of(fatbin), kAda);
    const auto entries = fatbin_entries(*out);
    CHECK_EQ(text_of(unpack(entries->front(), 100)).substr(0, 9), "eight six");
    CHECK_EQ(fatbin_in(*out)->size(), out->size());
}

TEST(sizes_that_do_not_add_up_are_refused) {
    const std::string fatbin = fatbin_of({{kPtx, 80, "\x50hello", kLz4, 5}, {kCubin, 80, "x"}});
    const auto with = [&](size_t at, auto value) {
        std::string damaged = fatbin;
        put(damaged, at, value);
        return listed(bytes_of(damaged));
    };
    REQUIRE(listed(bytes_of(fatbin)) == "ptx80 sm80 ");
    CHECK_EQ(with(6, uint16_t{15}), "malformed");
    CHECK_EQ(with(8, uint64_t{fatbin.size() - 15}), "malformed");
    CHECK_EQ(with(8, ~uint64_t{0}), "malformed");
    CHECK_EQ(with(8, ~uint64_t{15}), "malformed");
    for (const uint32_t header : {0u, 63u, 0x1000u, ~0u}) {
        CHECK_EQ(with(16 + 4, header), "malformed");
    }
    for (const uint64_t padded : {uint64_t{0x1000}, ~uint64_t{0}, ~uint64_t{63}}) {
        CHECK_EQ(with(16 + 8, padded), "malformed");
    }
    CHECK_EQ(with(16 + 16, uint32_t{9}), "malformed");    // packed larger than padded
    CHECK_EQ(with(16 + 56, uint64_t{6}), "ptx80 sm80 ");  // noticed when it is unpacked
}

TEST(damage_is_noticed_or_harmless) {
    const std::string whole = several();
    std::mt19937 random(1);
    for (int i = 0; i < 4000; ++i) {
        std::string damaged = whole;
        for (int j = 0; j < 3; ++j) {
            damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
        }
        const auto entries = fatbin_entries(bytes_of(damaged));
        if (!entries) continue;
        for (const FatbinEntry& entry : *entries) {
            CHECK(entry.whole.data() >= bytes_of(damaged).data());
            CHECK(entry.whole.data() + entry.whole.size() <=
                  bytes_of(damaged).data() + damaged.size());
            if (const auto code = unpack(entry, 1000)) CHECK(code->size() <= 1000);
        }
        if (const auto out = only_for(bytes_of(damaged), kAda)) CHECK(fatbin_entries(*out));
    }
}

CARREL_TEST_MAIN
