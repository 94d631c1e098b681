// Handles that a program may keep too long: a table of what is alive, so that a stale or invented
// handle is refused instead of followed.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "softgpu/failure.hpp"

namespace carrel::softgpu {

/// Handle = address of the object, valid while it is in the table. Thread-safe.
template <class Object, class Handle>
class HandleTable {
  public:
    static Handle handle_of(const Object* object) {
        return reinterpret_cast<Handle>(const_cast<Object*>(object));
    }

    Handle add(std::shared_ptr<Object> object) {
        const std::lock_guard lock(mutex_);
        const Handle handle = handle_of(object.get());
        live_.emplace(handle, std::move(object));
        return handle;
    }
    /// nullptr: no such handle.
    [[nodiscard]] std::shared_ptr<Object> find(Handle handle) const {
        const std::lock_guard lock(mutex_);
        const auto at = live_.find(handle);
        return at == live_.end() ? nullptr : at->second;
    }
    [[nodiscard]] std::shared_ptr<Object> get(
        Handle handle, CUresult otherwise = CUDA_ERROR_INVALID_HANDLE) const {
        auto object = find(handle);
        require(object != nullptr, otherwise);
        return object;
    }
    /// Takes the object out of the table; nullptr: no such handle.
    std::shared_ptr<Object> remove(Handle handle) {
        const std::lock_guard lock(mutex_);
        const auto at = live_.find(handle);
        if (at == live_.end()) return nullptr;
        auto object = std::move(at->second);
        live_.erase(at);
        return object;
    }
    [[nodiscard]] std::vector<std::shared_ptr<Object>> all() const {
        const std::lock_guard lock(mutex_);
        std::vector<std::shared_ptr<Object>> objects;
        for (const auto& [handle, object] : live_) objects.push_back(object);
        return objects;
    }
    /// Takes out and returns every object for which `matches` holds.
    template <class Predicate>
    std::vector<std::shared_ptr<Object>> remove_if(Predicate matches) {
        const std::lock_guard lock(mutex_);
        std::vector<std::shared_ptr<Object>> gone;
        for (auto at = live_.begin(); at != live_.end();) {
            if (matches(*at->second)) {
                gone.push_back(std::move(at->second));
                at = live_.erase(at);
            } else {
                ++at;
            }
        }
        return gone;
    }

  private:
    mutable std::mutex mutex_;
    std::unordered_map<Handle, std::shared_ptr<Object>> live_;
};

}  // namespace carrel::softgpu
