// The store of code: what it finds, and what it lets go.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "../check.hpp"
#include "worker/image_store.hpp"

using namespace carrel;
using worker::ImageStore;

namespace {

struct Folder {
    Folder() { CHECK(::mkdtemp(path) != nullptr); }
    ~Folder() { std::filesystem::remove_all(path); }
    char path[32] = "/tmp/carrel-store-XXXXXX";
};

std::span<const std::byte> bytes_of(const std::string& text) {
    return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

wire::Hash hash_of(const std::string& text) {
    return wire::sha256(text.data(), text.size());
}

}  // namespace

TEST(what_is_kept_is_found) {
    const Folder folder;
    const ImageStore store(std::string(folder.path) + "/images");
    const std::string image(100'000, 'x');
    CHECK(!store.find(hash_of(image), image.size()));
    store.keep(hash_of(image), bytes_of(image));
    const auto found = store.find(hash_of(image), image.size());
    REQUIRE(found);
    CHECK(std::string(found->data()) == image);
    CHECK(!store.find(hash_of(image), image.size() - 1));
    CHECK(!store.find(hash_of("other"), image.size()));
}

TEST(the_least_recently_used_go_first) {
    const Folder folder;
    const ImageStore store(folder.path, 3000);
    const std::string one(1000, '1'), two(1000, '2'), three(1000, '3'), four(1000, '4');
    for (const auto& image : {one, two, three}) {
        store.keep(hash_of(image), bytes_of(image));
        ::usleep(20'000);
    }
    CHECK(store.find(hash_of(one), 1000));  // used again
    ::usleep(20'000);
    store.keep(hash_of(four), bytes_of(four));
    CHECK(store.find(hash_of(one), 1000) && store.find(hash_of(three), 1000) &&
          store.find(hash_of(four), 1000));
    CHECK(!store.find(hash_of(two), 1000));
    const std::string huge(4000, '5');
    store.keep(hash_of(huge), bytes_of(huge));
    CHECK(!store.find(hash_of(huge), 4000));
    CHECK(store.find(hash_of(four), 1000));
}

TEST(without_a_folder_nothing_is_kept) {
    const ImageStore store("");
    const std::string image = "code";
    store.keep(hash_of(image), bytes_of(image));
    CHECK(!store.find(hash_of(image), image.size()));
}

CARREL_TEST_MAIN
