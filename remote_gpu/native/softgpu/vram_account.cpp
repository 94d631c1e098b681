#include "softgpu/vram_account.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace carrel::softgpu {

struct VramAccount::File {
    static constexpr std::uint64_t kMagic = 0x314d'4152'5652'4143;  // "CARVRAM1"
    static constexpr std::size_t kSlots = 1024;
    struct Slot {
        std::uint64_t pid;         // 0: free
        std::uint64_t start_time;  // tells a process from a later one of the same pid
        std::uint64_t bytes;
    };
    std::uint64_t magic;
    Slot slots[kSlots];
};

namespace {

constexpr std::size_t kNoSlot = SIZE_MAX;

// Start of a process in clock ticks since boot (field 22 of /proc/pid/stat); 0: no such process.
std::uint64_t start_time(std::uint64_t pid) {
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%llu/stat", static_cast<unsigned long long>(pid));
    std::FILE* file = std::fopen(path, "re");
    if (!file) return 0;
    char text[1024];
    const std::size_t length = std::fread(text, 1, sizeof text - 1, file);
    std::fclose(file);
    text[length] = 0;
    const char* at = std::strrchr(text, ')');  // the name may hold blanks and parentheses
    if (!at) return 0;
    at += 1;
    for (int field = 3; field <= 22; ++field) {
        at = std::strchr(at, ' ');
        if (!at) return 0;
        at += 1;
        if (field == 3 && (*at == 'Z' || *at == 'X')) return 0;  // dead, only not yet waited for
    }
    return std::strtoull(at, nullptr, 10);
}

}  // namespace

// Threads of this process by the mutex, other processes by the file's lock, which a dying process
// gives back.
class VramAccount::Lock {
  public:
    explicit Lock(VramAccount& account) : lock_(account.mutex_), descriptor_(account.descriptor_) {
        if (descriptor_ >= 0)
            while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
            }
    }
    ~Lock() {
        if (descriptor_ >= 0) ::flock(descriptor_, LOCK_UN);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

  private:
    std::lock_guard<std::mutex> lock_;
    int descriptor_;
};

VramAccount::VramAccount(const std::string& path, std::size_t total_bytes)
    : total_(total_bytes), slot_(kNoSlot) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (!path.empty()) {
        descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        struct stat info{};
        if (descriptor_ < 0 || ::fstat(descriptor_, &info) != 0 ||
            (info.st_size < static_cast<off_t>(sizeof(File)) &&
             ::ftruncate(descriptor_, sizeof(File)) != 0))
            throw std::runtime_error("CARREL_SOFTGPU: cannot use the account " + path + ": " +
                                     std::strerror(errno));
        flags = MAP_SHARED;
    }
    void* memory = ::mmap(nullptr, sizeof(File), PROT_READ | PROT_WRITE, flags, descriptor_, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("CARREL_SOFTGPU: cannot map the account");
    file_ = static_cast<File*>(memory);
    const Lock lock(*this);
    if (file_->magic == 0) file_->magic = File::kMagic;
    if (file_->magic != File::kMagic)
        throw std::runtime_error("CARREL_SOFTGPU: " + path +
                                 " is not an account of a software GPU");
}

VramAccount::~VramAccount() {
    {
        const Lock lock(*this);
        if (slot_ != kNoSlot) file_->slots[slot_] = {};
    }
    ::munmap(file_, sizeof(File));
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::size_t VramAccount::own_slot() {
    if (slot_ != kNoSlot) return slot_;
    for (std::size_t i = 0; i < File::kSlots; ++i)
        if (file_->slots[i].pid == 0) {
            const auto pid = static_cast<std::uint64_t>(::getpid());
            file_->slots[i] = {pid, start_time(pid), 0};
            return slot_ = i;
        }
    return kNoSlot;
}

std::size_t VramAccount::sum(bool sweep) {
    std::size_t used = 0;
    for (std::size_t i = 0; i < File::kSlots; ++i) {
        File::Slot& slot = file_->slots[i];
        if (slot.pid == 0) continue;
        if (sweep && i != slot_ && start_time(slot.pid) != slot.start_time) slot = {};
        used += slot.bytes;
    }
    return used;
}

bool VramAccount::charge(std::size_t bytes) {
    const Lock lock(*this);
    if (bytes > total_) return false;
    if (sum(false) > total_ - bytes && sum(true) > total_ - bytes) return false;
    if (own_slot() == kNoSlot) {
        sum(true);
        if (own_slot() == kNoSlot) return false;
    }
    file_->slots[slot_].bytes += bytes;
    return true;
}

void VramAccount::refund(std::size_t bytes) {
    const Lock lock(*this);
    if (slot_ == kNoSlot) return;
    File::Slot& slot = file_->slots[slot_];
    slot.bytes -= slot.bytes < bytes ? slot.bytes : bytes;
}

std::size_t VramAccount::used_bytes() {
    const Lock lock(*this);
    return sum(true);
}

}  // namespace carrel::softgpu
