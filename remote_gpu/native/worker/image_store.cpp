#include "worker/image_store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "wire/log.hpp"

namespace carrel::worker {

namespace {

namespace fs = std::filesystem;

class File {
  public:
    explicit File(int fd) : fd_(fd) {}
    ~File() {
        if (fd_ >= 0) ::close(fd_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

  private:
    int fd_;
};

bool write_all(int fd, std::span<const std::byte> data) {
    while (!data.empty()) {
        const ssize_t wrote = ::write(fd, data.data(), data.size());
        if (wrote <= 0) return false;
        data = data.subspan(static_cast<size_t>(wrote));
    }
    return true;
}

}  // namespace

std::string ImageStore::path(const wire::Hash& hash) const {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text = folder_ + "/";
    for (const uint8_t byte : hash) {
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
    }
    return text;
}

std::optional<std::vector<char>> ImageStore::find(const wire::Hash& hash, uint64_t size) const {
    if (folder_.empty()) return std::nullopt;
    const std::string name = path(hash);
    const File file(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat status{};
    if (!file || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
        static_cast<uint64_t>(status.st_size) != size)
        return std::nullopt;
    std::vector<char> image(size + 1);
    for (uint64_t at = 0; at < size;) {
        const ssize_t got = ::read(file.get(), image.data() + at, size - at);
        if (got <= 0) return std::nullopt;
        at += static_cast<uint64_t>(got);
    }
    if (!wire::equal(wire::sha256(image.data(), size), hash)) {
        CARREL_WARNING("%s is not what it is called: removed", name.c_str());
        ::unlink(name.c_str());
        return std::nullopt;
    }
    ::futimens(file.get(), nullptr);  // it is in use
    return image;
}

void ImageStore::keep(const wire::Hash& hash, std::span<const std::byte> image) const {
    if (folder_.empty() || image.size() > most_bytes_) return;
    std::error_code ignored;
    if (!fs::is_directory(folder_, ignored)) {
        fs::create_directories(fs::path(folder_).parent_path(), ignored);
        ::mkdir(folder_.c_str(), 0700);
    }
    // Whoever finds it finds all of it: it gets its name when it is complete.
    std::string draft = folder_ + "/draft-XXXXXX";
    const File file(::mkostemp(draft.data(), O_CLOEXEC));
    if (!file) {
        CARREL_DEBUG("code cannot be kept in %s", folder_.c_str());
        return;
    }
    if (!write_all(file.get(), image) || ::rename(draft.c_str(), path(hash).c_str()) != 0) {
        ::unlink(draft.c_str());
        return;
    }
    evict();
}

void ImageStore::evict() const {
    struct Entry {
        fs::file_time_type used;
        uint64_t size;
        fs::path path;
    };
    std::vector<Entry> entries;
    uint64_t total = 0;
    std::error_code failed;
    for (auto it = fs::directory_iterator(folder_, failed); !failed && it != fs::end(it);
         it.increment(failed)) {
        std::error_code gone;
        const uint64_t size = it->file_size(gone);
        const auto used = it->last_write_time(gone);
        if (gone) continue;
        entries.push_back({used, size, it->path()});
        total += size;
    }
    if (total <= most_bytes_) return;
    std::ranges::sort(entries, {}, &Entry::used);
    for (const Entry& entry : entries) {
        if (total <= most_bytes_) return;
        std::error_code gone;
        if (fs::remove(entry.path, gone)) total -= entry.size;
    }
}

}  // namespace carrel::worker
