// Descriptors that programs make, tell a few things, use once and destroy, for each product of two
// matrices. They stay here until they are used; what was made in the worker outlives them, for the
// next one that is told the same.
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "wire/bridge.h"

namespace carrel::forwarders {

// A call about a descriptor as it travels; its name stands at `name_at`.
struct Message {
    std::span<const std::byte> bytes;
    size_t name_at = 0;
};

class Descriptors {
  public:
    static constexpr size_t kMostIdle = 1024;  // in the worker, without a descriptor here

    // The descriptor is made, or told something; `kind` says which earlier call this one replaces.
    void tell(uint32_t name, uint32_t type, uint64_t kind, const Message& message);
    // Its name in the worker, where it is made if need be. 0: it is none of these.
    uint32_t in_worker(uint32_t name, const carrel_bridge& bridge);
    // It is destroyed here.
    void forget(uint32_t name, uint32_t type, const Message& message, const carrel_bridge& bridge);

  private:
    using Text = std::string;  // of a message, with zeros for the name
    struct Told {
        uint64_t kind;
        size_t name_at;
        Text text;
    };
    struct Descriptor {
        uint32_t type = 0;
        uint32_t made = 0;  // its name in the worker, once it is there
        Text key;           // what the one there has been told
        std::vector<Told> told;
    };
    struct Idle {
        uint32_t name;
        uint32_t type;
    };

    static Text text_of(const Message& message);
    static void post(const Told& told, uint32_t name, const carrel_bridge& bridge);
    void release(Descriptor& descriptor);
    void evict(const carrel_bridge& bridge);

    std::mutex mutex_;
    std::unordered_map<uint32_t, Descriptor> descriptors_;
    std::unordered_multimap<Text, Idle> idle_;
    std::unordered_map<uint32_t, Told> endings_;  // by type: how one of it is destroyed
};

}  // namespace carrel::forwarders
