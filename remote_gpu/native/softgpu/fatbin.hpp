// Finds PTX inside a fatbin. Knows the container, not the code in it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace carrel::softgpu {

/// The fatbin that `image` is or wraps (the struct that nvcc emits around it); nullopt: it is
/// something else.
[[nodiscard]] std::optional<const unsigned char*> fatbin_of(const void* image);

/// The PTX entry of the highest architecture. nullopt: `why` says what was found instead.
[[nodiscard]] std::optional<std::string> ptx_of_fatbin(const unsigned char* fatbin,
                                                       std::string& why);

}  // namespace carrel::softgpu
