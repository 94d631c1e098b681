// What the relay is told on its command line.
#pragma once

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sstream>
#include <string>

using std::chrono::nanoseconds;

inline constexpr char kHelp[] = R"(usage: relay --to HOST:PORT [options]

Relays TCP connections to HOST:PORT through an emulated link. Prints {"port": N}, the port that it
listens on (127.0.0.1), then answers each line of standard input with one line; ends with its input.

  --rtt-ms MS         round trip to add, half in each direction (default 0)
  --gbit-s G          bandwidth of each direction, shared by all connections (default: no limit)
  --window BYTES      what one direction of a connection may have under way (default 8 MiB); past
                      that the sender waits
  --spin-us US        watch the clock for so long before bytes are due, instead of sleeping
                      (default 0: the system's timer decides, usually good to some 10 us on
                      an idle machine)
  --cut LIST          break all connections: BYTES:SECONDS[:HOW],... each once so many bytes have
                      passed since the last; "signal" in place of BYTES waits for SIGUSR1. For so
                      many seconds nobody is let in. HOW: fin (an orderly end, the default), rst
                      (a reset), mute (bytes vanish for as long, then a reset)

commands: rtt MS | bandwidth GBIT_S (0: no limit) | cut SECONDS [HOW] | stats
)";

[[noreturn]] inline void die(const std::string& what) {
    std::fprintf(stderr, "relay: %s\n", what.c_str());
    std::exit(1);
}

inline nanoseconds from_ms(double ms) {
    return nanoseconds(static_cast<int64_t>(ms * 1e6));
}

struct Cut {
    uint64_t bytes = 0;  // since the last cut
    nanoseconds closed{};
    std::string how = "fin";
    bool by_signal = false;
};

struct RelayOptions {
    sockaddr_storage target{};
    socklen_t target_size = 0;
    nanoseconds delay{};  // one way
    double gbit_s = 0;
    size_t window = 8 << 20;
    nanoseconds spin{};
    std::deque<Cut> cuts;
};

inline double number(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end || !(value >= 0)) die(text + " is not a number; see --help");
    return value;
}

inline std::deque<Cut> parse_cuts(const std::string& list) {
    std::deque<Cut> cuts;
    std::istringstream all(list);
    for (std::string one; std::getline(all, one, ',');) {
        std::istringstream parts(one);
        std::string bytes, seconds, how;
        std::getline(parts, bytes, ':');
        std::getline(parts, seconds, ':');
        Cut cut{.closed = from_ms(number(seconds) * 1e3), .by_signal = bytes == "signal"};
        if (!cut.by_signal) cut.bytes = std::max<uint64_t>(1, static_cast<uint64_t>(number(bytes)));
        if (std::getline(parts, how)) cut.how = how;
        if (cut.how != "fin" && cut.how != "rst" && cut.how != "mute")
            die(how + " is no way to cut; see --help");
        cuts.push_back(cut);
    }
    return cuts;
}

inline void resolve(const std::string& text, RelayOptions& o) {
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos) die(text + " is not HOST:PORT");
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error =
        getaddrinfo(text.substr(0, colon).c_str(), text.substr(colon + 1).c_str(), &hints, &found);
    if (error) die(text + ": " + gai_strerror(error));
    std::memcpy(&o.target, found->ai_addr, found->ai_addrlen);
    o.target_size = found->ai_addrlen;
    freeaddrinfo(found);
}

inline RelayOptions parse_relay_options(int argc, char** argv) {
    RelayOptions o;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--help" || name == "-h") {
            std::fputs(kHelp, stdout);
            std::exit(0);
        }
        if (i + 1 == argc) die(name + " needs a value; see --help");
        const std::string value = argv[++i];
        if (name == "--to") {
            resolve(value, o);
        } else if (name == "--rtt-ms") {
            o.delay = from_ms(number(value) / 2);
        } else if (name == "--gbit-s") {
            o.gbit_s = number(value);
        } else if (name == "--window") {
            o.window = std::max<size_t>(64 << 10, static_cast<size_t>(number(value)));
        } else if (name == "--spin-us") {
            o.spin = from_ms(number(value) / 1e3);
        } else if (name == "--cut") {
            o.cuts = parse_cuts(value);
        } else {
            die("unknown option " + name + "; see --help");
        }
    }
    if (!o.target_size) die("--to HOST:PORT is needed; see --help");
    return o;
}
