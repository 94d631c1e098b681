// From a connected socket to the channel of a session, at both ends.
#pragma once
#include <string_view>

#include "wire/channel.hpp"
#include "wire/endpoint.hpp"

namespace carrel::wire {

// The client's end, of a session. Takes the connection's descriptor over. Throws
// std::runtime_error.
Channel open(const Connection& connection, const uint8_t (&protocol)[32]);

// The worker's end, by the name that the door gave it:
//     socket   the descriptor itself
//     ring     a Unix socket over which shared memory is passed
//     stream   a stream that survives the socket for `grace`; see wire/resumable.hpp
// Throws std::runtime_error, or std::invalid_argument for another name.
// With a key, TLS goes before the stream.
Channel serve(std::string_view transport, int fd, std::chrono::milliseconds grace,
              const std::optional<Hash>& tls_key = {});
// What continue_on() of such a stream takes.
std::unique_ptr<Transport> serve_again(int fd, const std::optional<Hash>& tls_key = {});

}  // namespace carrel::wire
