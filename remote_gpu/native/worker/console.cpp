#include "worker/console.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "wire/log.hpp"

namespace carrel::worker {

Console::Console() {
    log_to(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    if (pipe2(stop_, O_CLOEXEC)) throw std::runtime_error("no pipe for the console");
    for (const int number : {1, 2}) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) throw std::runtime_error("no pipe for the console");
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        dup2(ends[1], number);
        close(ends[1]);
        streams_[number - 1] = {number, ends[0], {}};
    }
    reader_ = std::thread([this] { run(); });
}

Console::~Console() {
    close(stop_[1]);
    reader_.join();
    close(stop_[0]);
    for (const Stream& stream : streams_) close(stream.read_end);
}

void Console::drain(Stream& stream) {
    char buffer[16 * 1024];
    ssize_t n;
    while ((n = read(stream.read_end, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) {
        if (n < 0) continue;
        const size_t room = kLimit - std::min(kLimit, stream.text.size());
        stream.text.append(buffer, std::min(static_cast<size_t>(n), room));
    }
}

void Console::take(const std::function<void(int, std::string_view)>& sink) {
    const std::lock_guard lock(mutex_);
    pollfd ready[2] = {{streams_[0].read_end, POLLIN, 0}, {streams_[1].read_end, POLLIN, 0}};
    if (poll(ready, 2, 0) > 0) {
        for (Stream& stream : streams_) drain(stream);
    }
    for (Stream& stream : streams_) {
        if (stream.text.empty()) continue;
        sink(stream.number, stream.text);
        stream.text.clear();
    }
}

void Console::run() {
    for (;;) {
        pollfd ready[3] = {{streams_[0].read_end, POLLIN, 0},
                           {streams_[1].read_end, POLLIN, 0},
                           {stop_[0], POLLIN, 0}};
        if (poll(ready, 3, -1) < 0 && errno != EINTR) return;
        if (ready[2].revents) return;
        const std::lock_guard lock(mutex_);
        for (Stream& stream : streams_) drain(stream);
    }
}

}  // namespace carrel::worker
