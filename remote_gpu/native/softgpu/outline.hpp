// PTX that declares what a cubin holds and does nothing: code for the null device.
#pragma once

#include <string>

#include "image/cubin.hpp"

namespace carrel::softgpu {

/// Kernels with their parameters where the cubin has them, and variables with their contents, for
/// a device of `arch` (10 * major + minor). What PTX has no name for is left out.
[[nodiscard]] std::string outline(const image::Cubin& cubin, unsigned arch);

}  // namespace carrel::softgpu
