// What the driver prints: kernels' printf on stdout, failed assertions on stderr. It belongs on the
// program's terminal, so it is caught here and travels ahead of the reply that the program waits
// for; the worker's own log keeps the descriptor that it was started with.
#pragma once
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace carrel::worker {

class Console {
  public:
    static constexpr size_t kLimit = size_t{1} << 20;  // bytes kept per stream; the rest is dropped

    Console();
    ~Console();
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    // Hands over what has been printed so far, by stream (1: stdout, 2: stderr).
    void take(const std::function<void(int stream, std::string_view text)>& sink);

  private:
    struct Stream {
        int number = 0;
        int read_end = -1;
        std::string text;
    };
    void drain(Stream& stream);  // under mutex_
    void run();

    std::mutex mutex_;
    Stream streams_[2];
    int stop_[2] = {-1, -1};
    std::thread reader_;  // so that a driver that prints a lot never blocks
};

}  // namespace carrel::worker
