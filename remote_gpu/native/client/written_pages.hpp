// Which pages the program has written since they were last asked for.
//
// The kernel keeps the books: userfaultfd's asynchronous write protection, read and renewed by
// PAGEMAP_SCAN (Linux 6.7). Nothing of it is seen by the program: no signal is raised, no handler
// is needed, writes of every thread count and so do those of system calls (read(2) into the
// memory), and a forked child has plain memory. The older ways fail one of these: protected pages
// with a SIGSEGV handler make system calls fail and fight over the handler, userfaultfd's messages
// need privileges for system calls, soft-dirty bits belong to whoever clears them last.
// Where the kernel cannot do it, the pages are not watched and the caller compares them all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace carrel::client {

inline constexpr size_t kPage = 4096;

struct Span {
    uint64_t base;
    size_t size;
};

// Watches the whole pages of the range. False: not possible for this memory, here.
bool watch_pages(uint64_t base, size_t size, bool known_private);
// For memory that stays mapped.
void unwatch_pages(uint64_t base, size_t size);
// Appends the pages written since the last call, or since they were watched. Atomic: a write that
// comes later is reported next time. False when the pages are not watched any more.
bool take_written_pages(uint64_t base, size_t size, std::vector<Span>& written);

}  // namespace carrel::client
