// Fatbins: containers of one program's code for several architectures. Knows the container, not the
// code in it. Every size in it is checked; entries are views into the container.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace carrel::image {

struct Capability {
    unsigned major = 0, minor = 0;
    unsigned arch() const { return major * 10 + minor; }  // as entries count: 80, 103
};

struct FatbinEntry {
    uint16_t kind = 0;   // what is neither PTX nor cubin is an intermediate of NVIDIA's
    uint32_t arch = 0;   // 10 * major + minor of the compute capability
    uint64_t flags = 0;  // how it is packed, among others
    uint64_t size = 0;   // bytes when unpacked; of what is not packed it may be 0
    std::span<const std::byte> whole;  // with its header
    std::span<const std::byte> code;   // as it lies there; padded with zeros unless it is packed

    bool is_ptx() const { return kind == 1; }
    bool is_cubin() const { return kind == 2; }
    bool runs_on(Capability device) const;
};

// The container at a bare pointer, or at the one in the struct that nvcc puts around it: CUDA's
// functions know no size but what it says itself. nullopt: something else, a short text perhaps.
std::optional<std::span<const std::byte>> fatbin_at(const void* image);
// The container at the start of bytes whose end is known. nullopt: something else, or cut off.
std::optional<std::span<const std::byte>> fatbin_in(std::span<const std::byte> image);

// What is in a container. nullopt: malformed.
std::optional<std::vector<FatbinEntry>> fatbin_entries(std::span<const std::byte> fatbin);

// What a driver accepts.
enum class Accept : uint8_t { ptx, ptx_and_cubins };

// The entry that a driver takes: the cubin for just this architecture, else of the highest one
// before it within its major, else the PTX of the highest architecture up to the device's. nullptr:
// nothing runs there.
const FatbinEntry* choose(std::span<const FatbinEntry> entries, Capability device, Accept accept);

// The code of an entry. nullopt: damaged, or larger than `most` bytes.
std::optional<std::vector<std::byte>> unpack(const FatbinEntry& entry, size_t most);

// A container of just those entries between which a driver of this device may choose: for a driver
// that is elsewhere. nullopt: it is malformed, all are needed, or none runs there.
std::optional<std::vector<std::byte>> only_for(std::span<const std::byte> fatbin,
                                               Capability device);

}  // namespace carrel::image
