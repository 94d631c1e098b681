// How much of an image is sent.
#include "check.hpp"
#include "client/image.hpp"
#include "image/containers.hpp"
#include "image/fatbin.hpp"

using namespace carrel;
using namespace carrel::test;

TEST(images_are_measured_at_bare_pointers) {
    const std::string fatbin = fatbin_of({{kCubin, 80, "machine code"}, {kPtx, 80, "text"}});
    CHECK_EQ(client::measure_image(fatbin.data()).size, fatbin.size());
    const void* const data = fatbin.data();
    std::string wrapper(24, '\0');
    put(wrapper, 0, uint32_t{0x466243B1});
    put(wrapper, 8, data);
    CHECK_EQ(client::measure_image(wrapper.data()).data, data);
    CHECK_EQ(client::measure_image(wrapper.data()).size, fatbin.size());
    CHECK_EQ(client::measure_image(".version 8.0").size, 13u);
    CHECK_EQ(client::measure_image("\xb1").size, 2u);
    CHECK_EQ(client::measure_image("").size, 0u);
    CHECK_EQ(client::measure_image(nullptr).size, 0u);
}

TEST(code_for_other_gpus_is_left_out) {
    const std::string own = fatbin_of({{kCubin, 86, "ours"}, {kPtx, 80, "text"}});
    const std::string all = fatbin_of({{kCubin, 75, std::string(100000, 'x')},
                                       {kCubin, 86, "ours"},
                                       {kPtx, 80, "text"},
                                       {kCubin, 90, std::string(100000, 'x')}});
    const auto sent = client::only_fitting({all.data(), all.size()}, 8, 6);
    CHECK_EQ(std::string(reinterpret_cast<const char*>(sent.data()), sent.size()), own);
    CHECK(client::only_fitting({own.data(), own.size()}, 8, 6).empty());
    const std::string text = ".version 8.0";
    CHECK(client::only_fitting({text.data(), text.size()}, 8, 6).empty());
}

CARREL_TEST_MAIN
