#include "client/mirror.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "client/forward.hpp"
#include "client/memory.hpp"
#include "client/written_pages.hpp"
#include "cuda_functions.hpp"
#include "wire/log.hpp"

namespace carrel::client {

namespace {

constexpr size_t kSmall = size_t{64} << 10;    // runs below this travel together
constexpr size_t kMostRuns = 64;               // of a page of managed memory
constexpr size_t kTogether = size_t{1} << 20;  // in payloads of about this size

// Memory of this process that takes pages only where it is touched.
class Sparse {
  public:
    Sparse() = default;
    explicit Sparse(size_t size) : size_(size) {
        void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at != MAP_FAILED) data_ = static_cast<std::byte*>(at);
    }
    Sparse(Sparse&& other) noexcept { swap(other); }
    Sparse& operator=(Sparse&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Sparse() {
        if (data_) munmap(data_, size_);
    }

    std::byte* data() const { return data_; }
    size_t size() const { return size_; }
    // Zeros again, and no memory.
    void empty() const { madvise(data_, size_, MADV_DONTNEED); }

  private:
    void swap(Sparse& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

struct Mirror {
    MirrorRange range;
    // What the arena gave; `range.device` is aligned to a page. 0: a variable of a module.
    CUdeviceptr allocation;
    Sparse shadow;
    bool watched = false;  // the whole pages in it are

    std::byte* host() const { return reinterpret_cast<std::byte*>(range.host); }
    uint64_t first_page() const { return (range.host + kPage - 1) / kPage * kPage; }
    size_t page_bytes() const {
        const uint64_t end = (range.host + range.size) / kPage * kPage;
        return end > first_page() ? end - first_page() : 0;
    }
};

// What is to be sent: out of the shadow, which nobody else changes.
struct Change {
    CUdeviceptr device;
    const std::byte* data;
    size_t size;
};

std::mutex mutex;                           // guards everything below
std::map<uint64_t, Mirror> mirrors;         // by host address
std::map<CUdeviceptr, uint64_t> by_device;  // their host addresses
size_t total = 0;
// Device work, counted as it is published.
uint64_t begun = 0;
uint64_t posted = 0;                        // of them, in whatever order
uint64_t collected = 0;                     // all that the first so many have written is here
uint64_t collected_some = 0;                // `begun` at the last collect
std::map<uint64_t, size_t> variable_pages;  // of variables, and how many lie in each
std::vector<Span> written;                  // kept for its memory
std::vector<Change> changes;
Sparse arrivals;

size_t whole_pages(size_t bytes) {
    return (bytes + kPage - 1) / kPage * kPage;
}

// Bytes of a size as in 4GiB, or 0.
size_t parse_size(const char* text) {
    char* end = nullptr;
    const unsigned long long number = std::strtoull(text, &end, 10);
    const std::pair<const char*, int> units[] = {{"", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    for (const auto& [unit, shift] : units) {
        if (std::strcmp(end, unit) == 0 && number <= SIZE_MAX >> shift) return number << shift;
    }
    return 0;
}

size_t limit() {
    static const size_t bytes = [] {
        const char* wanted = std::getenv("CARREL_MANAGED_LIMIT");
        if (!wanted || !*wanted) return kMirrorLimit;
        const size_t parsed = parse_size(wanted);
        if (!parsed) CARREL_WARNING("CARREL_MANAGED_LIMIT: \"%s\" is no size as in 4GiB", wanted);
        return parsed ? parsed : kMirrorLimit;
    }();
    return bytes;
}

// Takes `size` bytes of the limit, or says why not.
bool reserve(size_t size) {
    const std::lock_guard lock(mutex);
    if (size <= limit() && total <= limit() - size) {
        total += size;
        return true;
    }
    CARREL_WARNING(
        "%zu MiB of managed or mapped memory on top of %zu MiB: this program may have %zu MiB in "
        "all. Use device memory and copies beyond that, or set CARREL_MANAGED_LIMIT (as in "
        "CARREL_MANAGED_LIMIT=4GiB) before the program starts",
        size >> 20, total >> 20, limit() >> 20);
    return false;
}

uint32_t context_name() {
    const uint32_t name = current_context_name();
    return name ? name : wire::kPrimaryContext;
}

CUresult post_internal(wire::Internal call, auto&& encode) {
    return session().post(static_cast<uint16_t>(call), context_name(), encode);
}

CUresult open_in_worker(const MirrorRange& range, bool zero) {
    return post_internal(wire::Internal::mirror_open, [&](wire::Writer& w) {
        w.put(uint64_t{range.device});
        w.put(uint64_t{range.size});
        w.put(static_cast<uint8_t>(zero));
    });
}

void watch(Mirror& mirror) {
    const bool ours = mirror.range.kind != MirrorKind::registered;
    mirror.watched = watch_pages(mirror.first_page(), mirror.page_bytes(), ours);
    // New memory is as the shadow is: what the first scan reports has not been written.
    if (!mirror.watched || !ours) return;
    written.clear();
    mirror.watched = take_written_pages(mirror.first_page(), mirror.page_bytes(), written);
}

// Allocates both sides. Takes no lock: allocating may wait for the device, and waiting collects.
CUresult build(size_t bytes, MirrorKind kind, void* existing, Mirror& mirror) {
    const size_t size = whole_pages(bytes);
    mirror.shadow = Sparse(size);
    if (!mirror.shadow.data()) return CUDA_ERROR_OUT_OF_MEMORY;
    if (const CUresult bad = allocate_device(size + kPage, &mirror.allocation)) return bad;
    // The worker zeroes it at once: what still uses memory that was freed here must be done.
    if (!captures_exist() && work.issued.load() > work.finished.load()) {
        if (const CUresult bad = cuCtxSynchronize()) return free_device(mirror.allocation), bad;
    }
    const CUdeviceptr device = whole_pages(mirror.allocation);
    mirror.range = {existing ? reinterpret_cast<uint64_t>(existing) : device, device,
                    existing ? bytes : size, kind};
    // Both sides start as zeros, and so does the shadow; what registered memory holds goes with
    // the first publish.
    CUresult result = CUDA_SUCCESS;
    if (!existing) {
        void* at = mmap(reinterpret_cast<void*>(device), size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (at == MAP_FAILED) result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS) result = open_in_worker(mirror.range, true);
    if (result != CUDA_SUCCESS) free_device(mirror.allocation);
    return result;
}

CUresult add(size_t bytes, MirrorKind kind, void* existing, uint64_t* base) {
    const size_t size = whole_pages(bytes);
    if (size < bytes || !reserve(size)) return CUDA_ERROR_OUT_OF_MEMORY;
    Mirror mirror;
    const CUresult result = build(bytes, kind, existing, mirror);
    const std::lock_guard lock(mutex);
    if (result != CUDA_SUCCESS) {
        total -= size;
        return result;
    }
    watch(mirror);
    if (base) *base = mirror.range.host;
    by_device[mirror.range.device] = mirror.range.host;
    mirrors.emplace(mirror.range.host, std::move(mirror));
    detail::mirrors = true;
    return CUDA_SUCCESS;
}

// Pages of this process at the addresses of a variable, which may share some with another.
void unmap_variable(uint64_t from, uint64_t to) {
    for (uint64_t page = from / kPage * kPage; page < to; page += kPage) {
        const auto known = variable_pages.find(page);
        if (--known->second) continue;
        munmap(reinterpret_cast<void*>(page), kPage);
        variable_pages.erase(known);
    }
}

bool map_variable(uint64_t from, uint64_t to) {
    for (uint64_t page = from / kPage * kPage; page < to; page += kPage) {
        const auto known = variable_pages.find(page);
        if (known != variable_pages.end()) {
            ++known->second;
            continue;
        }
        void* at = mmap(reinterpret_cast<void*>(page), kPage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == reinterpret_cast<void*>(page)) {
            variable_pages[page] = 1;
            continue;
        }
        if (at != MAP_FAILED) munmap(at, kPage);
        unmap_variable(from, page);
        return false;
    }
    return true;
}

void release(Mirror& mirror) {
    if (!mirror.allocation) {
        unmap_variable(mirror.range.host, mirror.range.host + mirror.range.size);
    } else if (mirror.range.kind != MirrorKind::registered) {
        mmap(mirror.host(), whole_pages(mirror.range.size), PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    } else if (mirror.watched) {
        unwatch_pages(mirror.first_page(), mirror.page_bytes());
    }
    total -= whole_pages(mirror.range.size);
    by_device.erase(mirror.range.device);
}

// ---- to the device -----------------------------------------------------------------------------

// Into `changes`: what differs from the shadow between two offsets, which then has it too. With
// `exact`, byte by byte: the device may be writing next to them.
void find_changes(Mirror& mirror, size_t from, size_t to, bool exact) {
    const bool managed = mirror.range.kind == MirrorKind::managed;
    const std::byte* host = mirror.host();
    std::byte* shadow = mirror.shadow.data();
    const auto add = [&](size_t at, size_t end) {
        // The program may go on writing: what is sent is what the shadow got.
        std::memcpy(shadow + at, host + at, end - at);
        if (!changes.empty() && changes.back().data + changes.back().size == shadow + at) {
            changes.back().size += end - at;
        } else {
            changes.push_back({mirror.range.device + at, shadow + at, end - at});
        }
    };
    while (from < to) {
        const size_t end = std::min(to, from / kPage * kPage + kPage);
        if (std::memcmp(host + from, shadow + from, end - from) == 0) {
            from = end;
        } else if (!exact) {
            // A whole page of the worker's, so that it knows what the page holds.
            const size_t page = from / kPage * kPage;
            const size_t page_end = std::min(page + kPage, mirror.range.size);
            add(page, page_end);
            from = page_end;
        } else {
            const size_t before = changes.size();
            for (size_t at = from; at < end;) {
                while (at < end && host[at] == shadow[at]) ++at;
                size_t stop = at;
                while (stop < end && host[stop] != shadow[stop]) ++stop;
                if (at < stop) add(at, stop);
                at = stop;
                // Managed memory that the program fills while the device works on other memory.
                if (managed && changes.size() > before + kMostRuns) {
                    add(at, end);
                    at = end;
                }
            }
            from = end;
        }
    }
}

void find_changes(Mirror& mirror) {
    // While a kernel runs, the program may not touch managed memory, but mapped memory it may.
    const bool exact =
        mirror.range.kind == MirrorKind::managed ? begun > collected_some : begun > collected;
    const size_t size = mirror.range.size;
    written.clear();
    if (mirror.watched) {
        mirror.watched = take_written_pages(mirror.first_page(), mirror.page_bytes(), written);
    }
    if (!mirror.watched) return find_changes(mirror, 0, size, exact);
    for (const Span& span : written) {
        const size_t at = span.base - mirror.range.host;
        find_changes(mirror, at, at + span.size, exact);
    }
    // Pages that are only partly in it may be another mirror's as well, and are not watched.
    const size_t head = std::min<size_t>(mirror.first_page() - mirror.range.host, size);
    if (head) find_changes(mirror, 0, head, exact);
    const size_t tail = head + mirror.page_bytes();
    if (tail < size) find_changes(mirror, tail, size, exact);
}

void put_runs(wire::Writer& w, std::span<const Change> some) {
    w.put(static_cast<uint32_t>(some.size()));
    for (const Change& change : some) w.put(wire::MirrorRun{change.device, change.size});
}

CUresult send_large(const Change& change) {
    for (size_t done = 0; done < change.size;) {
        const size_t part = std::min<size_t>(change.size - done, wire::kPiece);
        const Change piece{change.device + done, change.data + done, part};
        if (const CUresult bad = session().transact(
                static_cast<uint16_t>(wire::Internal::mirror_write), context_name(),
                [&](wire::Writer& w) { put_runs(w, {&piece, 1}); }, nullptr,
                {piece.data, piece.size})) {
            return bad;
        }
        done += part;
    }
    return CUDA_SUCCESS;
}

// Sends `changes`.
CUresult send_changes() {
    for (size_t at = 0; at < changes.size();) {
        if (changes[at].size >= kSmall) {
            if (const CUresult bad = send_large(changes[at++])) return bad;
            continue;
        }
        size_t end = at;
        size_t bytes = 0;
        while (end < changes.size() && changes[end].size < kSmall && bytes < kTogether)
            bytes += changes[end++].size;
        const std::span<const Change> some(changes.data() + at, end - at);
        if (const CUresult bad = post_internal(wire::Internal::mirror_write, [&](wire::Writer& w) {
                put_runs(w, some);
                for (const Change& change : some) w.raw(change.data, change.size);
            })) {
            return bad;
        }
        at = end;
    }
    return CUDA_SUCCESS;
}

CUresult publish() {
    for (auto& [host, mirror] : mirrors) {
        changes.clear();
        find_changes(mirror);
        if (const CUresult bad = send_changes()) return bad;
    }
    return CUDA_SUCCESS;
}

// ---- from the device ---------------------------------------------------------------------------

// `data` is what the device has at an offset.
void merge(Mirror& mirror, size_t from, const std::byte* data, size_t size) {
    for (size_t done = 0; done < size;) {
        const size_t n = std::min(kPage, size - done);
        std::byte *host = mirror.host() + from + done, *shadow = mirror.shadow.data() + from + done;
        const std::byte* fetched = data + done;
        done += n;
        if (std::memcmp(fetched, shadow, n) == 0) continue;
        if (std::memcmp(host, shadow, n) == 0) {
            std::memcpy(host, fetched, n);
        } else {
            for (size_t i = 0; i < n; ++i) {
                if (fetched[i] != shadow[i]) host[i] = fetched[i];
            }
        }
        std::memcpy(shadow, fetched, n);
    }
}

Mirror* on_device(CUdeviceptr address) {
    auto after = by_device.upper_bound(address);
    if (after == by_device.begin()) return nullptr;
    --after;
    Mirror& mirror = mirrors.at(after->second);
    return address - after->first < mirror.range.size ? &mirror : nullptr;
}

// The answer: which parts the data belongs to. Throws wire::Malformed.
void merge_arrivals(wire::Reader& in, size_t arrived) {
    size_t used = 0;
    const auto count = in.get<uint32_t>();
    for (uint32_t i = 0; i < count; ++i) {
        const auto run = in.get<wire::MirrorRun>();
        if (run.bytes > arrived - used) throw wire::Malformed("changes without their data");
        const std::byte* data = arrivals.data() + used;
        used += run.bytes;
        // A run may go on from one mirror into the next.
        for (uint64_t at = run.address, left = run.bytes; left;) {
            Mirror* mirror = on_device(at);
            if (!mirror) throw wire::Malformed("changes of memory that is not mirrored");
            const size_t offset = at - mirror->range.device;
            const size_t part = std::min<uint64_t>(left, mirror->range.size - offset);
            merge(*mirror, offset, data, part);
            data += part, at += part, left -= part;
        }
    }
}

CUresult collect() {
    if (arrivals.size() < total) arrivals = Sparse(std::max(total, 2 * arrivals.size()));
    if (!arrivals.data()) return CUDA_ERROR_OUT_OF_MEMORY;
    Pending pending;
    pending.sink = arrivals.data();
    pending.sink_size = arrivals.size();
    if (const CUresult bad = session().transact(
            static_cast<uint16_t>(wire::Internal::mirror_collect), context_name(),
            [](wire::Writer&) {}, &pending)) {
        return bad;
    }
    const size_t arrived = arrivals.size() - pending.sink_size;
    try {
        wire::Reader in(pending.body());
        const auto result = static_cast<CUresult>(in.get<int32_t>());
        if (result == CUDA_SUCCESS) merge_arrivals(in, arrived);
        if (arrived > kTogether) arrivals.empty();
        return session().settle(result);
    } catch (const wire::Malformed& error) {
        session().lose(CUDA_ERROR_DEVICE_UNAVAILABLE, error.what());
        return session().status();
    }
}

}  // namespace

CUresult create_mirror(size_t bytes, MirrorKind kind, uint64_t* base) {
    return add(bytes, kind, nullptr, base);
}

CUresult register_mirror(void* host, size_t bytes) {
    return add(bytes, MirrorKind::registered, host, nullptr);
}

CUresult drop_mirror(uint64_t host, MirrorKind kind) {
    CUdeviceptr allocation = 0;
    {
        const std::lock_guard lock(mutex);
        const auto found = mirrors.find(host);
        if (found == mirrors.end() || found->second.range.kind != kind || !found->second.allocation)
            return CUDA_ERROR_INVALID_VALUE;
        allocation = found->second.allocation;
        const CUdeviceptr device = found->second.range.device;
        release(found->second);
        mirrors.erase(found);
        detail::mirrors = !mirrors.empty();
        post_internal(wire::Internal::mirror_close,
                      [&](wire::Writer& w) { w.put(uint64_t{device}); });
    }
    return free_device(allocation);
}

CUresult mirror_variable(CUdeviceptr base, size_t size) {
    if (!reserve(whole_pages(size))) return CUDA_ERROR_OUT_OF_MEMORY;
    const std::lock_guard lock(mutex);
    const auto give_up = [&](CUresult why) {
        total -= whole_pages(size);
        return why;
    };
    if (mirrors.contains(base)) return give_up(CUDA_SUCCESS);
    Mirror mirror;
    mirror.allocation = 0;
    mirror.range = {base, base, size, MirrorKind::managed};
    mirror.shadow = Sparse(whole_pages(size));
    if (!mirror.shadow.data()) return give_up(CUDA_ERROR_OUT_OF_MEMORY);
    if (!map_variable(base, base + size)) {
        CARREL_WARNING(
            "a __managed__ variable lies at %#llx on the GPU host, where this process has "
            "something "
            "else; start the program again, or allocate with cudaMallocManaged",
            base);
        return give_up(CUDA_ERROR_OUT_OF_MEMORY);
    }
    if (const CUresult bad = open_in_worker(mirror.range, false)) {
        unmap_variable(base, base + size);
        return give_up(bad);
    }
    watch(mirror);
    by_device[base] = base;
    mirrors.emplace(base, std::move(mirror));
    detail::mirrors = true;
    ++begun, ++posted;  // work that was issued before may still change it
    return collect();   // what it holds now
}

void drop_variable(CUdeviceptr base) {
    const std::lock_guard lock(mutex);
    const auto found = mirrors.find(base);
    if (found == mirrors.end() || found->second.allocation) return;
    release(found->second);
    mirrors.erase(found);
    detail::mirrors = !mirrors.empty();
    post_internal(wire::Internal::mirror_close, [&](wire::Writer& w) { w.put(uint64_t{base}); });
}

void forget_mirrors() {
    const std::lock_guard lock(mutex);
    for (auto& [host, mirror] : mirrors) release(mirror);
    mirrors.clear();
    detail::mirrors = false;
}

std::optional<MirrorRange> find_mirror(uint64_t address) {
    if (!mirrors_exist()) return std::nullopt;
    const std::lock_guard lock(mutex);
    if (auto after = mirrors.upper_bound(address); after != mirrors.begin()) {
        const MirrorRange& range = std::prev(after)->second.range;
        if (address - range.host < range.size) return range;
    }
    if (const Mirror* mirror = on_device(address)) return mirror->range;
    return std::nullopt;
}

CUresult publish_mirrors() {
    const std::lock_guard lock(mutex);
    return publish();
}

CUresult MirrorWork::begin() {
    const std::lock_guard lock(mutex);
    const CUresult result = publish();
    ++begun;
    return result;
}

void MirrorWork::end() {
    const std::lock_guard lock(mutex);
    ++posted;
}

MirrorWait::MirrorWait() {
    if (!mirrors_exist()) return;
    const std::lock_guard lock(mutex);
    if (begun == posted) posted_ = posted;
}

CUresult MirrorWait::collect(bool all_work) const {
    if (!mirrors_exist()) return CUDA_SUCCESS;
    const std::lock_guard lock(mutex);
    if (begun == collected || mirrors.empty()) return CUDA_SUCCESS;
    const uint64_t now = begun;
    if (const CUresult bad = client::collect()) return bad;
    collected_some = now;
    // With the default stream alone, any wait is for everything.
    if (all_work || !work.streams.load(std::memory_order_relaxed))
        collected = std::max(collected, posted_);
    return CUDA_SUCCESS;
}

}  // namespace carrel::client
