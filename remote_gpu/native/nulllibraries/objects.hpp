// What the null libraries remember of the handles and descriptors that they have handed out.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "wire/library.hpp"

struct CUstream_st;

namespace carrel::null {

struct Object {
    uint8_t handle = 0;  // the number of its type in the library
    uint32_t note = 0;   // see wire/library.hpp
    CUstream_st* stream = nullptr;
    // Of a cuBLASLt layout.
    int64_t rows = 0, columns = 0, batch = 1;
    int type = 0;  // cudaDataType
};

// Of one library. Values are what the program holds: pointers, numbers, or the address of a struct
// of its own.
class Objects {
  public:
    uint64_t mint(uint8_t handle, bool integer) {
        const std::lock_guard lock(mutex_);
        auto made = std::make_unique<Object>();
        made->handle = handle;
        const uint64_t value = integer ? ++numbers_ : reinterpret_cast<uint64_t>(made.get());
        objects_[value] = std::move(made);
        return value;
    }
    void adopt(uint64_t box, uint8_t handle) {
        const std::lock_guard lock(mutex_);
        auto made = std::make_unique<Object>();
        made->handle = handle;
        objects_[box] = std::move(made);
    }
    // nullptr: there is none.
    Object* find(uint64_t value) {
        const std::lock_guard lock(mutex_);
        const auto found = objects_.find(value);
        return found == objects_.end() ? nullptr : found->second.get();
    }
    void erase(uint64_t value) {
        const std::lock_guard lock(mutex_);
        objects_.erase(value);
    }

    static Objects& instance() {
        static Objects* const all = new Objects;  // outlives every user
        return *all;
    }

  private:
    std::mutex mutex_;
    uint64_t numbers_ = 0;
    std::unordered_map<uint64_t, std::unique_ptr<Object>> objects_;
};

}  // namespace carrel::null
