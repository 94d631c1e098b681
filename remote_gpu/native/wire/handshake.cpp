#include "wire/handshake.hpp"

#include <algorithm>
#include <array>

namespace carrel::wire {
namespace {

void put(std::vector<uint8_t>& out, const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    out.insert(out.end(), bytes, bytes + size);
}

void put_text(std::vector<uint8_t>& out, std::string_view text, size_t limit) {
    const auto size = static_cast<uint16_t>(std::min(text.size(), limit));
    put(out, &size, sizeof size);
    put(out, text.data(), size);
}

std::span<const uint8_t> bytes(std::string_view text) {
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

std::vector<uint8_t> encode(const Hello& hello) {
    static constexpr char kMagic[8] = {'C', 'A', 'R', 'R', 'E', 'L', 0, 1};
    std::vector<uint8_t> out;
    put(out, kMagic, sizeof kMagic);
    const auto purpose =
        static_cast<uint8_t>(static_cast<uint8_t>(hello.purpose) | (hello.tls ? kTlsFollows : 0));
    put(out, &purpose, sizeof purpose);
    put(out, hello.protocol.data(), hello.protocol.size());
    put(out, hello.nonce.data(), hello.nonce.size());
    put(out, &hello.pid, sizeof hello.pid);
    put_text(out, hello.lease, kMaxLease);
    put_text(out, hello.session_name, kMaxName);
    put_text(out, hello.host, kMaxHost);
    put_text(out, hello.program, kMaxName);
    return out;
}

Hash proof(const Hash& key, std::string_view who, const std::vector<uint8_t>& hello,
           const Hash& door_nonce) {
    const std::array<std::span<const uint8_t>, 3> parts = {bytes(who), hello, door_nonce};
    return hmac_sha256(key, parts);
}

const char* explain(Status status) {
    switch (status) {
        case Status::ok:
            return "connected";
        case Status::version:
            return "this slice's client libraries and the GPU node are of different Carrel "
                   "versions; "
                   "restart your server to get matching ones";
        case Status::refused:
            return "the GPU node knows no such lease, or its key is another";
        case Status::ended:
            return "the lease has expired or ended; restart your server to get a new one";
        case Status::busy:
            return "the GPU node cannot start another worker now; try again";
        case Status::malformed:
            return "the GPU node could not read the request";
        case Status::gone:
            return "the GPU node has ended this session";
        case Status::no_credentials:
            return "this process is not in a slice";
        case Status::unreachable:
            return "the GPU node cannot be reached";
    }
    return "the GPU node answered with an unknown status";
}

}  // namespace carrel::wire
