// Answers that cannot change, so that asking again costs nothing on the network: cuBLASLt's
// heuristics and the sizes of workspaces, which programs ask for before every call.
//
// Such an answer is a function of the arguments and of what the descriptors among them were told.
// Each descriptor's state is the list of calls that set something, in order, the last of a kind
// only; an answer is found by the exact arguments with the states in the place of handles. Device
// addresses count by their alignment.
#pragma once
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace carrel::forwarders {

struct Answer {
    uint64_t result = 0;
    std::vector<std::string> outputs;
};

class Memo {
  public:
    static constexpr size_t kMaxAnswers = 4096;  // then all are forgotten

    // What a descriptor has been told so far.
    std::string state(uint32_t name);
    // It is told something; `kind` says which earlier call of its kind this one replaces.
    void tell(uint32_t name, uint64_t kind, std::string_view what);
    void forget(uint32_t name);

    bool find(const std::string& question, Answer* answer);
    void keep(std::string question, Answer answer);

  private:
    using Told = std::vector<std::pair<uint64_t, std::string>>;

    std::mutex mutex_;
    std::unordered_map<uint32_t, Told> states_;
    std::unordered_map<std::string, Answer> answers_;
};

}  // namespace carrel::forwarders
