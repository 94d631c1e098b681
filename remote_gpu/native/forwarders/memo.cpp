#include "forwarders/memo.hpp"

namespace carrel::forwarders {

std::string Memo::state(uint32_t name) {
    const std::lock_guard lock(mutex_);
    std::string all;
    const auto known = states_.find(name);
    if (known == states_.end()) return all;
    for (const auto& [kind, what] : known->second) {
        const uint64_t head[2] = {kind, what.size()};
        all.append(reinterpret_cast<const char*>(head), sizeof head).append(what);
    }
    return all;
}

void Memo::tell(uint32_t name, uint64_t kind, std::string_view what) {
    const std::lock_guard lock(mutex_);
    Told& told = states_[name];
    std::erase_if(told, [&](const auto& earlier) { return earlier.first == kind; });
    told.emplace_back(kind, what);
}

void Memo::forget(uint32_t name) {
    const std::lock_guard lock(mutex_);
    states_.erase(name);
}

bool Memo::find(const std::string& question, Answer* answer) {
    const std::lock_guard lock(mutex_);
    const auto known = answers_.find(question);
    if (known == answers_.end()) return false;
    *answer = known->second;
    return true;
}

void Memo::keep(std::string question, Answer answer) {
    const std::lock_guard lock(mutex_);
    if (answers_.size() >= kMaxAnswers) answers_.clear();
    answers_[std::move(question)] = std::move(answer);
}

}  // namespace carrel::forwarders
