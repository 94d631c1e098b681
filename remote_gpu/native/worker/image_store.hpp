// The code that this node's sessions have loaded, by its SHA-256: what one program has sent, the
// next need not. A folder of the node's own account, shared by its workers; what lies in it is
// believed only if it has the hash that it is called by.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "wire/sha256.hpp"

namespace carrel::worker {

class ImageStore {
  public:
    static constexpr uint64_t kMostBytes = uint64_t{2} << 30;  // then the least recently used go

    // An empty folder: nothing is kept. The folder is made when the first image is.
    explicit ImageStore(std::string folder, uint64_t most_bytes = kMostBytes)
        : folder_(std::move(folder)), most_bytes_(most_bytes) {}

    // The image with a zero after it; nullopt: it is not here.
    std::optional<std::vector<char>> find(const wire::Hash& hash, uint64_t size) const;
    // Failing to keep is no error: the next program sends it again.
    void keep(const wire::Hash& hash, std::span<const std::byte> image) const;

  private:
    std::string path(const wire::Hash& hash) const;
    void evict() const;

    const std::string folder_;
    const uint64_t most_bytes_;
};

}  // namespace carrel::worker
