// From the environment of a slice to an authenticated connection with the node's front door.
#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "wire/handshake.hpp"

namespace carrel::wire {

// What the environment of a slice names: CARREL_ENDPOINT, CARREL_LEASE, CARREL_LEASE_KEY and,
// optionally, CARREL_SESSION_NAME. A node on this host is met over its Unix socket: the one that
// CARREL_NODE_SOCKET names (a path, or @ and an abstract name), or, for an endpoint on loopback,
// the one that the node opens beside its port. CARREL_TRANSPORT=tcp forbids it.
struct Credentials {
    std::string host;
    std::string port;
    std::string node_socket;
    std::string lease;
    std::string session_name;
    Hash key{};
    // CARREL_TLS: on, off, or auto, which is on unless the node is on loopback.
    enum class Tls { automatic, on, off } tls = Tls::automatic;
    std::chrono::seconds grace{30};  // CARREL_RECONNECT_S: how long a broken connection is retried
    std::string error;               // why these are no credentials; empty when they are

    static Credentials from_environment();
};

struct Connection {
    int fd = -1;         // the caller's to close; -1 when there is none
    bool local = false;  // over the node's Unix socket
    Status status = Status::ok;
    std::optional<Hash> tls_key;  // TLS follows, with this key
    std::string session;          // the id that the door gave
    std::string error;            // for the person who started the program; empty when connected
    Credentials credentials;      // of a session: with them it is continued
};

// Connects, proves the lease key and checks the door's proof, all within `limit`. Only looking up
// the host's name is beyond it: that takes as long as the system's resolver lets it. A session
// tries the node's Unix socket first, which has at most a second of it, and goes on with TCP if
// that leads nowhere, whatever sat there.
Connection connect(Purpose purpose, const Credentials& credentials, const uint8_t (&protocol)[32],
                   std::chrono::milliseconds limit = std::chrono::seconds(5));

// Another connection for a session whose own one broke, over TCP.
Connection reconnect(const std::string& session, const Credentials& credentials,
                     const uint8_t (&protocol)[32],
                     std::chrono::milliseconds limit = std::chrono::seconds(5));

}  // namespace carrel::wire
