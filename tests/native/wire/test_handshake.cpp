// Known vectors (FIPS 180-4 examples, RFC 4231), the layout of the handshake, and connect() against
// doors of every temper.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "check.hpp"
#include "wire/endpoint.hpp"
#include "wire/handshake.hpp"
#include "wire/sha256.hpp"

using namespace carrel::wire;

namespace {

std::string hex(const Hash& hash) {
    std::string text;
    char digits[3];
    for (const uint8_t byte : hash) {
        std::snprintf(digits, sizeof digits, "%02x", byte);
        text += digits;
    }
    return text;
}

std::string hash_of(const std::string& text) {
    return hex(sha256(text.data(), text.size()));
}

std::string hmac_of(const std::string& key, const std::string& text) {
    const std::array<std::span<const uint8_t>, 1> parts = {
        std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())};
    return hex(hmac_sha256({reinterpret_cast<const uint8_t*>(key.data()), key.size()}, parts));
}

void slice(const char* endpoint, const char* lease, const char* key) {
    setenv("CARREL_ENDPOINT", endpoint, 1);
    setenv("CARREL_LEASE", lease, 1);
    setenv("CARREL_LEASE_KEY", key, 1);
}

const std::string kKey(64, 'a');
const uint8_t kProtocol[32] = {1, 2, 3};

// A front door for one client, on a thread of its own. `serve` speaks through send and receive.
class Door {
  public:
    explicit Door(std::function<void(Door&)> serve) {
        listening_ = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in where{};
        where.sin_family = AF_INET;
        where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof where;
        CHECK_EQ(bind(listening_, reinterpret_cast<sockaddr*>(&where), size), 0);
        CHECK_EQ(listen(listening_, 1), 0);
        getsockname(listening_, reinterpret_cast<sockaddr*>(&where), &size);
        endpoint_ = "127.0.0.1:" + std::to_string(ntohs(where.sin_port));
        thread_ = std::thread([this, serve] {
            pollfd waiting{listening_, POLLIN, 0};
            if (poll(&waiting, 1, 10000) == 1) client_ = accept(listening_, nullptr, nullptr);
            if (client_ >= 0) serve(*this);
            if (client_ >= 0) close(client_);
        });
    }
    ~Door() {
        thread_.join();
        close(listening_);
    }
    const char* endpoint() const { return endpoint_.c_str(); }

    std::vector<uint8_t> receive(size_t size) {
        std::vector<uint8_t> data(size);
        size_t done = 0;
        while (done < size) {
            const ssize_t n = recv(client_, data.data() + done, size - done, 0);
            if (n <= 0) break;
            done += static_cast<size_t>(n);
        }
        data.resize(done);
        return data;
    }
    std::vector<uint8_t> receive_hello() {
        auto hello = receive(8 + 1 + 32 + 32 + 4);
        for (int text = 0; text < 4; ++text) {
            const auto length = receive(2);
            const auto bytes = receive(static_cast<size_t>(length[0] | length[1] << 8));
            hello.insert(hello.end(), length.begin(), length.end());
            hello.insert(hello.end(), bytes.begin(), bytes.end());
        }
        return hello;
    }
    void send(const void* data, size_t size) {
        const auto* bytes = static_cast<const char*>(data);
        for (size_t i = 0; i < size; i += step) {
            ::send(client_, bytes + i, std::min(step, size - i), MSG_NOSIGNAL);
            if (step < size) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
    void send_status(uint32_t status, const std::string& message) {
        const auto length = static_cast<uint16_t>(message.size());
        send(&status, sizeof status);
        send(&length, sizeof length);
        send(message.data(), message.size());
    }
    // Up to the client's proof; true when that is right.
    bool challenge(const Hash& key) {
        const auto hello = receive_hello();
        Hash nonce{};
        nonce[5] = 9;
        const Hash mine = proof(key, "carrel-door", hello, nonce);
        send_status(0, "");
        send(nonce.data(), nonce.size());
        send(mine.data(), mine.size());
        const auto got = receive(32);
        Hash theirs{};
        if (got.size() != theirs.size()) return false;
        std::copy(got.begin(), got.end(), theirs.begin());
        return equal(theirs, proof(key, "carrel-client", hello, nonce));
    }

    size_t step = 4096;  // bytes a packet

  private:
    int listening_ = -1;
    int client_ = -1;
    std::string endpoint_;
    std::thread thread_;
};

Hash key() {
    Hash bytes;
    bytes.fill(0xaa);
    return bytes;
}

Connection connect_to(const Door& door, std::chrono::milliseconds limit = std::chrono::seconds(5)) {
    slice(door.endpoint(), "lease-1", kKey.c_str());
    return connect(Purpose::monitor, Credentials::from_environment(), kProtocol, limit);
}

bool has(const Connection& connection, const char* text) {
    return connection.error.find(text) != std::string::npos &&
           connection.error.find(kKey) == std::string::npos;
}

}  // namespace

TEST(sha256_of_known_texts) {
    CHECK_EQ(hash_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK_EQ(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
             "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK_EQ(hash_of(std::string(1000000, 'a')),
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(sha256_is_the_same_with_and_without_instructions) {
    std::string text;
    for (int i = 0; i < 300; ++i) {
        for (const size_t first : {size_t{0}, text.size() / 3, text.size()}) {
            Sha256 fast, plain(false);
            for (Sha256* each : {&fast, &plain}) {
                each->update(text.data(), first);
                each->update(text.data() + first, text.size() - first);
            }
            CHECK(equal(fast.finish(), plain.finish()));
        }
        text += static_cast<char>(i * 37 + i / 7);
    }
}

TEST(hmac_of_known_keys) {
    CHECK_EQ(hmac_of(std::string(20, '\x0b'), "Hi There"),
             "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    CHECK_EQ(hmac_of("Jefe", "what do ya want for nothing?"),
             "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    CHECK_EQ(
        hmac_of(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(hello_has_its_layout_and_limits) {
    Hello hello;
    const std::string lease(100, 'x');
    hello.lease = lease;
    hello.pid = 0x01020304;
    const auto bytes = encode(hello);
    CHECK_EQ(bytes.size(), size_t{8 + 1 + 32 + 32 + 4 + 2 + 64 + 2 + 2 + 2});
    CHECK_EQ(bytes[8], uint8_t{1});
    CHECK_EQ(bytes[73], uint8_t{4});
    CHECK_EQ(bytes[77], uint8_t{64});
}

TEST(proofs_differ_by_side_key_and_nonce) {
    const std::vector<uint8_t> hello = {1, 2, 3};
    Hash key{}, nonce{}, other{};
    other[0] = 1;
    const Hash door = proof(key, "carrel-door", hello, nonce);
    CHECK(equal(door, proof(key, "carrel-door", hello, nonce)));
    CHECK(!equal(door, proof(key, "carrel-client", hello, nonce)));
    CHECK(!equal(door, proof(other, "carrel-door", hello, nonce)));
    CHECK(!equal(door, proof(key, "carrel-door", hello, other)));
}

TEST(credentials_say_what_is_wrong) {
    unsetenv("CARREL_ENDPOINT");
    unsetenv("CARREL_LEASE");
    CHECK(!Credentials::from_environment().error.empty());
    slice("127.0.0.1", "lease", kKey.c_str());
    CHECK_EQ(Credentials::from_environment().error, "CARREL_ENDPOINT is not host:port");
    slice("127.0.0.1:7", "lease", "abc");
    CHECK_EQ(Credentials::from_environment().error,
             "CARREL_LEASE_KEY must hold 64 hexadecimal digits");
    slice("[::1]:7000", "lease", kKey.c_str());
    const Credentials good = Credentials::from_environment();
    CHECK_EQ(good.error, "");
    CHECK_EQ(good.host, "::1");
    CHECK_EQ(good.port, "7000");
    CHECK_EQ(good.key[0], uint8_t{0xaa});
}

TEST(an_unreachable_door_is_an_error_with_a_reason) {
    slice("127.0.0.1:1", "lease", kKey.c_str());
    const uint8_t protocol[32] = {};
    const Connection none = connect(Purpose::session, Credentials::from_environment(), protocol);
    CHECK_EQ(none.fd, -1);
    CHECK(none.status == Status::unreachable);
    CHECK(none.error.find("127.0.0.1:1") != std::string::npos);
    CHECK(none.error.find(kKey) == std::string::npos);
}

TEST(a_door_that_knows_the_key_is_connected_to) {
    bool proved = false;
    std::vector<uint8_t> after;
    {
        Door door([&](Door& d) {
            proved = d.challenge(key());
            d.send_status(0, "");
            d.send("\2\0s7!", 5);  // the last byte belongs to what follows
            after = d.receive(1);
        });
        const Connection connection = connect_to(door);
        CHECK_EQ(connection.error, "");
        CHECK(connection.fd >= 0);
        CHECK_EQ(connection.session, "s7");
        int undelayed = 0;
        socklen_t size = sizeof undelayed;
        getsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &undelayed, &size);
        CHECK(undelayed != 0);
        char next = 0;
        CHECK_EQ(read(connection.fd, &next, 1), ssize_t{1});  // blocking again
        CHECK_EQ(next, '!');
        CHECK_EQ(write(connection.fd, "?", 1), ssize_t{1});
        close(connection.fd);
    }
    CHECK(proved);
    CHECK_EQ(after.size(), size_t{1});
}

TEST(a_door_with_another_key_is_not_trusted) {
    bool proved = true;
    size_t told = 1;
    {
        Door door([&](Door& d) {
            proved = d.challenge(Hash{});
            told = d.receive(1).size();
        });
        const Connection connection = connect_to(door);
        CHECK_EQ(connection.fd, -1);
        CHECK(connection.status == Status::refused);
        CHECK(has(connection, "does not match the lease key"));
    }
    CHECK(!proved);  // it got no proof to try elsewhere
    CHECK_EQ(told, size_t{0});
}

TEST(a_refusal_says_why) {
    const struct {
        uint32_t status;
        const char* means;
    } refusals[] = {{1, "different Carrel versions"},
                    {2, "no such lease"},
                    {3, "has expired"},
                    {4, "another worker"},
                    {5, "could not read"}};
    for (const auto& refusal : refusals) {
        for (const bool at_welcome : {false, true}) {
            Door door([&](Door& d) {
                if (at_welcome) {
                    d.challenge(key());
                    d.send_status(refusal.status, "because of the test");
                    d.send("\0\0", 2);
                } else {
                    d.receive_hello();
                    d.send_status(refusal.status, "because of the test");
                }
            });
            const Connection connection = connect_to(door);
            CHECK_EQ(connection.fd, -1);
            CHECK_EQ(static_cast<uint32_t>(connection.status), refusal.status);
            CHECK(has(connection, refusal.means));
            CHECK(has(connection, "because of the test"));
        }
    }
}

TEST(a_silent_door_costs_no_more_than_the_limit) {
    Door door([](Door& d) {
        d.receive_hello();
        d.receive(1);  // until the client gives up
    });
    const auto start = std::chrono::steady_clock::now();
    const Connection connection = connect_to(door, std::chrono::milliseconds(300));
    const auto took = std::chrono::steady_clock::now() - start;
    CHECK_EQ(connection.fd, -1);
    CHECK(connection.status == Status::unreachable);
    CHECK(has(connection, "no answer within 0.3 s"));
    CHECK(took >= std::chrono::milliseconds(300));
    CHECK(took < std::chrono::seconds(3));
}

TEST(a_door_that_hangs_up_or_talks_nonsense_is_an_error) {
    Door rude([](Door& d) { d.receive_hello(); });
    CHECK(has(connect_to(rude), "the connection was closed"));
    Door web([](Door& d) {
        d.receive_hello();
        d.send("\0\0\0\0\xff\xff HTTP", 11);
    });
    CHECK(has(connect_to(web), "not a front door's"));
}

TEST(signals_and_single_bytes_do_not_disturb) {
    static volatile sig_atomic_t signals = 0;
    struct sigaction count{}, before{};
    count.sa_handler = [](int) { signals = signals + 1; };  // without SA_RESTART
    sigaction(SIGALRM, &count, &before);
    Connection connection;
    {
        Door door([](Door& d) {
            sigset_t alarms;
            sigemptyset(&alarms);
            sigaddset(&alarms, SIGALRM);
            pthread_sigmask(SIG_BLOCK, &alarms, nullptr);  // all of them are for the client
            d.step = 1;
            d.challenge(key());
            d.send_status(0, "");
            d.send("\2\0s8", 4);
        });
        const itimerval often{{0, 500}, {0, 500}}, never{};
        setitimer(ITIMER_REAL, &often, nullptr);
        connection = connect_to(door);
        setitimer(ITIMER_REAL, &never, nullptr);
    }
    sigaction(SIGALRM, &before, nullptr);
    CHECK_EQ(connection.error, "");
    CHECK_EQ(connection.session, "s8");
    CHECK(signals > 10);
    close(connection.fd);
}

CARREL_TEST_MAIN
