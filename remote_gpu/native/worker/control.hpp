// The line to the node agent: readiness, statistics each second, the order to end, and another
// connection of a program whose first one broke.
#pragma once
#include <optional>
#include <string>
#include <thread>

#include "worker/server.hpp"

namespace carrel::worker {

class Control {
  public:
    // Without a descriptor (-1) nothing is said and nobody ends the session.
    Control(int fd, Server& server);
    ~Control();
    Control(const Control&) = delete;
    Control& operator=(const Control&) = delete;

    void ready();
    void ended(const std::string& reason);

  private:
    void say(const std::string& message);
    void report();
    ssize_t receive(char* text, size_t room, int* descriptor);
    void run();

    int fd_;
    int wake_[2] = {-1, -1};
    Server& server_;
    std::string last_;
    std::thread thread_;
};

// Whether a control message brings another connection of the program.
// With "tls_key", TLS follows.
bool parse_resume(const std::string& message, std::optional<wire::Hash>* tls_key);
// The "reason" of a control message whose "type" is "end"; false for any other message.
bool parse_end(const std::string& message, std::string* reason);
std::string json_string(const std::string& text);

}  // namespace carrel::worker
