// TLS with a key that both ends have: what is sent arrives, both ways at once; who has another key,
// none, or stays silent is refused in time.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "wire/channel.hpp"
#include "wire/resumable.hpp"
#include "wire/tls.hpp"

using namespace carrel::wire;
using namespace std::chrono_literals;

namespace {

Hash key_of(uint8_t value) {
    Hash key;
    key.fill(value);
    return key;
}

struct Pair {
    Channel node, client;
    std::string node_error, client_error;

    explicit Pair(const Hash& theirs = key_of(7), const Hash& ours = key_of(7)) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
        std::thread accepting([&] {
            try {
                node = Channel(Tls::accept(ends[0], theirs, 2s));
            } catch (const std::runtime_error& error) {
                node_error = error.what();
            }
        });
        try {
            client = Channel(Tls::connect(ends[1], ours, 2s));
        } catch (const std::runtime_error& error) {
            client_error = error.what();
        }
        accepting.join();
    }
};

std::vector<char> data_of(size_t size, char seed) {
    std::vector<char> data(size);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(seed + i * 31 + (i >> 9));
    return data;
}

}  // namespace

TEST(both_ways_at_once) {
    Pair pair;
    REQUIRE(pair.node.open() && pair.client.open());
    const auto there = data_of(9'000'001, 1), back = data_of(5'000'003, 2);
    const auto send = [](Channel& to, const std::vector<char>& data) {
        const iovec parts[3] = {{const_cast<char*>(data.data()), 16},
                                {const_cast<char*>(data.data()) + 16, 70'000},
                                {const_cast<char*>(data.data()) + 70'016, data.size() - 70'016}};
        CHECK_EQ(to.send(parts), 0);
    };
    std::vector<char> got_there(there.size()), got_back(back.size());
    std::thread threads[] = {
        std::thread([&] { send(pair.client, there); }),
        std::thread([&] { send(pair.node, back); }),
        std::thread([&] { CHECK(pair.node.receive(got_there.data(), got_there.size())); }),
        std::thread([&] { CHECK(pair.client.receive(got_back.data(), got_back.size())); }),
    };
    for (std::thread& thread : threads) thread.join();
    CHECK(got_there == there);
    CHECK(got_back == back);
    pair.client.transport().end_sending();
    char byte;
    CHECK(!pair.node.receive(&byte, 1));
    CHECK_EQ(pair.node.error(), 0);
}

TEST(another_key_is_refused_at_both_ends) {
    const Pair pair(key_of(7), key_of(8));
    CHECK(!pair.node.open());
    CHECK(!pair.client.open());
    CHECK(pair.node_error.find("another key") != std::string::npos);
}

TEST(who_is_silent_is_refused_in_time) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    std::string why;
    try {
        Tls::accept(ends[0], key_of(1), 50ms);
    } catch (const std::runtime_error& error) {
        why = error.what();
    }
    CHECK(why.find("in time") != std::string::npos);
    close(ends[1]);
}

TEST(who_speaks_no_tls_is_refused) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    REQUIRE(write(ends[1], "GET / HTTP/1.1\r\n\r\n", 18) == 18);
    bool refused = false;
    try {
        Tls::accept(ends[0], key_of(1), 1s);
    } catch (const std::runtime_error&) {
        refused = true;
    }
    CHECK(refused);
    close(ends[1]);
}

TEST(a_closed_connection_is_an_end) {
    Pair pair;
    REQUIRE(pair.node.open() && pair.client.open());
    pair.client.close();
    char byte;
    CHECK(!pair.node.receive(&byte, 1));
}

CARREL_TEST_MAIN
