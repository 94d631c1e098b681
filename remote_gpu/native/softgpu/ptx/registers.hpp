// Packs a function's registers: PTX names thousands, of which few are alive at once. Two registers
// of one width share a place in the frame if no thread needs both at the same time; small frames
// stay in the cache.
#pragma once

#include <cstdint>
#include <vector>

#include "softgpu/ptx/syntax.hpp"

namespace carrel::softgpu::ptx {

/// One register read or written by an instruction.
struct Touch {
    std::uint32_t reg = 0;
    bool write = false;
};

struct RegisterPlan {
    std::vector<std::uint32_t> places;  // by register: number among those of its width
    unsigned pressure = 0;              // 32-bit registers that a thread of a real GPU would need
};

/// `touches` has one list per instruction of the function.
[[nodiscard]] RegisterPlan plan_registers(const syntax::Function& function,
                                          const std::vector<std::vector<Touch>>& touches);

}  // namespace carrel::softgpu::ptx
