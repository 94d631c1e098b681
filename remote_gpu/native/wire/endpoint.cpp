#include "wire/endpoint.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace carrel::wire {
namespace {

using Clock = std::chrono::steady_clock;

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

std::string program_name() {
    std::string name = program_invocation_short_name;
    // "python" says nothing: name the script too, as nvidia-smi's users would.
    const int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return name;
    char line[1024];
    const ssize_t size = read(fd, line, sizeof line);
    close(fd);
    if (size <= 0 || name.rfind("python", 0) != 0) return name;
    const std::string text(line, static_cast<size_t>(size));
    for (size_t at = text.find('\0'); at != std::string::npos && at + 1 < text.size();
         at = text.find('\0', at + 1)) {
        const std::string argument = text.c_str() + at + 1;
        if (argument == "-c") return name + " -c";
        if (argument == "-m") {
            name += " -m";
            continue;
        }
        if (argument.empty() || argument[0] == '-') continue;
        const size_t slash = argument.rfind('/');
        return name + " " + (slash == std::string::npos ? argument : argument.substr(slash + 1));
    }
    return name;
}

// A socket under one deadline; the first failure is kept as the reason.
class Dialogue {
  public:
    explicit Dialogue(std::chrono::milliseconds limit) : limit_(limit) {}
    Dialogue(const Dialogue&) = delete;
    Dialogue& operator=(const Dialogue&) = delete;
    ~Dialogue() {
        if (fd_ >= 0) ::close(fd_);
    }

    bool connect(const std::string& host, const std::string& port) {
        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM;
        addrinfo* found = nullptr;
        if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found)) {
            reason_ = gai_strerror(error);
            return false;
        }
        deadline_ = Clock::now() + limit_;
        for (const addrinfo* a = found; a && fd_ < 0; a = a->ai_next) fd_ = open_one(*a);
        freeaddrinfo(found);
        if (fd_ < 0) return false;
        const int on = 1;
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return true;
    }
    // `name`: a path, or @ and an abstract name.
    bool connect_local(const std::string& name) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        if (name.empty() || name.size() >= sizeof address.sun_path) {
            reason_ = "no such Unix socket";
            return false;
        }
        std::memcpy(address.sun_path, name.data(), name.size());
        const bool abstract = name[0] == '@';
        if (abstract) address.sun_path[0] = 0;
        deadline_ = Clock::now() + limit_;
        fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() +
                                                 (abstract ? 0 : 1));
        if (fd_ >= 0 && ::connect(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0) {
            return true;
        }
        reason_ = std::strerror(errno);
        return false;
    }
    bool send(const void* data, size_t size) {
        const auto* bytes = static_cast<const char*>(data);
        while (size > 0) {
            const ssize_t n = ::send(fd_, bytes, size, MSG_NOSIGNAL);
            if (n > 0) {
                bytes += n;
                size -= static_cast<size_t>(n);
            } else if (!retry(n, POLLOUT)) {
                return false;
            }
        }
        return true;
    }
    bool receive(void* data, size_t size) {
        auto* bytes = static_cast<char*>(data);
        while (size > 0) {
            const ssize_t n = ::recv(fd_, bytes, size, 0);
            if (n > 0) {
                bytes += n;
                size -= static_cast<size_t>(n);
            } else if (n == 0) {
                reason_ = "the connection was closed";
                return false;
            } else if (!retry(n, POLLIN)) {
                return false;
            }
        }
        return true;
    }
    template <class T>
    bool receive(T& value) {
        return receive(&value, sizeof value);
    }
    bool receive_text(std::string& text, size_t limit) {
        uint16_t size = 0;
        if (!receive(size)) return false;
        if (size > limit) {
            reason_ = "the answer is not a front door's";
            return false;
        }
        text.resize(size);
        return receive(text.data(), size);
    }
    // Hands the descriptor over, blocking again.
    int release() {
        fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) & ~O_NONBLOCK);
        const int fd = fd_;
        fd_ = -1;
        return fd;
    }
    const std::string& reason() const { return reason_; }
    // Whether the other end is on this host.
    bool loopback() const {
        sockaddr_storage peer{};
        socklen_t size = sizeof peer;
        if (getpeername(fd_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;
        if (peer.ss_family == AF_INET) {
            const auto& v4 = reinterpret_cast<const sockaddr_in&>(peer);
            return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
        }
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(peer);
        return peer.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
    }

  private:
    int open_one(const addrinfo& a) {
        const int kind = a.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK;
        const int fd = socket(a.ai_family, kind, a.ai_protocol);
        if (fd < 0) {
            reason_ = std::strerror(errno);
            return -1;
        }
        int error = ::connect(fd, a.ai_addr, a.ai_addrlen) ? errno : 0;
        if (error == EINPROGRESS || error == EINTR) {
            socklen_t size = sizeof error;
            if (!wait(fd, POLLOUT))
                error = ETIMEDOUT;
            else
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        }
        if (error == 0) return fd;
        reason_ = std::strerror(error);
        ::close(fd);
        return -1;
    }
    bool retry(ssize_t result, short events) {
        if (result < 0 && errno == EINTR) return true;
        if (result < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            reason_ = std::strerror(errno);
            return false;
        }
        if (wait(fd_, events)) return true;
        char text[64];
        std::snprintf(text, sizeof text, "no answer within %.1f s",
                      static_cast<double>(limit_.count()) / 1000);
        reason_ = text;
        return false;
    }
    bool wait(int fd, short events) const {
        for (;;) {
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now());
            if (left.count() <= 0) return false;
            pollfd entry{fd, events, 0};
            const int n = poll(&entry, 1, static_cast<int>(left.count()) + 1);
            if (n > 0) return true;
            if (n < 0 && errno != EINTR) return false;
        }
    }

    std::chrono::milliseconds limit_;
    Clock::time_point deadline_;
    int fd_ = -1;
    std::string reason_;
};

bool random_bytes(Hash& out) {
    for (size_t done = 0; done < out.size();) {
        const ssize_t n = getrandom(out.data() + done, out.size() - done, 0);
        if (n < 0 && errno != EINTR) return false;
        if (n > 0) done += static_cast<size_t>(n);
    }
    return true;
}

}  // namespace

Credentials Credentials::from_environment() {
    Credentials c;
    const std::string endpoint = environment("CARREL_ENDPOINT");
    c.lease = environment("CARREL_LEASE");
    c.session_name = environment("CARREL_SESSION_NAME");
    if (endpoint.empty() && c.lease.empty()) {
        c.error =
            "this process is not in a slice: start it with carrel-run, or from a server that "
            "was started with a GPU";
        return c;
    }
    size_t colon = endpoint.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == endpoint.size()) {
        c.error = "CARREL_ENDPOINT is not host:port";
        return c;
    }
    c.port = endpoint.substr(colon + 1);
    c.host = endpoint.substr(0, colon);
    if (c.host.size() > 2 && c.host.front() == '[' && c.host.back() == ']')
        c.host = c.host.substr(1, c.host.size() - 2);
    if (const std::string tls = environment("CARREL_TLS"); !tls.empty() && tls != "auto") {
        c.tls = tls == "off" ? Credentials::Tls::off : Credentials::Tls::on;
    }
    if (const std::string grace = environment("CARREL_RECONNECT_S"); !grace.empty()) {
        c.grace = std::chrono::seconds(std::clamp(std::atoi(grace.c_str()), 0, 3600));
    }
    if (environment("CARREL_TRANSPORT") != "tcp") {
        c.node_socket = environment("CARREL_NODE_SOCKET");
        const bool loopback =
            c.host == "localhost" || c.host == "::1" || c.host.starts_with("127.");
        if (c.node_socket.empty() && loopback) c.node_socket = "@carrel-node-" + c.port;
    }
    if (c.lease.empty() || c.lease.size() > kMaxLease)
        c.error = "CARREL_LEASE must hold 1 to 64 characters";
    else if (!parse_hex(environment("CARREL_LEASE_KEY"), c.key))
        c.error = "CARREL_LEASE_KEY must hold 64 hexadecimal digits";
    return c;
}

// One attempt, over the node's Unix socket or TCP.
static Connection meet(bool local, Purpose purpose, const Credentials& credentials,
                       const uint8_t (&protocol)[32], std::chrono::milliseconds limit) {
    Connection result;
    result.local = local;
    const auto fail = [&](Status status, std::string error) {
        result.status = status;
        result.error = std::move(error);
        return result;
    };
    const std::string where =
        local ? credentials.node_socket : credentials.host + ":" + credentials.port;
    Dialogue door(limit);
    const auto unreachable = [&] {
        return fail(Status::unreachable,
                    "the GPU node at " + where + " cannot be reached: " + door.reason());
    };

    char host[kMaxHost + 1] = "";
    gethostname(host, kMaxHost);
    const std::string program = program_name();
    Hello hello;
    if (!(local ? door.connect_local(credentials.node_socket)
                : door.connect(credentials.host, credentials.port)))
        return unreachable();
    hello.purpose = purpose;
    hello.tls =
        !local && purpose != Purpose::monitor &&
        (credentials.tls == Credentials::Tls::automatic ? !door.loopback()
                                                        : credentials.tls == Credentials::Tls::on);
    std::memcpy(hello.protocol.data(), protocol, hello.protocol.size());
    if (!random_bytes(hello.nonce)) return fail(Status::unreachable, "no random numbers");
    hello.pid = static_cast<uint32_t>(getpid());
    hello.lease = credentials.lease;
    hello.session_name = credentials.session_name;
    hello.host = host;
    hello.program = program;
    const std::vector<uint8_t> sent = encode(hello);

    if (!door.send(sent.data(), sent.size())) return unreachable();

    Status status{};
    std::string message;
    Hash nonce, proved;
    if (!door.receive(status) || !door.receive_text(message, kMaxMessage)) return unreachable();
    const auto refused = [&] {
        std::string text = explain(status);
        if (!message.empty()) text += " (" + message + ")";
        return fail(status, text);
    };
    if (status != Status::ok) return refused();
    if (!door.receive(nonce) || !door.receive(proved)) return unreachable();
    if (!equal(proved, proof(credentials.key, "carrel-door", sent, nonce))) {
        status = Status::refused;
        message = "its proof does not match the lease key";
        return refused();
    }
    const Hash answer = proof(credentials.key, "carrel-client", sent, nonce);
    if (!door.send(answer.data(), answer.size())) return unreachable();
    if (!door.receive(status) || !door.receive_text(message, kMaxMessage)) return unreachable();
    if (!door.receive_text(result.session, kMaxLease)) return unreachable();
    if (status != Status::ok) return refused();
    if (hello.tls) result.tls_key = proof(credentials.key, "carrel-tls", sent, nonce);
    result.fd = door.release();
    return result;
}

Connection connect(Purpose purpose, const Credentials& credentials, const uint8_t (&protocol)[32],
                   std::chrono::milliseconds limit) {
    if (!credentials.error.empty()) {
        Connection none;
        none.status = Status::no_credentials;
        none.error = credentials.error;
        return none;
    }
    const auto with = [&](Connection connection) {
        connection.credentials = credentials;
        return connection;
    };
    if (purpose == Purpose::session && !credentials.node_socket.empty()) {
        const auto most = std::min<std::chrono::milliseconds>(limit, std::chrono::seconds(1));
        Connection here = meet(true, purpose, credentials, protocol, most);
        if (here.fd >= 0) return with(std::move(here));
    }
    return with(meet(false, purpose, credentials, protocol, limit));
}

Connection reconnect(const std::string& session, const Credentials& credentials,
                     const uint8_t (&protocol)[32], std::chrono::milliseconds limit) {
    Credentials again = credentials;
    again.session_name = session;
    return meet(false, Purpose::resume, again, protocol, limit);
}

}  // namespace carrel::wire
