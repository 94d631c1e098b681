// Copies between the socket and device memory, through page-locked staging buffers: while one is
// copied to the device, the next is received; while one is sent, the next is copied from it.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "wire/channel.hpp"
#include "worker/host_calls.hpp"
#include "worker/outbox.hpp"

namespace carrel::worker {

// Page-locked host memory, or ordinary memory where the driver has no more of it.
class HostBuffer {
  public:
    HostBuffer() = default;
    // Throws std::bad_alloc.
    HostBuffer(const DriverTable& driver, size_t size);
    HostBuffer(HostBuffer&& other) noexcept { *this = std::move(other); }
    HostBuffer& operator=(HostBuffer&& other) noexcept;
    ~HostBuffer();

    std::byte* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    const DriverTable* driver_ = nullptr;
    std::byte* data_ = nullptr;
    size_t size_ = 0;
    bool pinned_ = false;
};

class Transfer {
  public:
    static constexpr size_t kChunk = size_t{4} << 20;
    static constexpr size_t kChunks = 4;
    static constexpr size_t kMaxChunks = 256;  // while a stream waits for the client, which may
                                               // only answer after this copy
    static constexpr size_t kMaxHeld = size_t{256}
                                       << 20;  // bytes of hold(), with the same exception

    Transfer(const DriverTable& driver, const HostCalls& host_calls)
        : driver_(driver), host_calls_(host_calls) {}
    ~Transfer();

    // Data that came in the payload.
    CUresult copy_in(CUdeviceptr to, std::span<const std::byte> data, CUstream stream, bool quiet);
    // Data that follows in the stream; all of it is consumed whatever happens. False when the
    // connection broke.
    bool copy_in_bulk(wire::Channel& from, CUdeviceptr to, uint64_t bytes, CUstream stream,
                      CUresult* result);
    // Keeps a buffer until the work that is queued on the stream now is done. Main loop only.
    void hold(HostBuffer buffer, CUstream stream);

    // Copies and sends the reply. Any thread; blocks until the stream's work is done.
    void copy_out(Outbox& outbox, uint32_t reply, CUdeviceptr from, uint64_t bytes,
                  CUstream stream);

    // Buffers belong to a context; before it goes, they do.
    void clear();

  private:
    struct Chunk {
        HostBuffer buffer;
        size_t used = 0;
        std::vector<std::pair<CUstream, CUevent>> users;
    };

    struct Held {
        HostBuffer buffer;
        CUevent done;
    };

    Chunk make_chunk() { return {HostBuffer(driver_, kChunk), 0, {}}; }
    void forget_users(Chunk& chunk);
    void release_oldest_held();
    // A place for `size` bytes (at most kChunk) that no copy reads any more.
    Chunk& stage(size_t size);
    CUresult use(Chunk& chunk, CUstream stream);

    std::unique_ptr<Chunk> borrow();
    void give_back(std::unique_ptr<Chunk> chunk);

    const DriverTable& driver_;
    const HostCalls& host_calls_;
    std::deque<Chunk> ring_;  // the front is filled next
    std::deque<Held> held_;
    size_t held_bytes_ = 0;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Chunk>> spare_;  // for copies out
};

}  // namespace carrel::worker
