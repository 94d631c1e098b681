#include "forwarders/descriptors.hpp"

#include <algorithm>
#include <cstring>

namespace carrel::forwarders {

Descriptors::Text Descriptors::text_of(const Message& message) {
    Text text(reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size());
    std::memset(text.data() + message.name_at, 0, sizeof(uint32_t));
    return text;
}

void Descriptors::post(const Told& told, uint32_t name, const carrel_bridge& bridge) {
    Text text = told.text;
    std::memcpy(text.data() + told.name_at, &name, sizeof name);
    bridge.post(text.data(), text.size());
}

void Descriptors::tell(uint32_t name, uint32_t type, uint64_t kind, const Message& message) {
    const std::lock_guard lock(mutex_);
    Descriptor& descriptor = descriptors_[name];
    descriptor.type = type;
    if (descriptor.made) release(descriptor);
    std::erase_if(descriptor.told, [&](const Told& earlier) { return earlier.kind == kind; });
    descriptor.told.push_back({kind, message.name_at, text_of(message)});
}

uint32_t Descriptors::in_worker(uint32_t name, const carrel_bridge& bridge) {
    const std::lock_guard lock(mutex_);
    const auto found = descriptors_.find(name);
    if (found == descriptors_.end()) return 0;
    Descriptor& descriptor = found->second;
    if (descriptor.made) return descriptor.made;
    Text key;
    for (const Told& told : descriptor.told) key += told.text;
    if (const auto idle = idle_.find(key); idle != idle_.end()) {
        descriptor.made = idle->second.name;
        idle_.erase(idle);
    } else {
        descriptor.made = bridge.mint(descriptor.type, 0);
        for (const Told& told : descriptor.told) post(told, descriptor.made, bridge);
    }
    descriptor.key = std::move(key);
    return descriptor.made;
}

void Descriptors::release(Descriptor& descriptor) {
    idle_.emplace(std::move(descriptor.key), Idle{descriptor.made, descriptor.type});
    descriptor.made = 0;
}

void Descriptors::forget(uint32_t name, uint32_t type, const Message& message,
                         const carrel_bridge& bridge) {
    const std::lock_guard lock(mutex_);
    if (!endings_.contains(type)) endings_[type] = {0, message.name_at, text_of(message)};
    const auto found = descriptors_.find(name);
    if (found == descriptors_.end()) return;
    if (found->second.made) release(found->second);
    descriptors_.erase(found);
    if (idle_.size() > kMostIdle) evict(bridge);
}

// All of them: who keeps making different ones has little use for any.
void Descriptors::evict(const carrel_bridge& bridge) {
    std::erase_if(idle_, [&](const auto& each) {
        const auto ending = endings_.find(each.second.type);
        if (ending == endings_.end()) return false;
        post(ending->second, each.second.name, bridge);
        bridge.retire(each.second.name);
        return true;
    });
}

}  // namespace carrel::forwarders
