#include "forwarders/descriptors.hpp"

#include <algorithm>
#include <cstring>

namespace carrel::forwarders {

namespace {

constexpr unsigned kIndexBits = 24;
constexpr uint64_t kIndex = (uint64_t{1} << kIndexBits) - 1;
constexpr uint64_t kGeneration = 0xFFFF;

// The two halves of a product of 64 bits, folded.
uint64_t mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

void Hash::add(std::string_view bytes) {
    const auto take = [this](uint64_t next) {
        a = mix(a ^ next, 0xA0761D6478BD642F);
        b = mix(b ^ next, 0xE7037ED1A0B428DB) + (b << 1);
    };
    const char* at = bytes.data();
    size_t left = bytes.size();
    uint64_t next = 0;
    for (; left >= sizeof next; at += sizeof next, left -= sizeof next) {
        std::memcpy(&next, at, sizeof next);
        take(next);
    }
    next = bytes.size() << 56;  // and the rest, which is shorter than that
    for (size_t i = 0; i < left; ++i) next |= uint64_t{static_cast<unsigned char>(at[i])} << 8 * i;
    take(next);
}

void Hash::add(const Hash& other) {
    const uint64_t words[] = {other.a, other.b};
    add({reinterpret_cast<const char*>(words), sizeof words});
}

Descriptors::Descriptor* Descriptors::find(uint64_t handle) {
    if (!owns(handle)) return nullptr;
    const uint64_t index = handle & kIndex;
    if (index >= slots_.size()) return nullptr;
    Descriptor& descriptor = slots_[index];
    const bool same = (descriptor.generation & kGeneration) == (handle >> kIndexBits & kGeneration);
    return descriptor.alive && same ? &descriptor : nullptr;
}

void Descriptors::add(Descriptor& descriptor, const Telling& telling) {
    const auto before = std::ranges::find_if(
        descriptor.parts, [&](const Part& part) { return part.kind == telling.kind; });
    const bool again = before != descriptor.parts.end();
    if (again) descriptor.parts.erase(before);
    Part part{telling.kind, descriptor.script.size(), telling.message.size(), telling.name_at,
              {},           telling.meaning};
    part.exact.add(telling.message);
    descriptor.script.append(telling.message);
    descriptor.parts.push_back(part);
    if (again) {
        // The script holds what no longer counts: write it anew.
        std::string script;
        descriptor.exact = descriptor.meaning = {};
        for (Part& each : descriptor.parts) {
            const size_t begin = script.size();
            script.append(descriptor.script, each.begin, each.size);
            each.begin = begin;
            descriptor.exact.add(each.exact);
            descriptor.meaning.add(each.meaning);
        }
        descriptor.script = std::move(script);
    } else {
        descriptor.exact.add(part.exact);
        descriptor.meaning.add(part.meaning);
    }
}

uint64_t Descriptors::make(uint32_t type, uint32_t note, const Telling& telling) {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
        if (slots_.size() > kIndex) return 0;
        free_.push_back(static_cast<uint32_t>(slots_.size()));
        slots_.emplace_back();
    }
    const uint32_t index = free_.back();
    free_.pop_back();
    Descriptor& descriptor = slots_[index];
    descriptor.alive = true;
    descriptor.type = type;
    descriptor.note = note;
    descriptor.made = 0;
    descriptor.exact = descriptor.meaning = {};
    descriptor.script.clear();
    descriptor.parts.clear();
    add(descriptor, telling);
    return kBase | uint64_t{descriptor.generation & kGeneration} << kIndexBits | index;
}

bool Descriptors::look(uint64_t handle, uint32_t type, uint32_t* note) {
    const std::lock_guard lock(mutex_);
    const Descriptor* const descriptor = find(handle);
    if (!descriptor || descriptor->type != type) return false;
    *note = descriptor->note;
    return true;
}

void Descriptors::note(uint64_t handle, uint32_t note) {
    const std::lock_guard lock(mutex_);
    if (Descriptor* const descriptor = find(handle)) descriptor->note = note;
}

bool Descriptors::tell(uint64_t handle, uint32_t type, const Telling& telling) {
    const std::lock_guard lock(mutex_);
    Descriptor* const descriptor = find(handle);
    if (!descriptor || descriptor->type != type) return false;
    if (descriptor->made) release(*descriptor);
    add(*descriptor, telling);
    return true;
}

Hash Descriptors::meaning(uint64_t handle) {
    const std::lock_guard lock(mutex_);
    const Descriptor* const descriptor = find(handle);
    return descriptor ? descriptor->meaning : Hash{};
}

void Descriptors::post(std::string_view message, size_t name_at, uint32_t name,
                       const carrel_bridge& bridge) {
    std::string text(message);
    std::memcpy(text.data() + name_at, &name, sizeof name);
    bridge.post(text.data(), text.size());
}

uint32_t Descriptors::in_worker(uint64_t handle, const carrel_bridge& bridge) {
    const std::lock_guard lock(mutex_);
    Descriptor* const descriptor = find(handle);
    if (!descriptor) return 0;
    if (descriptor->made) return descriptor->made;
    if (const auto idle = idle_.find(descriptor->exact); idle != idle_.end()) {
        descriptor->made = idle->second.name;
        idle_.erase(idle);
    } else {
        descriptor->made = bridge.mint(descriptor->type, 0);
        for (const Part& part : descriptor->parts)
            post(std::string_view(descriptor->script).substr(part.begin, part.size), part.name_at,
                 descriptor->made, bridge);
    }
    descriptor->key = descriptor->exact;
    return descriptor->made;
}

void Descriptors::release(Descriptor& descriptor) {
    idle_.emplace(descriptor.key, Idle{descriptor.made, descriptor.type});
    descriptor.made = 0;
}

bool Descriptors::destroy(uint64_t handle, uint32_t type, const Telling& telling,
                          const carrel_bridge& bridge) {
    const std::lock_guard lock(mutex_);
    Descriptor* const descriptor = find(handle);
    if (!descriptor || descriptor->type != type) return false;
    Ending& ending = endings_[type];
    if (ending.message.empty()) ending = {std::string(telling.message), telling.name_at};
    if (descriptor->made) release(*descriptor);
    descriptor->alive = false;
    ++descriptor->generation;
    free_.push_back(static_cast<uint32_t>(handle & kIndex));
    if (idle_.size() > kMostIdle) evict(bridge);
    return true;
}

// All of them: who keeps making different ones has little use for any.
void Descriptors::evict(const carrel_bridge& bridge) {
    std::erase_if(idle_, [&](const auto& each) {
        const auto ending = endings_.find(each.second.type);
        if (ending == endings_.end()) return false;
        post(ending->second.message, ending->second.name_at, each.second.name, bridge);
        bridge.retire(each.second.name);
        return true;
    });
}

}  // namespace carrel::forwarders
