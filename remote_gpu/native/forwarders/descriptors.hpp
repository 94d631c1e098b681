// Descriptors that programs make, tell a few things, use once and destroy, for each product of two
// matrices. They stay here until they are used; what was made in the worker outlives them, for the
// next one that is told the same.
//
// What a descriptor has been told is known by a hash of 128 bits of the calls that told it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "wire/bridge.h"

namespace carrel::forwarders {

// Of bytes, one after another; not against an adversary.
struct Hash {
    uint64_t a = 0x9E3779B97F4A7C15, b = 0xC2B2AE3D27D4EB4F;
    void add(std::string_view bytes);
    void add(const Hash& other);
    bool operator==(const Hash&) const = default;
};

// A call about a descriptor.
struct Telling {
    uint64_t kind = 0;         // the same for calls of which the last one counts
    std::string_view message;  // as it travels, with zeros for the descriptor's name
    size_t name_at = 0;        // where that stands
    Hash meaning;              // of the message, as far as answers depend on it
};

class Descriptors {
  public:
    static constexpr size_t kMostIdle = 1024;  // in the worker, without a descriptor here
    static constexpr uint64_t kBase = uint64_t{3} << 40;

    // Whether a program's handle is one of these, alive or not.
    static bool owns(uint64_t handle) { return handle >> 40 == kBase >> 40; }

    // A new one; the handle for the program. `type` is its kind in the table of names.
    uint64_t make(uint32_t type, uint32_t note, const Telling& telling);
    // Whether it is alive and of this type; what is noted of it.
    bool look(uint64_t handle, uint32_t type, uint32_t* note);
    void note(uint64_t handle, uint32_t note);
    // false: there is none of this type.
    bool tell(uint64_t handle, uint32_t type, const Telling& telling);
    // Of what it has been told so far.
    Hash meaning(uint64_t handle);
    // Its name in the worker, where it is made if need be.
    uint32_t in_worker(uint64_t handle, const carrel_bridge& bridge);
    // The telling is of how one of its type is destroyed. false: there is none of this type.
    bool destroy(uint64_t handle, uint32_t type, const Telling& telling,
                 const carrel_bridge& bridge);

  private:
    struct Part {
        uint64_t kind;
        size_t begin, size;  // in the script
        size_t name_at;
        Hash exact, meaning;
    };
    struct Descriptor {
        uint32_t generation = 0;
        bool alive = false;
        uint32_t type = 0, note = 0;
        uint32_t made = 0;  // its name in the worker, once it is there
        Hash key;           // of what the one there has been told
        Hash exact, meaning;
        std::string script;  // messages, one after another
        std::vector<Part> parts;
    };
    struct Idle {
        uint32_t name;
        uint32_t type;
    };
    struct Ending {
        std::string message;
        size_t name_at;
    };
    struct Hasher {
        size_t operator()(const Hash& hash) const { return hash.a; }
    };

    Descriptor* find(uint64_t handle);
    static void add(Descriptor& descriptor, const Telling& telling);
    static void post(std::string_view message, size_t name_at, uint32_t name,
                     const carrel_bridge& bridge);
    void release(Descriptor& descriptor);
    void evict(const carrel_bridge& bridge);

    std::mutex mutex_;
    std::deque<Descriptor> slots_;
    std::vector<uint32_t> free_;
    std::unordered_multimap<Hash, Idle, Hasher> idle_;
    std::unordered_map<uint32_t, Ending> endings_;  // by type
};

}  // namespace carrel::forwarders
