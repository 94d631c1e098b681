// carrel-worker: serves one client process on one GPU. Started by a node's front door.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <utility>

#include "carrel_protocol.hpp"
#include "wire/connection.hpp"
#include "wire/log.hpp"
#include "worker/console.hpp"
#include "worker/control.hpp"
#include "worker/device.hpp"
#include "worker/options.hpp"
#include "worker/server.hpp"

namespace {

constexpr const char* kVersion = "0.1.0";

int describe() {
    std::printf("{\"protocol\": \"");
    for (const uint8_t byte : carrel::kProtocolHash) std::printf("%02x", byte);
    std::printf("\", \"version\": \"%s\"}\n", kVersion);
    return 0;
}

// The key comes through a pipe: command lines are for all to see.
std::optional<carrel::wire::Hash> tls_key(int fd) {
    if (fd < 0) return std::nullopt;
    carrel::wire::Hash key;
    const ssize_t size = ::read(fd, key.data(), key.size());
    ::close(fd);
    if (size != static_cast<ssize_t>(key.size())) throw std::runtime_error("no key for TLS came");
    return key;
}

int serve(const carrel::worker::Options& options) {
    // Before the driver, which may take seconds: the client waits for its transport.
    carrel::wire::Channel client =
        carrel::wire::serve(options.transport, options.client_fd,
                            std::chrono::milliseconds(static_cast<int64_t>(1000 * options.grace_s)),
                            tls_key(options.tls_key_fd));
    carrel::worker::Console console;  // before the driver is loaded: it prints to its streams
    carrel::worker::Device device(options);
    carrel::worker::Server server(device, options, std::move(client));
    server.forward(console);
    carrel::worker::Control control(options.control_fd, server);
    control.ready();
    const std::string reason = server.run();
    control.ended(reason.empty() ? "the program ended" : reason);
    if (!reason.empty()) CARREL_INFO("session %s: %s", options.session.c_str(), reason.c_str());
    // Work of a program that is gone is not waited for: the driver's resources go with the process.
    if (!server.activity().idle()) ::_exit(0);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    // An interrupt in the terminal is the program's; the agent ends its workers itself.
    signal(SIGINT, SIG_IGN);
    try {
        const auto options = carrel::worker::Options::parse(argc, argv);
        return options.describe ? describe() : serve(options);
    } catch (const std::exception& error) {
        CARREL_WARNING("worker: %s", error.what());
        return 1;
    }
}
