#include "worker/control.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "wire/log.hpp"

namespace carrel::worker {

namespace {

constexpr int kReportMs = 1000;

// The value of a string member of a flat JSON object; the agent sends nothing else.
bool member(const std::string& object, const std::string& name, std::string* value) {
    size_t at = object.find("\"" + name + "\"");
    if (at == std::string::npos) return false;
    at = object.find(':', at + name.size() + 2);
    if (at == std::string::npos) return false;
    at = object.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || object[at] != '"') return false;
    value->clear();
    for (++at; at < object.size() && object[at] != '"'; ++at) {
        char c = object[at];
        if (c == '\\' && at + 1 < object.size()) {
            c = object[++at];
            if (c == 'n' || c == 't' || c == 'r') c = ' ';
            if (c == 'u' && at + 4 < object.size()) {
                const long code = std::strtol(object.substr(at + 1, 4).c_str(), nullptr, 16);
                c = code > 0 && code < 128 ? static_cast<char>(code) : '?';
                at += 4;
            }
        }
        value->push_back(c);
    }
    return at < object.size();
}

}  // namespace

std::string json_string(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out.push_back('\\');
        out.push_back(static_cast<unsigned char>(c) < 0x20 ? ' ' : c);
    }
    return out + "\"";
}

bool parse_end(const std::string& message, std::string* reason) {
    std::string type;
    if (!member(message, "type", &type) || type != "end") return false;
    if (!member(message, "reason", reason)) *reason = "the node ended it";
    return true;
}

bool parse_resume(const std::string& message, std::optional<wire::Hash>* tls_key) {
    std::string type, hex;
    if (!member(message, "type", &type) || type != "resume") return false;
    if (!member(message, "tls_key", &hex)) return true;
    return wire::parse_hex(hex, tls_key->emplace());
}

Control::Control(int fd, Server& server) : fd_(fd), server_(server) {
    if (fd_ < 0) return;
    if (::pipe(wake_) != 0) std::abort();
    thread_ = std::thread([this] { run(); });
}

Control::~Control() {
    if (!thread_.joinable()) return;
    ::close(wake_[1]);
    thread_.join();
    ::close(wake_[0]);
}

void Control::say(const std::string& message) {
    if (fd_ >= 0) ::send(fd_, message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Control::ready() {
    say("{\"type\":\"ready\"}");
}

void Control::ended(const std::string& reason) {
    report();
    say("{\"type\":\"ended\",\"reason\":" + json_string(reason) + "}");
}

void Control::report() {
    const Counters& c = server_.counters();
    char text[512];
    const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::snprintf(
        text, sizeof text,
        "{\"type\":\"stats\",\"vram_bytes\":%llu,\"context_bytes\":%llu,\"launches\":%llu,"
        "\"calls\":%llu,\"gpu_busy_us\":%llu,\"bytes_in\":%llu,\"bytes_out\":%llu,",
        number(server_.vram_bytes()), number(server_.context_bytes()), number(c.launches),
        number(c.calls), number(server_.activity().busy_us()), number(c.bytes_in),
        number(server_.bytes_out()));
    // Silence while nothing changes.
    if (last_ == text) return;
    last_ = text;
    say(last_ + "\"idle_ms\":" + std::to_string(server_.activity().idle_ms()) + "}");
}

// One message and the descriptor that came with it, if any.
ssize_t Control::receive(char* text, size_t room, int* descriptor) {
    iovec part{text, room};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    const ssize_t size = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC);
    const cmsghdr* const control = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (control && control->cmsg_type == SCM_RIGHTS) {
        std::memcpy(descriptor, CMSG_DATA(control), sizeof *descriptor);
    }
    return size;
}

void Control::run() {
    for (;;) {
        pollfd waiting[2] = {{fd_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
        const int ready = ::poll(waiting, 2, kReportMs);
        if (waiting[1].revents) return;
        if (ready == 0) report();
        const bool left = ready == 0 && !server_.client_there();
        if (!waiting[0].revents && !left) continue;
        char message[4096];
        int client = -1;
        std::optional<wire::Hash> tls_key;
        const ssize_t size = left ? 0 : receive(message, sizeof message, &client);
        std::string reason;
        if (left) {
            reason = "the program ended";
        } else if (size <= 0) {
            reason = "the node agent is gone";
        } else if (client >= 0 && parse_resume({message, static_cast<size_t>(size)}, &tls_key)) {
            server_.resume(client, tls_key);
            continue;
        } else if (!parse_end({message, static_cast<size_t>(size)}, &reason)) {
            if (client >= 0) ::close(client);
            CARREL_WARNING("the node agent sent a message that is not understood");
            continue;
        }
        server_.end(reason);
        // The main loop may be inside a driver call that never returns.
        waiting[0].fd = -1;
        if (::poll(waiting, 2, 5000) == 0) {
            ended(reason);
            ::_exit(0);
        }
        return;
    }
}

}  // namespace carrel::worker
