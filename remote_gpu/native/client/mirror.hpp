// Memory that both sides touch: managed memory, and host memory mapped into the device.
//
// The host's bytes live here, the device's in the worker, and a shadow remembers what both last
// agreed on. Before device work is issued, what the host changed since is sent (publish); after the
// program has waited for the device, what the device changed is fetched (collect). Merging is by
// byte, so that both may write different places between two synchronisations: what CUDA promises
// without concurrent managed access. The price is that every wait fetches all mirrored memory after
// a launch; kMirrorLimit bounds it.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "cuda_abi.hpp"
#include "cuda_calls.hpp"

namespace carrel::client {

inline constexpr size_t kMirrorLimit = size_t{256} << 20;  // bytes of all mirrors of a process

enum class MirrorKind { managed, mapped, registered };

struct MirrorRange {
    uint64_t host;  // managed and mapped memory have the same address on both sides
    CUdeviceptr device;
    size_t size;
    MirrorKind kind;
};

// New memory, zeroed on both sides, at one address for both.
CUresult create_mirror(size_t bytes, MirrorKind kind, uint64_t* base);
// Maps memory that the program has.
CUresult register_mirror(void* host, size_t bytes);
// CUDA_ERROR_INVALID_VALUE when no mirror of that kind starts there.
CUresult drop_mirror(uint64_t host, MirrorKind kind);
void forget_mirrors();  // the context is gone

// The mirror that an address of either side lies in.
std::optional<MirrorRange> find_mirror(uint64_t address);

namespace detail {
inline std::atomic<bool> mirrors{false};
}
inline bool mirrors_exist() {
    return detail::mirrors.load(std::memory_order_relaxed);
}

// Before device work that may read or write mirrors; and after waiting for the device.
CUresult publish_mirrors();
CUresult collect_mirrors();

// Whether a generated call reads or writes device memory.
constexpr bool touches_memory(Call call) {
    switch (call) {
        case Call::cuMemcpyDtoD_v2:
        case Call::cuMemcpyDtoDAsync_v2:
        case Call::cuMemsetD8_v2:
        case Call::cuMemsetD16_v2:
        case Call::cuMemsetD32_v2:
        case Call::cuMemsetD2D8_v2:
        case Call::cuMemsetD2D16_v2:
        case Call::cuMemsetD2D32_v2:
        case Call::cuMemsetD8Async:
        case Call::cuMemsetD16Async:
        case Call::cuMemsetD32Async:
        case Call::cuMemsetD2D8Async:
        case Call::cuMemsetD2D16Async:
        case Call::cuMemsetD2D32Async:
        case Call::cuStreamWriteValue32_v2:
        case Call::cuStreamWriteValue64_v2:
        case Call::cuGraphLaunch:
            return true;
        default:
            return false;
    }
}

// Whether a generated call is complete for the host when it returns.
constexpr bool completes_for_host(Call call) {
    switch (call) {
        case Call::cuMemcpyDtoD_v2:
        case Call::cuMemsetD8_v2:
        case Call::cuMemsetD16_v2:
        case Call::cuMemsetD32_v2:
        case Call::cuMemsetD2D8_v2:
        case Call::cuMemsetD2D16_v2:
        case Call::cuMemsetD2D32_v2:
            return true;
        default:
            return false;
    }
}

// Whether the success of a call means that device work is complete.
constexpr bool completes_work(Call call) {
    switch (call) {
        case Call::cuCtxSynchronize:
        case Call::cuCtxSynchronize_v2:
        case Call::cuStreamSynchronize:
        case Call::cuStreamQuery:
        case Call::cuEventSynchronize:
        case Call::cuEventQuery:
            return true;
        default:
            return false;
    }
}

}  // namespace carrel::client
