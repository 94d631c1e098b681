// What a network between two programs gives: round trip and bandwidth, as a plain TCP connection
// sees them.
//
//   tcp_probe serve               prints the port of a peer; ends with standard input
//   tcp_probe measure PORT...     the connections side by side, in turns; prints one JSON array
#include <cstring>
#include <memory>
#include <string>

#include "raw_tcp.hpp"

namespace {

constexpr int kRounds = 30, kPings = 10;
constexpr size_t kBytes = 16 << 20;

struct Measured {
    explicit Measured(int port) : connection(port) {}
    raw_tcp::Connection connection;
    std::vector<double> ping, send, receive;
};

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    if (mode == "serve") {
        const raw_tcp::Peer peer;
        std::printf("%d\n", peer.port());
        std::fflush(stdout);
        while (std::getchar() != EOF) {
        }
        return 0;
    }
    if (mode != "measure" || argc < 3) {
        std::fputs("usage: tcp_probe serve | tcp_probe measure PORT...\n", stderr);
        return 2;
    }
    std::vector<std::unique_ptr<Measured>> all;
    for (int i = 2; i < argc; ++i) all.push_back(std::make_unique<Measured>(std::atoi(argv[i])));
    std::vector<char> data(kBytes, 1);
    for (int round = 0; round < kRounds; ++round) {
        for (const auto& m : all) {
            m->connection.ping();  // wakes what has gone to sleep
            for (int i = 0; i < kPings; ++i) m->ping.push_back(m->connection.ping());
        }
    }
    for (int round = 0; round < 3; ++round) {
        for (const auto& m : all) {
            m->send.push_back(m->connection.send(data));
            m->receive.push_back(m->connection.receive(data));
        }
    }
    for (size_t i = 0; i < all.size(); ++i) {
        std::printf("%s{\"rtt_us\": %.2f, \"send_gib_s\": %.4g, \"receive_gib_s\": %.4g}",
                    i ? ", " : "[", median(all[i]->ping) * 1e6,
                    kBytes / 1073741824.0 / median(all[i]->send),
                    kBytes / 1073741824.0 / median(all[i]->receive));
    }
    std::printf("]\n");
    return 0;
}
