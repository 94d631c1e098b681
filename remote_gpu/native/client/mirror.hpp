// Memory that both sides touch: managed memory, and host memory mapped into the device.
//
// The host's bytes live here, the device's in the worker, and a shadow remembers what both last
// agreed on. Before device work is issued, what the host has written since is sent (publish): the
// kernel says which pages that can be (written_pages.hpp), the shadow which bytes of them. After
// the program has waited for the device, what the device has changed is fetched (collect): the
// worker finds the pages (worker/mirrors.hpp). Merging is by byte, so that both may write different
// places between two synchronisations: what CUDA promises without concurrent managed access.
//
// Fetching waits for no first touch: memory that faults when it is touched makes system calls on it
// fail (EFAULT), unless the process has privileges that a student's has not.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "cuda_abi.hpp"
#include "cuda_calls.hpp"

namespace carrel::client {

// Bytes that all mirrors of a process may have; CARREL_MANAGED_LIMIT (as in 4GiB) changes it. Each
// byte that is used takes two of this host's memory, and one of the slice's.
inline constexpr size_t kMirrorLimit = size_t{1} << 30;

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
// A variable of a module that is managed memory: its side in this process, at the same address.
CUresult mirror_variable(CUdeviceptr base, size_t size);
void drop_variable(CUdeviceptr base);
void forget_mirrors();  // the context is gone

// The mirror that an address of either side lies in.
std::optional<MirrorRange> find_mirror(uint64_t address);

namespace detail {
inline std::atomic<bool> mirrors{false};
}
inline bool mirrors_exist() {
    return detail::mirrors.load(std::memory_order_relaxed);
}

// Sends what the host has changed.
CUresult publish_mirrors();

// Around the posting of device work that may read or write mirrors.
class MirrorWork {
  public:
    MirrorWork() : counts_(mirrors_exist()) {
        if (counts_) result_ = begin();
    }
    MirrorWork(const MirrorWork&) = delete;
    MirrorWork& operator=(const MirrorWork&) = delete;
    ~MirrorWork() {
        if (counts_) end();
    }
    CUresult result() const { return result_; }

  private:
    static CUresult begin();
    static void end();
    const bool counts_;
    CUresult result_ = CUDA_SUCCESS;
};

// Around waiting for the device: made before the wait is posted, collects after it.
class MirrorWait {
  public:
    MirrorWait();
    // `all_work`: the wait was for everything. What is not known to be complete may go on writing:
    // then the next wait collects again.
    CUresult collect(bool all_work) const;

  private:
    uint64_t posted_ = 0;  // work that was posted before; 0 if other threads were posting
};

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

// Whether it means that all of it is.
constexpr bool completes_all(Call call) {
    return call == Call::cuCtxSynchronize;
}

}  // namespace carrel::client
