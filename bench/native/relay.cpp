// A network between two ends on one machine: relays TCP connections with a set delay and bandwidth,
// and breaks them when told. The kernel's own emulator (netem) is not everywhere.
//
// What is received is stamped with the time at which it may leave: when the link, which all
// connections of one direction share, has carried the bytes before it and its own, and half of the
// round trip later. Bytes are kept and stay in order. Knows nothing of what it carries.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "byte_ring.hpp"
#include "relay_options.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

// How finely the bandwidth is shared out: bytes that leave together.
constexpr size_t kPacket = 16 << 10;
constexpr size_t kReceive = 256 << 10;
// How many of the latest departures the statistics of lateness are made of.
constexpr size_t kLatenessKept = 1 << 16;

// What connections of one direction share.
struct Link {
    Time free_at{};
    Time due(Time now, size_t bytes, double gbit_s, nanoseconds delay) {
        free_at = std::max(free_at, now);
        if (gbit_s > 0) {
            const double ns = static_cast<double>(bytes) * 8 / gbit_s;
            free_at += nanoseconds(static_cast<int64_t>(ns));
        }
        return free_at + delay;
    }
};

class Socket {
  public:
    explicit Socket(int fd) : fd_(fd) {}
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    ~Socket() { close(fd_); }
    int fd() const { return fd_; }
    void reset_when_closed() const {
        const linger hard{1, 0};
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    void no_delay() const {
        const int on = 1;
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    uint32_t watched = 0;  // what epoll has been asked for

  private:
    int fd_;
};

// One direction of a connection.
struct Flow {
    Flow(Link& shared, const Socket& in, const Socket& out, size_t window)
        : link(shared), source(in), sink(out), bytes(window) {}

    struct Mark {
        uint64_t end;  // position in the stream
        Time due;
        bool fin;
    };

    Link& link;
    const Socket& source;
    const Socket& sink;
    ByteRing bytes;
    std::deque<Mark> marks;
    Time last_due{};
    bool ended = false;    // the source will send no more
    bool closed = false;   // and the sink knows
    bool blocked = false;  // the sink takes no more for now
    Time unblocked_at{};

    bool readable() const { return !ended && bytes.free() > 0; }
};

struct Connection {
    Connection(int client, int node, Link& up_link, Link& down_link, size_t window)
        : near(client),
          far(node),
          up(up_link, near, far, window),
          down(down_link, far, near, window) {}
    Socket near, far;
    Flow up, down;
    bool broken = false;
    bool done() const { return broken || (up.closed && down.closed); }
};

class Relay {
  public:
    explicit Relay(RelayOptions options) : o_(std::move(options)) {
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        listen_on_loopback();
        sigset_t cut_now;
        sigemptyset(&cut_now);
        sigaddset(&cut_now, SIGUSR1);
        sigprocmask(SIG_BLOCK, &cut_now, nullptr);
        signals_ = signalfd(-1, &cut_now, SFD_CLOEXEC | SFD_NONBLOCK);
        std::signal(SIGPIPE, SIG_IGN);
        // Sleeps are to end when they should, not some 50 us later.
        prctl(PR_SET_TIMERSLACK, 1);
        watch(listener_, EPOLLIN);
        watch(signals_, EPOLLIN);
        // A file or /dev/null cannot be watched; then nobody gives commands.
        epoll_event event{.events = EPOLLIN, .data = {.fd = STDIN_FILENO}};
        epoll_ctl(epoll_, EPOLL_CTL_ADD, STDIN_FILENO, &event);
        std::printf("{\"port\": %d}\n", port_);
        std::fflush(stdout);
    }
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;
    ~Relay() {
        close(listener_);
        close(signals_);
        close(epoll_);
    }

    void run() {
        while (!over_) {
            epoll_event events[64];
            const int count = wait(events, 64);
            for (int i = 0; i < count; ++i) handle(events[i].data.fd);
            const Time now = Clock::now();
            if (muted_ && now >= muted_until_) {
                muted_ = false;
                break_all("rst");
            }
            for (Connection& c : connections_) {
                // Whoever may be read is tried: one call that finds nothing is cheaper than
                // looking up whose descriptor an event was for.
                if (count > 0) receive(c, c.up);
                depart(c, c.up);
                if (count > 0) receive(c, c.down);
                depart(c, c.down);
            }
            connections_.remove_if([](const Connection& c) { return c.done(); });
            for (Connection& c : connections_) {
                watch(c.near, c.up.readable(), c.down.blocked);
                watch(c.far, c.down.readable(), c.up.blocked);
            }
        }
    }

  private:
    void listen_on_loopback() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        auto* where = reinterpret_cast<sockaddr*>(&address);
        if (listener_ < 0 || bind(listener_, where, size) || listen(listener_, 64) ||
            getsockname(listener_, where, &size))
            die(std::string("no port to listen on: ") + std::strerror(errno));
        port_ = ntohs(address.sin_port);
    }

    int wait(epoll_event* events, int most) {
        std::optional<Time> next;
        const auto sooner = [&](Time due) { next = next ? std::min(*next, due) : due; };
        for (const Connection& c : connections_) {
            for (const Flow* flow : {&c.up, &c.down}) {
                if (!flow->marks.empty() && !flow->blocked) sooner(flow->marks.front().due);
            }
        }
        if (muted_) sooner(muted_until_);
        if (!next) return epoll_wait(epoll_, events, most, -1);
        const nanoseconds left = *next - Clock::now() - o_.spin;
        if (left <= nanoseconds(0)) return epoll_wait(epoll_, events, most, 0);
        const timespec limit{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
        return epoll_pwait2(epoll_, events, most, &limit, nullptr);
    }

    void watch(int fd, uint32_t what) {
        epoll_event event{.events = what, .data = {.fd = fd}};
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl failed");
    }

    void watch(Socket& socket, bool in, bool out) {
        const uint32_t wanted = (in ? EPOLLIN : 0u) | (out ? EPOLLOUT : 0u);
        if (wanted == socket.watched) return;
        // A socket of which nothing is wanted is taken out: its hangup would be told all the time.
        epoll_event event{.events = wanted, .data = {.fd = socket.fd()}};
        const int how = !socket.watched ? EPOLL_CTL_ADD : wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
        if (epoll_ctl(epoll_, how, socket.fd(), &event)) die("epoll_ctl failed");
        socket.watched = wanted;
    }

    void handle(int fd) {
        if (fd == listener_) {
            admit();
        } else if (fd == STDIN_FILENO) {
            read_commands();
        } else if (fd == signals_) {
            signalfd_siginfo info;
            while (read(signals_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
                if (o_.cuts.empty() || !o_.cuts.front().by_signal) continue;
                const Cut cut = o_.cuts.front();
                o_.cuts.pop_front();
                make(cut);
            }
        } else {
            for (Connection& c : connections_) {
                if (fd == c.near.fd()) unblock(c.down);
                if (fd == c.far.fd()) unblock(c.up);
            }
        }
    }

    static void unblock(Flow& flow) {
        if (flow.blocked) flow.unblocked_at = Clock::now();
        flow.blocked = false;
    }

    void admit() {
        for (;;) {
            const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (client < 0) return;
            const int node = Clock::now() < closed_until_
                                 ? -1
                                 : socket(o_.target.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (node < 0 ||
                connect(node, reinterpret_cast<const sockaddr*>(&o_.target), o_.target_size)) {
                if (node >= 0) close(node);
                close(client);
                continue;
            }
            Connection& c = connections_.emplace_back(client, node, up_, down_, o_.window);
            c.near.no_delay();
            c.far.no_delay();
            ++admitted_;
        }
    }

    void receive(Connection& c, Flow& flow) {
        if (c.broken || !flow.readable()) return;
        const auto room = flow.bytes.room(kReceive);
        const ssize_t n = recv(flow.source.fd(), room.data(), room.size(), MSG_DONTWAIT);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) reset(c);
            return;
        }
        const Time now = Clock::now();
        if (n == 0) {
            flow.ended = true;
            stamp(flow, now, 0, true);
            return;
        }
        if (muted_) return;
        const auto got = static_cast<size_t>(n);
        for (size_t at = 0; at < got; at += kPacket) {
            const size_t size = std::min(kPacket, got - at);
            flow.bytes.add(size);
            stamp(flow, now, size, false);
        }
    }

    void stamp(Flow& flow, Time now, size_t size, bool fin) {
        const Time due = flow.link.due(now, size, o_.gbit_s, o_.delay);
        flow.last_due = std::max(flow.last_due, due);  // a shorter delay overtakes nothing
        const bool together = !flow.marks.empty() && flow.marks.back().due == flow.last_due && !fin;
        if (together) {
            flow.marks.back().end = flow.bytes.received();
        } else {
            flow.marks.push_back({flow.bytes.received(), flow.last_due, fin});
        }
    }

    void depart(Connection& c, Flow& flow) {
        while (!c.broken && !flow.blocked && !flow.marks.empty()) {
            const Flow::Mark mark = flow.marks.front();
            const Time now = Clock::now();
            if (mark.due > now) return;
            if (mark.fin) {
                shutdown(flow.sink.fd(), SHUT_WR);
                flow.closed = true;
                flow.marks.pop_front();
                return;
            }
            uint64_t most = std::numeric_limits<uint64_t>::max();
            if (!o_.cuts.empty() && !o_.cuts.front().by_signal)
                most = o_.cuts.front().bytes - passed_;
            const auto part = flow.bytes.data(std::min(mark.end - flow.bytes.sent(), most));
            const ssize_t n =
                send(flow.sink.fd(), part.data(), part.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0) {
                if (errno == EAGAIN) flow.blocked = true;
                if (errno == EAGAIN || errno == EINTR) return;
                reset(c);
                return;
            }
            const auto gone = static_cast<size_t>(n);
            flow.bytes.take(gone);
            passed_ += gone;
            (&flow == &c.up ? bytes_up_ : bytes_down_) += gone;
            if (flow.bytes.sent() == mark.end) {
                flow.marks.pop_front();
                if (mark.due > flow.unblocked_at) late(now - mark.due);  // else the sink's doing
            }
            if (gone == most) {
                const Cut cut = o_.cuts.front();
                o_.cuts.pop_front();
                make(cut);
            }
        }
    }

    void late(nanoseconds by) {
        lateness_[departures_++ % kLatenessKept] = static_cast<float>(by.count()) / 1000;
    }

    static void reset(Connection& c) {
        c.near.reset_when_closed();
        c.far.reset_when_closed();
        c.broken = true;
    }

    void make(const Cut& cut) {
        ++cuts_made_;
        passed_ = 0;
        closed_until_ = Clock::now() + cut.closed;
        if (cut.how == "mute") {
            muted_ = true;
            muted_until_ = closed_until_;
            for (Connection& c : connections_) {
                for (Flow* flow : {&c.up, &c.down}) {
                    flow->marks.clear();
                    flow->bytes.clear();
                }
            }
        } else {
            break_all(cut.how);
        }
    }

    void break_all(std::string_view how) {
        for (Connection& c : connections_) {
            if (how == "rst") {
                reset(c);
            } else {
                shutdown(c.near.fd(), SHUT_RDWR);
                shutdown(c.far.fd(), SHUT_RDWR);
                c.broken = true;
            }
        }
    }

    void read_commands() {
        char text[4096];
        const ssize_t n = read(STDIN_FILENO, text, sizeof text);
        if (n <= 0) {
            over_ = true;
            return;
        }
        input_.append(text, static_cast<size_t>(n));
        for (size_t end; (end = input_.find('\n')) != std::string::npos; input_.erase(0, end + 1)) {
            std::printf("%s\n", obey(input_.substr(0, end)).c_str());
            std::fflush(stdout);
        }
    }

    std::string obey(const std::string& line) {
        std::istringstream words(line);
        std::string verb;
        double number = 0;
        words >> verb;
        if (verb == "stats") return stats();
        if (!(words >> number) || !(number >= 0)) return "{\"error\": \"not a command\"}";
        if (verb == "rtt") {
            o_.delay = from_ms(number / 2);
        } else if (verb == "bandwidth") {
            o_.gbit_s = number;
        } else if (verb == "cut") {
            Cut cut{.closed = from_ms(number * 1e3)};
            words >> cut.how;
            make(cut);
        } else {
            return "{\"error\": \"not a command\"}";
        }
        return "{}";
    }

    // Lateness: how long after it was due a part left, in us; of those since the last question.
    std::string stats() {
        std::vector<float> sorted(
            lateness_.begin(),
            lateness_.begin() + static_cast<std::ptrdiff_t>(std::min(departures_, kLatenessKept)));
        departures_ = 0;
        std::sort(sorted.begin(), sorted.end());
        const auto quantile = [&](double q) {
            if (sorted.empty()) return 0.0;
            return double{sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))]};
        };
        char text[256];
        std::snprintf(text, sizeof text,
                      "{\"connections\": %llu, \"cuts\": %llu, \"bytes_up\": %llu, "
                      "\"bytes_down\": %llu, \"late_us_p50\": %.1f, \"late_us_p99\": %.1f}",
                      admitted_, cuts_made_, bytes_up_, bytes_down_, quantile(0.5), quantile(0.99));
        return text;
    }

    RelayOptions o_;
    int epoll_ = -1, listener_ = -1, signals_ = -1, port_ = 0;
    Link up_, down_;
    std::list<Connection> connections_;
    std::string input_;
    bool over_ = false, muted_ = false;
    Time closed_until_{}, muted_until_{};
    uint64_t passed_ = 0;  // since the last cut
    unsigned long long admitted_ = 0, cuts_made_ = 0, bytes_up_ = 0, bytes_down_ = 0;
    std::vector<float> lateness_ = std::vector<float>(kLatenessKept);
    size_t departures_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    Relay(parse_relay_options(argc, argv)).run();
    return 0;
}
