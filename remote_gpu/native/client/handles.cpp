#include "client/handles.hpp"

#include <vector>

namespace carrel::client {

Handles& handles() {
    static Handles* const table = new Handles;  // outlives every user, also during exit
    return *table;
}

Handles::~Handles() {
    for (auto& chunk : chunks_) delete[] chunk.load(std::memory_order_relaxed);
}

uint32_t Handles::create(Kind kind, void* object, uint32_t context) {
    const std::lock_guard lock(mutex_);
    uint32_t index;
    // A name comes back late, so that stale handles are found out for long.
    if (free_.size() > 4096 || (next_ > kIndexMask && !free_.empty())) {
        index = free_.front();
        free_.pop_front();
    } else if (next_ <= kIndexMask) {
        index = next_++;
    } else {
        return 0;
    }
    auto& chunk = chunks_[index / kChunk];
    Slot* slots = chunk.load(std::memory_order_acquire);
    if (!slots) {
        slots = new Slot[kChunk];
        chunk.store(slots, std::memory_order_release);
    }
    Slot& slot = slots[index % kChunk];
    const uint32_t name = index | (slot.generation++ << kIndexBits);
    slot.kind.store(kind, std::memory_order_relaxed);
    slot.object.store(object, std::memory_order_relaxed);
    slot.context.store(context, std::memory_order_relaxed);
    slot.name.store(name, std::memory_order_release);
    return name;
}

const Handles::Slot* Handles::find(uint32_t name) const {
    const uint32_t index = name & kIndexMask;
    const Slot* slots = chunks_[index / kChunk].load(std::memory_order_acquire);
    if (!slots || !name) return nullptr;
    const Slot& slot = slots[index % kChunk];
    return slot.name.load(std::memory_order_acquire) == name ? &slot : nullptr;
}

bool Handles::erase(uint32_t name) {
    const std::lock_guard lock(mutex_);
    auto* slot = const_cast<Slot*>(find(name));
    if (!slot) return false;
    slot->name.store(0, std::memory_order_release);
    free_.push_back(name & kIndexMask);
    return true;
}

Kind Handles::kind(uint32_t name) const {
    const Slot* slot = find(name);
    return slot ? slot->kind.load(std::memory_order_relaxed) : Kind::none;
}

void* Handles::object(uint32_t name) const {
    const Slot* slot = find(name);
    return slot ? slot->object.load(std::memory_order_relaxed) : nullptr;
}

void Handles::set_object(uint32_t name, void* object) {
    if (auto* slot = const_cast<Slot*>(find(name)))
        slot->object.store(object, std::memory_order_relaxed);
}

uint32_t Handles::context(uint32_t name) const {
    const Slot* slot = find(name);
    return slot ? slot->context.load(std::memory_order_relaxed) : 0;
}

void Handles::erase_context(uint32_t context) {
    std::vector<uint32_t> names;
    {
        const std::lock_guard lock(mutex_);
        for (uint32_t index = 0; index < next_; ++index) {
            const Slot* slots = chunks_[index / kChunk].load(std::memory_order_acquire);
            if (!slots) continue;
            const Slot& slot = slots[index % kChunk];
            const uint32_t name = slot.name.load(std::memory_order_relaxed);
            const Kind kind = slot.kind.load(std::memory_order_relaxed);
            if (name && kind != Kind::context && slot.context.load() == context)
                names.push_back(name);
        }
    }
    for (const uint32_t name : names) erase(name);
}

}  // namespace carrel::client
