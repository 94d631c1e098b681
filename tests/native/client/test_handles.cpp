// Handles: what was never minted, or is gone, is found out.
#include <set>
#include <thread>

#include "check.hpp"
#include "client/handles.hpp"

using namespace carrel::client;

TEST(stale_and_foreign_handles_are_unknown) {
    Handles table;
    int object = 0;
    const uint32_t name = table.create(Kind::event, &object, 3);
    CHECK(table.kind(name) == Kind::event);
    CHECK(table.object(name) == &object);
    CHECK_EQ(table.context(name), 3u);
    const auto handle = Handles::handle<CUevent>(name);
    CHECK_EQ(Handles::name(handle), name);
    CHECK(table.erase(name));
    CHECK(!table.erase(name));
    CHECK(table.kind(name) == Kind::none);
    CHECK(table.object(name) == nullptr);
    for (const uint64_t value : {0ull, 1ull, 2ull, 0xdeadbeefull, 0x7fff12345678ull, ~0ull}) {
        CHECK(table.kind(Handles::name(reinterpret_cast<void*>(value))) == Kind::none);
    }
}

TEST(names_are_not_reused_soon) {
    Handles table;
    std::set<uint32_t> seen;
    for (int i = 0; i < 100000; ++i) {
        const uint32_t name = table.create(Kind::event);
        CHECK(seen.insert(name).second);
        table.erase(name);
    }
}

TEST(a_context_takes_its_objects_along) {
    Handles table;
    const uint32_t mine = table.create(Kind::stream, nullptr, 1);
    const uint32_t other = table.create(Kind::stream, nullptr, 2);
    table.erase_context(1);
    CHECK(table.kind(mine) == Kind::none);
    CHECK(table.kind(other) == Kind::stream);
}

TEST(many_threads_mint_distinct_names) {
    Handles table;
    std::vector<std::vector<uint32_t>> names(8);
    std::vector<std::thread> threads;
    for (auto& mine : names) {
        threads.emplace_back([&] {
            for (int i = 0; i < 5000; ++i) {
                mine.push_back(table.create(Kind::event));
                if (i % 3 == 0) {
                    table.erase(mine.back());
                    mine.pop_back();
                }
            }
        });
    }
    for (auto& t : threads) t.join();
    std::set<uint32_t> all;
    for (const auto& mine : names) {
        for (const uint32_t name : mine) {
            CHECK(all.insert(name).second);
            CHECK(table.kind(name) == Kind::event);
        }
    }
}

CARREL_TEST_MAIN
