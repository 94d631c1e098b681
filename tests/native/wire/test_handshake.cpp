// Known vectors (FIPS 180-4 examples, RFC 4231) and the layout of the handshake.
#include <cstdlib>

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

}  // namespace

TEST(sha256_of_known_texts) {
    CHECK_EQ(hash_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK_EQ(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
             "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK_EQ(hash_of(std::string(1000000, 'a')),
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
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

CARREL_TEST_MAIN
