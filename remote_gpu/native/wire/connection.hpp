// From a connected socket to the channel of a session, at both ends.
#pragma once
#include <string_view>

#include "wire/channel.hpp"
#include "wire/endpoint.hpp"

namespace carrel::wire {

// The client's end. Takes the connection's descriptor over. Throws std::runtime_error.
Channel open(const Connection& connection);

// The worker's end, by the name that the door gave it:
//     socket   the descriptor itself
//     ring     a Unix socket over which shared memory is passed
// Throws std::runtime_error, or std::invalid_argument for another name.
Channel serve(std::string_view transport, int fd);

}  // namespace carrel::wire
