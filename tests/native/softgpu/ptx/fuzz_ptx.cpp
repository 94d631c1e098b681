// libFuzzer: any text is parsed, linked and run, or refused; no PTX reads or writes the process'
// own memory, and none runs beyond its budget.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "softgpu/ptx/ptx.hpp"

using namespace carrel::softgpu;

namespace {

constexpr std::size_t kMostGlobals = std::size_t{1} << 20;

// Device memory: two granules, all of which kernels may touch.
struct Memory {
    PageTable pages;
    std::uint64_t base = 0;

    Memory() {
        constexpr std::size_t kSize = 4 * PageTable::kGranuleBytes;
        void* space =
            ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (space == MAP_FAILED) std::abort();
        const auto at = reinterpret_cast<std::uint64_t>(space);
        base = (at + PageTable::kGranuleBytes - 1) / PageTable::kGranuleBytes *
               PageTable::kGranuleBytes;
        pages.map(base, 2 * PageTable::kGranuleBytes);
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Memory memory;
    const std::string text(reinterpret_cast<const char*>(data), size);
    auto module = ptx::parse(text);
    if (!module) {
        if (module.log.empty()) std::abort();  // refused without a word
        return 0;
    }
    auto program = ptx::link(std::span(&*module, 1));
    if (!program) {
        if (program.log.empty()) std::abort();
        return 0;
    }
    std::uint64_t next = memory.base;
    for (std::size_t i = 0; i < program->variables().size(); ++i) {
        const ptx::Variable& variable = program->variables()[i];
        if (variable.size > kMostGlobals || variable.align > 4096) return 0;
        next = (next + variable.align - 1) / variable.align * variable.align;
        if (next + variable.size > memory.base + PageTable::kGranuleBytes) return 0;
        program->bind(i, next);
        next += variable.size;
    }
    for (std::size_t i = 0; i < program->variables().size(); ++i) {
        if (program->image(i).size() > program->variables()[i].size) std::abort();
    }
    ptx::Environment environment{memory.pages};
    environment.instruction_budget = 20'000;
    environment.cooperative_workspace = memory.base + PageTable::kGranuleBytes;
    int kernels = 0;
    for (const ptx::Kernel& kernel : program->kernels()) {
        if (++kernels > 2 || kernel.param_bytes > 32764) break;
        // Every parameter points at device memory, or is a large number.
        std::vector<std::byte> params(kernel.param_bytes);
        for (std::size_t i = 0; i + 8 <= params.size(); i += 8) {
            std::memcpy(&params[i], &memory.base, 8);
        }
        const ptx::LaunchConfig launch{{2, 1, 1}, {40, 1, 1}, 1024, false};
        program->run(kernel, launch, params, environment);
    }
    return 0;
}
