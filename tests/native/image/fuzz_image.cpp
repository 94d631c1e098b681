// libFuzzer: any bytes as an LZ4 block, a fatbin and a cubin are read or refused, within them.
#include <cstdint>
#include <cstdlib>

#include "image/cubin.hpp"
#include "image/fatbin.hpp"
#include "image/lz4.hpp"

using namespace carrel::image;

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

bool within(std::span<const std::byte> part, std::span<const std::byte> all) {
    return part.empty() ||
           (part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size());
}

void read_fatbin(std::span<const std::byte> data) {
    constexpr size_t kMost = size_t{1} << 20;
    const auto entries = fatbin_entries(data);
    if (!entries) return;
    for (const FatbinEntry& entry : *entries) {
        require(within(entry.whole, data) && within(entry.code, entry.whole));
        if (const auto code = unpack(entry, kMost)) require(code->size() <= kMost);
    }
    for (const Capability device : {Capability{8, 0}, Capability{10, 3}}) {
        const FatbinEntry* const chosen = choose(*entries, device, Accept::ptx_and_cubins);
        const auto rest = only_for(data, device);
        if (!rest) continue;
        require(chosen && rest->size() < data.size());
        // What a driver takes is the same.
        const auto fewer = fatbin_entries(*rest);
        require(fewer.has_value());
        const FatbinEntry* const still = choose(*fewer, device, Accept::ptx_and_cubins);
        require(still && still->kind == chosen->kind && still->arch == chosen->arch &&
                still->code.size() == chosen->code.size());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    read_fatbin(bytes);
    if (const auto cubin = read_cubin(bytes)) {
        for (const CubinVariable& variable : cubin->variables) {
            require(within(variable.initial, bytes));
        }
    }
    if (size >= 2) {  // how much the block is said to hold, then the block
        const size_t claim = data[0] | size_t{data[1]} << 8;
        if (const auto out = lz4_decompress(bytes.subspan(2), claim)) require(out->size() == claim);
    }
    return 0;
}
