// From the environment of a slice to an authenticated connection with the node's front door.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

#include "wire/handshake.hpp"

namespace carrel::wire {

// What the environment of a slice names: CARREL_ENDPOINT, CARREL_LEASE, CARREL_LEASE_KEY and,
// optionally, CARREL_SESSION_NAME.
struct Credentials {
    std::string host;
    std::string port;
    std::string lease;
    std::string session_name;
    Hash key{};
    std::string error;  // why these are no credentials; empty when they are

    static Credentials from_environment();
};

struct Connection {
    int fd = -1;  // the caller's to close; -1 when there is none
    Status status = Status::ok;
    std::string session;  // the id that the door gave
    std::string error;    // for the person who started the program; empty when connected
};

// Connects, proves the lease key and checks the door's proof, all within `limit`. Only looking up
// the host's name is beyond it: that takes as long as the system's resolver lets it.
Connection connect(Purpose purpose, const Credentials& credentials, const uint8_t (&protocol)[32],
                   std::chrono::milliseconds limit = std::chrono::seconds(5));

}  // namespace carrel::wire
