// The arena's bookkeeping: nothing overlaps, everything coalesces, whatever the order.
#include <map>
#include <random>

#include "check.hpp"
#include "client/arena.hpp"

using carrel::client::Arena;

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBase = uint64_t{1} << 44;

// Allocates as the client does: grows when nothing fits.
uint64_t allocate(Arena& arena, uint64_t bytes) {
    auto taken = arena.allocate(bytes);
    if (!taken) {
        const uint64_t extent =
            std::max(32 * kMiB, (bytes + Arena::kGranule - 1) / Arena::kGranule * Arena::kGranule);
        const auto place = arena.place(extent);
        if (!place) return 0;
        arena.add_extent(*place, extent);
        taken = arena.allocate(bytes);
    }
    return taken ? taken->base : 0;
}

}  // namespace

TEST(random_use_never_overlaps) {
    std::mt19937_64 random(7);
    Arena arena(kBase, 4096 * kMiB);
    std::map<uint64_t, uint64_t> live;
    uint64_t bytes = 0;
    for (int step = 0; step < 60000; ++step) {
        if (random() % 5 < 3 || live.empty()) {
            const uint64_t size = 1 + random() % (random() % 50 ? 100'000 : 40 * kMiB);
            const uint64_t at = allocate(arena, size);
            if (!at) continue;
            CHECK_EQ(at % Arena::kAlignment, uint64_t{0});
            CHECK(at >= kBase && at + size <= kBase + 4096 * kMiB);
            const auto after = live.lower_bound(at);
            if (after != live.end()) CHECK(at + size <= after->first);
            if (after != live.begin()) {
                const auto before = std::prev(after);
                CHECK(before->first + before->second <= at);
            }
            live[at] = size;
            bytes += size;
        } else {
            auto victim = live.lower_bound(kBase + random() % (4096 * kMiB));
            if (victim == live.end()) victim = live.begin();
            const auto range = arena.find(victim->first + victim->second / 2);
            REQUIRE(range.has_value());
            CHECK_EQ(range->base, victim->first);
            CHECK_EQ(range->size, victim->second);
            CHECK(arena.free(victim->first, 1));
            CHECK(!arena.free(victim->first, 1));
            bytes -= victim->second;
            live.erase(victim);
        }
        CHECK(arena.used() >= bytes && arena.used() <= arena.mapped());
        if (step % 1000 == 0) arena.release(64 * kMiB);
    }
    for (const auto& [at, size] : live) CHECK(arena.free(at, 1));
    CHECK_EQ(arena.used(), uint64_t{0});
    arena.release(0);
    CHECK_EQ(arena.mapped(), uint64_t{0});
}

TEST(neighbours_coalesce_in_any_order) {
    Arena arena(kBase, 1024 * kMiB);
    arena.add_extent(kBase, 2 * kMiB);
    uint64_t at[4];
    for (auto& a : at) a = arena.allocate(512 * 1024)->base;
    CHECK(!arena.allocate(512));
    for (const int i : {2, 0, 3, 1}) CHECK(arena.free(at[i], 1));
    CHECK(arena.allocate(2 * kMiB).has_value());
}

TEST(extents_stay_apart) {
    Arena arena(kBase, 1024 * kMiB);
    arena.add_extent(kBase, 2 * kMiB);
    arena.add_extent(kBase + 2 * kMiB, 2 * kMiB);
    // Each was mapped on its own and can only go on its own.
    CHECK(!arena.allocate(3 * kMiB));
    const auto gone = arena.release(0);
    CHECK_EQ(gone.size(), size_t{2});
}

TEST(release_keeps_what_is_asked_and_what_is_used) {
    Arena arena(kBase, 1024 * kMiB);
    arena.add_extent(kBase, 32 * kMiB);
    arena.add_extent(kBase + 32 * kMiB, 64 * kMiB);
    const auto small = arena.allocate(1000);
    REQUIRE(small.has_value());
    CHECK_EQ(small->base, kBase);
    const auto gone = arena.release(32 * kMiB);
    REQUIRE(gone.size() == 1);
    CHECK_EQ(gone[0].size, 64 * kMiB);
    CHECK(arena.release(0).empty());
}

TEST(freed_memory_remembers_its_youngest_free) {
    Arena arena(kBase, 1024 * kMiB);
    arena.add_extent(kBase, 2 * kMiB);
    const auto a = arena.allocate(1 * kMiB);
    const auto b = arena.allocate(1 * kMiB);
    CHECK_EQ(a->stamp, uint64_t{0});
    arena.free(a->base, 5);
    arena.free(b->base, 9);
    CHECK_EQ(arena.allocate(100)->stamp, uint64_t{9});
}

TEST(nonsense_is_refused) {
    Arena arena(kBase, 64 * kMiB);
    arena.add_extent(kBase, 2 * kMiB);
    CHECK(!arena.allocate(0));
    CHECK(!arena.allocate(~uint64_t{0}));
    CHECK(!arena.free(kBase, 0));
    const auto a = arena.allocate(1000);
    CHECK(!arena.free(a->base + 8, 0));
    CHECK(!arena.find(a->base + 1000));
    CHECK(!arena.find(kBase - 1));
    CHECK(!arena.place(65 * kMiB));
}

CARREL_TEST_MAIN
