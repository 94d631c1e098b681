// Who uses how much of one memory, a GPU's or the host's: an account that all processes on a
// software GPU share through a small file, so that the configured size holds for all of them
// together. Knows nothing of addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace carrel::softgpu {

/// A slot per process in a mapped file; slots of processes that died are swept. Thread-safe.
class VramAccount {
  public:
    /// `path` empty: an account of this process alone. Throws std::runtime_error when the file
    /// cannot be used.
    VramAccount(const std::string& path, std::size_t total_bytes);
    ~VramAccount();
    VramAccount(const VramAccount&) = delete;
    VramAccount& operator=(const VramAccount&) = delete;

    /// Adds to this process's use; false, and nothing changes, where the GPU has no room.
    [[nodiscard]] bool charge(std::size_t bytes);
    void refund(std::size_t bytes);

    [[nodiscard]] std::size_t total_bytes() const { return total_; }
    /// Bytes in use by all living processes.
    [[nodiscard]] std::size_t used_bytes();

  private:
    struct File;
    class Lock;
    std::size_t sum(bool sweep);
    std::size_t own_slot();

    std::mutex mutex_;
    const std::size_t total_;
    int descriptor_ = -1;
    File* file_ = nullptr;
    std::size_t slot_;
};

}  // namespace carrel::softgpu
