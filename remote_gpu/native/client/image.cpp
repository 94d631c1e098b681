#include "client/image.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "image/fatbin.hpp"

namespace carrel::client {

namespace {

constexpr size_t kMaxImage = size_t{1} << 30;

std::mutex mutex;
std::map<const void*, size_t> known;

template <class T>
T load(const void* data, size_t offset) {
    T value;
    std::memcpy(&value, static_cast<const char*>(data) + offset, sizeof value);
    return value;
}

// The file ends with its last section, segment or header table.
size_t elf_size(const void* data) {
    const auto header = load<Elf64_Ehdr>(data, 0);
    if (header.e_ident[EI_CLASS] != ELFCLASS64) return 0;
    uint64_t end = sizeof header;
    const auto reach = [&](uint64_t offset, uint64_t size) {
        if (offset < kMaxImage && size < kMaxImage) end = std::max(end, offset + size);
    };
    reach(header.e_shoff, uint64_t{header.e_shnum} * header.e_shentsize);
    reach(header.e_phoff, uint64_t{header.e_phnum} * header.e_phentsize);
    for (unsigned i = 0; i < header.e_shnum && header.e_shentsize >= sizeof(Elf64_Shdr); ++i) {
        const auto section =
            load<Elf64_Shdr>(data, header.e_shoff + size_t{i} * header.e_shentsize);
        if (section.sh_type != SHT_NOBITS) reach(section.sh_offset, section.sh_size);
    }
    for (unsigned i = 0; i < header.e_phnum && header.e_phentsize >= sizeof(Elf64_Phdr); ++i) {
        const auto segment =
            load<Elf64_Phdr>(data, header.e_phoff + size_t{i} * header.e_phentsize);
        reach(segment.p_offset, segment.p_filesz);
    }
    return end;
}

}  // namespace

Image measure_image(const void* data) {
    if (!data) return {};
    {
        const std::lock_guard lock(mutex);
        if (const auto found = known.find(data); found != known.end()) return {data, found->second};
    }
    const auto* bytes = static_cast<const unsigned char*>(data);
    if (!bytes[0]) return {};
    // Text first: a short string must not be read beyond its end.
    if (std::memcmp(bytes, ELFMAG, 1) == 0 && std::memcmp(bytes, ELFMAG, SELFMAG) == 0) {
        return {data, elf_size(data)};
    }
    if (const auto fatbin = image::fatbin_at(data)) return {fatbin->data(), fatbin->size()};
    return {data, strnlen(static_cast<const char*>(data), kMaxImage) + 1};
}

std::vector<std::byte> only_fitting(const Image& image, unsigned major, unsigned minor) {
    const auto fatbin = image::fatbin_in({static_cast<const std::byte*>(image.data), image.size});
    if (!fatbin) return {};
    return image::only_for(*fatbin, {major, minor}).value_or(std::vector<std::byte>{});
}

void remember_image(const void* data, size_t size) {
    const std::lock_guard lock(mutex);
    known[data] = size;
}

void forget_image(const void* data) {
    const std::lock_guard lock(mutex);
    known.erase(data);
}

}  // namespace carrel::client
