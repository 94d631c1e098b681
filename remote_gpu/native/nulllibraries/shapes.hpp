// How much a library's call computes and moves, as far as its arguments say it.
#pragma once

#include <cstdint>

#include "softgpu/host_work.h"

namespace carrel::null {

// Zeros: its shape is not known here, and it takes what any kernel takes at least.
CarrelModelledWork work_of(const char* function, const uint64_t* arguments, uint16_t count);

}  // namespace carrel::null
