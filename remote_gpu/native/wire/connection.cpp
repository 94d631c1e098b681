#include "wire/connection.hpp"

#include <stdexcept>
#include <string>

#include "wire/local.hpp"
#include "wire/socket.hpp"

namespace carrel::wire {

namespace {
// A worker passes its memory on as soon as it runs.
constexpr auto kMemoryWithin = std::chrono::seconds(10);
}  // namespace

Channel open(const Connection& connection) {
    if (connection.local) return Channel(Local::accept(connection.fd, kMemoryWithin));
    tune_socket(connection.fd);
    return Channel(connection.fd);
}

Channel serve(std::string_view transport, int fd) {
    if (transport == "ring") return Channel(Local::offer(fd));
    if (transport != "socket") {
        throw std::invalid_argument("carrel-worker: unknown transport " + std::string(transport));
    }
    tune_socket(fd);
    return Channel(fd);
}

}  // namespace carrel::wire
