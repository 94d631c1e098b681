#include "wire/connection.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "wire/local.hpp"
#include "wire/log.hpp"
#include "wire/resumable.hpp"
#include "wire/socket.hpp"
#include "wire/tls.hpp"

namespace carrel::wire {

namespace {
// A worker passes its memory on as soon as it runs.
constexpr auto kMemoryWithin = std::chrono::seconds(10);
constexpr auto kTlsWithin = std::chrono::seconds(5);

std::unique_ptr<Transport> carry(int fd, const std::optional<Hash>& tls_key, bool client) {
    tune_socket(fd);
    if (tls_key && client) return Tls::connect(fd, *tls_key, kTlsWithin);
    if (tls_key) return Tls::accept(fd, *tls_key, kTlsWithin);
    return std::make_unique<Socket>(fd);
}
}  // namespace

Channel open(const Connection& connection, const uint8_t (&protocol)[32]) {
    if (connection.local) return Channel(Local::accept(connection.fd, kMemoryWithin));
    std::array<uint8_t, 32> hash;
    std::copy(std::begin(protocol), std::end(protocol), hash.begin());
    auto again = [credentials = connection.credentials, session = connection.session,
                  hash](bool* final) -> std::unique_ptr<Transport> {
        uint8_t protocol[32];
        std::copy(hash.begin(), hash.end(), protocol);
        const Connection next = reconnect(session, credentials, protocol);
        try {
            if (next.fd >= 0) return carry(next.fd, next.tls_key, true);
        } catch (const std::runtime_error& error) {
            CARREL_INFO("not yet: %s", error.what());
            return nullptr;
        }
        *final = next.status != Status::unreachable && next.status != Status::busy;
        CARREL_INFO("not yet: %s", next.error.c_str());
        return nullptr;
    };
    return Channel(std::make_unique<Resumable>(carry(connection.fd, connection.tls_key, true),
                                               connection.credentials.grace, std::move(again)));
}

std::unique_ptr<Transport> serve_again(int fd, const std::optional<Hash>& tls_key) {
    return carry(fd, tls_key, false);
}

Channel serve(std::string_view transport, int fd, std::chrono::milliseconds grace,
              const std::optional<Hash>& tls_key) {
    if (transport == "stream") {
        return Channel(std::make_unique<Resumable>(carry(fd, tls_key, false), grace));
    }
    if (transport == "ring") return Channel(Local::offer(fd));
    if (transport != "socket") {
        throw std::invalid_argument("carrel-worker: unknown transport " + std::string(transport));
    }
    tune_socket(fd);
    return Channel(fd);
}

}  // namespace carrel::wire
