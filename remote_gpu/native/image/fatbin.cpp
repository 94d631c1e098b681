#include "image/fatbin.hpp"

#include <algorithm>
#include <cstring>

#include "image/lz4.hpp"
#include "image/zstd.hpp"

namespace carrel::image {

namespace {

constexpr char kWrapperMagic[] = "\xb1\x43\x62\x46";
constexpr char kMagic[] = "\x50\xed\x55\xba";
constexpr size_t kWrapped = 8;       // where a wrapper has the container's address
constexpr size_t kHeader = 16;       // of a container, at least
constexpr size_t kEntryHeader = 64;  // at least
constexpr size_t kSizeAt = 8;        // of a container: bytes behind its header
constexpr uint64_t kLz4 = 0x2000, kZstd = 0x8000;
// From here on an architecture has variants ("a", "f") whose code does not run on all later minors,
// and nothing published says which bit of an entry's header tells them apart.
constexpr unsigned kVariantsFrom = 10;

template <class T>
T load(const void* data, size_t offset) {
    T value;
    std::memcpy(&value, static_cast<const std::byte*>(data) + offset, sizeof value);
    return value;
}

// Reads no further than the first byte that differs: the image may be a very short text.
bool starts_with(const void* image, const char* magic) {
    return std::strncmp(static_cast<const char*>(image), magic, 4) == 0;
}

// nullopt: the sizes that the header says are impossible.
std::optional<uint64_t> size_of(const void* fatbin) {
    const uint64_t header = load<uint16_t>(fatbin, 6);
    const auto body = load<uint64_t>(fatbin, kSizeAt);
    if (header < kHeader || body > PTRDIFF_MAX - header) return std::nullopt;
    return header + body;
}

}  // namespace

bool FatbinEntry::runs_on(Capability device) const {
    if (is_ptx()) return arch <= device.arch();
    return is_cubin() && arch / 10 == device.major && arch % 10 <= device.minor;
}

std::optional<std::span<const std::byte>> fatbin_at(const void* image) {
    if (image && starts_with(image, kWrapperMagic)) image = load<const void*>(image, kWrapped);
    if (!image || !starts_with(image, kMagic)) return std::nullopt;
    const auto size = size_of(image);
    if (!size) return std::nullopt;
    return std::span(static_cast<const std::byte*>(image), *size);
}

std::optional<std::span<const std::byte>> fatbin_in(std::span<const std::byte> image) {
    if (image.size() < kHeader || !starts_with(image.data(), kMagic)) return std::nullopt;
    const auto size = size_of(image.data());
    if (!size || *size > image.size()) return std::nullopt;
    return image.first(*size);
}

std::optional<std::vector<FatbinEntry>> fatbin_entries(std::span<const std::byte> fatbin) {
    const auto container = fatbin_in(fatbin);
    if (!container) return std::nullopt;
    std::vector<FatbinEntry> entries;
    auto rest = container->subspan(load<uint16_t>(container->data(), 6));
    while (rest.size() >= kEntryHeader) {
        const std::byte* const at = rest.data();
        const size_t header = load<uint32_t>(at, 4);
        const auto padded = load<uint64_t>(at, 8);
        const size_t packed = load<uint32_t>(at, 16);
        if (header < kEntryHeader || header > rest.size() || padded > rest.size() - header) {
            return std::nullopt;
        }
        FatbinEntry entry{.kind = load<uint16_t>(at, 0),
                          .arch = load<uint32_t>(at, 28),
                          .flags = load<uint64_t>(at, 40),
                          .size = load<uint64_t>(at, 56),
                          .whole = rest.first(header + padded),
                          .code = rest.subspan(header, padded)};
        if (entry.flags & (kLz4 | kZstd)) {
            if (packed > padded) return std::nullopt;
            entry.code = entry.code.first(packed);
        }
        entries.push_back(entry);
        rest = rest.subspan(header + padded);
    }
    return entries;
}

const FatbinEntry* choose(std::span<const FatbinEntry> entries, Capability device, Accept accept) {
    const FatbinEntry* best = nullptr;
    for (const FatbinEntry& entry : entries) {
        if (!entry.runs_on(device) || (accept == Accept::ptx && !entry.is_ptx())) continue;
        const bool better = !best || (entry.is_cubin() == best->is_cubin() ? entry.arch > best->arch
                                                                           : entry.is_cubin());
        if (better) best = &entry;
    }
    return best;
}

std::optional<std::vector<std::byte>> unpack(const FatbinEntry& entry, size_t most) {
    if (entry.flags & (kZstd | kLz4)) {
        if (entry.size > most) return std::nullopt;
        if (entry.flags & kLz4) return lz4_decompress(entry.code, entry.size);
        auto code = zstd_decompress(entry.code, entry.size);
        if (!code || code->size() != entry.size) return std::nullopt;
        return code;
    }
    if (entry.code.size() > most) return std::nullopt;
    return std::vector(entry.code.begin(), entry.code.end());
}

std::optional<std::vector<std::byte>> only_for(std::span<const std::byte> fatbin,
                                               Capability device) {
    const auto entries = fatbin_entries(fatbin);
    if (!entries) return std::nullopt;
    const FatbinEntry* const best = choose(*entries, device, Accept::ptx_and_cubins);
    const FatbinEntry* const text = choose(*entries, device, Accept::ptx);
    if (!best) return std::nullopt;
    const bool exact = best->arch == device.arch();
    const auto needed = [&](const FatbinEntry& entry) {
        if (!entry.is_ptx() && !entry.is_cubin()) return true;  // not for us to judge
        if (!entry.runs_on(device)) return false;
        if (entry.is_ptx()) return entry.arch == text->arch;
        return entry.arch == best->arch || (!exact && device.major >= kVariantsFrom);
    };
    const size_t header = load<uint16_t>(fatbin.data(), 6);
    std::vector<std::byte> out(fatbin.begin(),
                               fatbin.begin() + static_cast<std::ptrdiff_t>(header));
    bool all = true;
    for (const FatbinEntry& entry : *entries) {
        if (needed(entry)) {
            out.insert(out.end(), entry.whole.begin(), entry.whole.end());
        } else {
            all = false;
        }
    }
    if (all) return std::nullopt;
    const uint64_t size = out.size() - header;
    std::memcpy(out.data() + kSizeAt, &size, sizeof size);
    return out;
}

}  // namespace carrel::image
