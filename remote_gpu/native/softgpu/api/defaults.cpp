// Every function of the API that is not written by hand, and the list of all. The definitions are
// weak: a file that defines a function takes the place of the default.
#include "cuda_functions.hpp"
#include "softgpu/exports.hpp"
#include "softgpu/runtime.hpp"
// after the above
#include "softgpu_defaults.inc"

namespace carrel::softgpu {

std::span<const Export> exports() {
    static const Export kExports[] = {
#include "client_exports.inc"
    };
    return kExports;
}

}  // namespace carrel::softgpu
