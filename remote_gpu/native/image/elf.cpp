#include "image/elf.hpp"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace carrel::image {

namespace {

constexpr size_t kMaxImage = size_t{1} << 30;

template <class T>
T load(const void* data, size_t offset) {
    T value;
    std::memcpy(&value, static_cast<const char*>(data) + offset, sizeof value);
    return value;
}

}  // namespace

bool is_elf(const void* image) {
    const auto* const start = static_cast<const char*>(image);
    for (int i = 0; i < SELFMAG; ++i)
        if (start[i] != ELFMAG[i]) return false;
    return true;
}

size_t elf_size(const void* image) {
    if (!is_elf(image)) return 0;
    const auto header = load<Elf64_Ehdr>(image, 0);
    if (header.e_ident[EI_CLASS] != ELFCLASS64) return 0;
    uint64_t end = sizeof header;
    const auto reach = [&](uint64_t offset, uint64_t size) {
        if (offset < kMaxImage && size < kMaxImage) end = std::max(end, offset + size);
    };
    reach(header.e_shoff, uint64_t{header.e_shnum} * header.e_shentsize);
    reach(header.e_phoff, uint64_t{header.e_phnum} * header.e_phentsize);
    for (unsigned i = 0; i < header.e_shnum && header.e_shentsize >= sizeof(Elf64_Shdr); ++i) {
        const auto section =
            load<Elf64_Shdr>(image, header.e_shoff + size_t{i} * header.e_shentsize);
        if (section.sh_type != SHT_NOBITS) reach(section.sh_offset, section.sh_size);
    }
    for (unsigned i = 0; i < header.e_phnum && header.e_phentsize >= sizeof(Elf64_Phdr); ++i) {
        const auto segment =
            load<Elf64_Phdr>(image, header.e_phoff + size_t{i} * header.e_phentsize);
        reach(segment.p_offset, segment.p_filesz);
    }
    return end;
}

}  // namespace carrel::image
