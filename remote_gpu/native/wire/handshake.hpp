// The first bytes between a client and a node's front door: who asks, for which lease, and a proof
// from both sides that they know its key without sending it. All integers little-endian.
//
//     client → door   hello:      magic "CARREL\0\1", u8 purpose, u8[32] protocol hash,
//                                 u8[32] nonce, u32 pid, and four texts (u16 length + bytes):
//                                 lease, session name, host, program
//     door → client   challenge:  u32 status, text message, u8[32] nonce,
//                                 u8[32] HMAC-SHA-256(key, "carrel-door" ‖ hello ‖ nonce)
//     client → door   proof:      u8[32] HMAC-SHA-256(key, "carrel-client" ‖ hello ‖ nonce)
//     door → client   welcome:    u32 status, text message, text session id
//
// Pure encoding; sockets are endpoint.cpp's. remote_gpu/handshake.py is the door's side.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "wire/sha256.hpp"

namespace carrel::wire {

// To resume is to continue a session whose connection broke; its id stands for the session name.
enum class Purpose : uint8_t { session = 1, monitor = 2, resume = 3 };

// Set in the purpose: TLS follows the welcome, with a key that both sides derive from the lease
// key: HMAC-SHA-256(key, "carrel-tls" ‖ hello ‖ nonce). Whoever takes it out on the way breaks the
// proofs.
inline constexpr uint8_t kTlsFollows = 0x80;

enum class Status : uint32_t {
    ok = 0,
    version = 1,    // client and node were built from different descriptions
    refused = 2,    // unknown lease or wrong key
    ended = 3,      // the lease has expired or ended
    busy = 4,       // no worker could start
    malformed = 5,  // the door could not read what it got
    gone = 6,       // there is no such session to resume
    // What the door never sends:
    no_credentials = 100,
    unreachable = 101,
};

inline constexpr size_t kMaxLease = 64;
inline constexpr size_t kMaxName = 256;
inline constexpr size_t kMaxHost = 64;
inline constexpr size_t kMaxMessage = 1024;

struct Hello {
    Purpose purpose = Purpose::session;
    bool tls = false;
    Hash protocol{};
    Hash nonce{};
    uint32_t pid = 0;
    std::string_view lease, session_name, host, program;  // cut at their limits
};

std::vector<uint8_t> encode(const Hello& hello);

// The proof of one side: `who` is "carrel-door", "carrel-client" or, for the key of TLS,
// "carrel-tls".
Hash proof(const Hash& key, std::string_view who, const std::vector<uint8_t>& hello,
           const Hash& door_nonce);

// What a status means to the person who meets it.
const char* explain(Status status);

}  // namespace carrel::wire
