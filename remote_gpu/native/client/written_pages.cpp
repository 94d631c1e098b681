#include "client/written_pages.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "wire/log.hpp"

namespace carrel::client {

namespace {

// Of Linux 6.7, for building with older headers.
constexpr uint64_t kUserModeOnly = 1;
constexpr uint64_t kUnpopulated = uint64_t{1} << 13;  // UFFD_FEATURE_WP_UNPOPULATED
constexpr uint64_t kAsync = uint64_t{1} << 15;        // UFFD_FEATURE_WP_ASYNC

struct ScanRegion {  // struct page_region
    uint64_t start, end, categories;
};

struct Scan {  // struct pm_scan_arg
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kScan = _IOWR('f', 16, Scan);
constexpr uint64_t kProtectMatching = 1, kCheckAsync = 2;  // PM_SCAN_*
constexpr uint64_t kWritten = 2;                           // PAGE_IS_WRITTEN

struct Watcher {
    int faults = -1;
    int pagemap = -1;

    Watcher() {
        if (!start()) give_up();
    }

    bool start() {
        faults = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly));
        if (faults < 0) return false;
        uffdio_api api{};
        api.api = UFFD_API;
        api.features = kAsync | kUnpopulated;
        if (::ioctl(faults, UFFDIO_API, &api) != 0) return false;
        pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (pagemap < 0) return false;
        // An empty range: whether the kernel knows the question at all.
        Scan scan{};
        scan.size = sizeof scan;
        scan.category_mask = scan.return_mask = kWritten;
        return ::ioctl(pagemap, kScan, &scan) >= 0;
    }

    void give_up() {
        CARREL_DEBUG("the kernel does not say which pages are written (%s): all are compared",
                     std::strerror(errno));
        if (faults >= 0) ::close(faults);
        if (pagemap >= 0) ::close(pagemap);
        faults = pagemap = -1;
    }
};

const Watcher& watcher() {
    static const Watcher one;  // its descriptors live as long as the process
    return one;
}

// Whether the memory is this process's alone: others may write shared memory and files unseen.
bool is_private(uint64_t base, size_t size) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        unsigned long start = 0, end = 0, inode = 0;
        char mode[5] = "";
        if (std::sscanf(line.c_str(), "%lx-%lx %4s %*s %*s %lu", &start, &end, mode, &inode) != 4)
            return false;
        if (start < base + size && end > base && (mode[3] != 'p' || inode)) return false;
    }
    return true;
}

}  // namespace

bool watch_pages(uint64_t base, size_t size, bool known_private) {
    if (!size || watcher().faults < 0) return false;
    if (!known_private && !is_private(base, size)) return false;
    uffdio_register range{};
    range.range = {base, size};
    range.mode = UFFDIO_REGISTER_MODE_WP;
    if (::ioctl(watcher().faults, UFFDIO_REGISTER, &range) != 0) {
        CARREL_DEBUG("pages at %#lx are not watched: %s", static_cast<unsigned long>(base),
                     std::strerror(errno));
        return false;
    }
    return true;
}

void unwatch_pages(uint64_t base, size_t size) {
    if (!size || watcher().faults < 0) return;
    uffdio_range range{base, size};
    ::ioctl(watcher().faults, UFFDIO_UNREGISTER, &range);
}

bool take_written_pages(uint64_t base, size_t size, std::vector<Span>& written) {
    if (!size) return true;
    if (watcher().pagemap < 0) return false;
    ScanRegion regions[64];
    Scan scan{};
    scan.size = sizeof scan;
    scan.flags = kProtectMatching | kCheckAsync;
    scan.start = base;
    scan.end = base + size;
    scan.vec = reinterpret_cast<uint64_t>(regions);
    scan.vec_len = std::size(regions);
    scan.category_mask = scan.return_mask = kWritten;
    while (scan.start < scan.end) {
        const int found = ::ioctl(watcher().pagemap, kScan, &scan);
        if (found < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        for (int i = 0; i < found; ++i) {
            const uint64_t start = regions[i].start;
            if (!written.empty() && written.back().base + written.back().size == start) {
                written.back().size += regions[i].end - start;
            } else {
                written.push_back({start, regions[i].end - start});
            }
        }
        if (scan.walk_end <= scan.start) return false;
        scan.start = scan.walk_end;
    }
    return true;
}

}  // namespace carrel::client
