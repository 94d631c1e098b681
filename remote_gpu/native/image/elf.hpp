// How large an ELF file in memory is: CUDA's functions take cubins by a bare pointer.
#pragma once
#include <cstddef>

namespace carrel::image {

// Whether it starts as ELF files do. A short text is not read beyond its end.
bool is_elf(const void* image);

// Bytes to the end of its last section, segment or header table, read from its headers. 0: not a
// 64-bit ELF file.
size_t elf_size(const void* image);

}  // namespace carrel::image
