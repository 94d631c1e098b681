// The device's side of memory that the program touches too: managed memory, and host memory mapped
// into the device. Finds out what the device has changed since both sides last agreed, so that only
// that travels.
//
// The driver does not say what a kernel has written, so the memory is read and each page's digest
// compared: bounded by the bus of the GPU host, not by the network. A digest is that of what the
// client believes the page to be. All of it happens in a stream of its own, which waits for nobody:
// a host function that blocks another stream must not block what it reads.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "wire/channel.hpp"
#include "wire/protocol.hpp"
#include "wire/reader.hpp"
#include "worker/digest.hpp"
#include "worker/outbox.hpp"
#include "worker/transfer.hpp"

namespace carrel::worker {

class Mirrors {
  public:
    explicit Mirrors(const DriverTable& driver) : driver_(driver) {}
    ~Mirrors() { clear(); }

    // `most`: bytes that all mirrors may have.
    CUresult open(wire::Reader& in, uint64_t most);
    void close(uint64_t address);
    // What the host has changed. Complete for every stream when it returns.
    CUresult write(wire::Reader& in, wire::Channel& channel, uint64_t bulk);
    // Sends what the device has changed, and the reply. Any thread.
    void collect(Reply& reply);

    // The context goes, and with it the stream in it.
    void forget(CUcontext context);
    void clear();

  private:
    struct Mirror {
        uint64_t bytes;
        std::vector<std::optional<Digest>> pages;  // none: what the client has is not known
    };

    CUresult stream(CUstream* out);
    void stage();
    void note_written(const wire::MirrorRun& run, const std::byte* data);
    CUresult scan(Outbox& outbox, uint32_t reply, std::vector<wire::MirrorRun>& changed);
    CUresult scan_batch(const std::vector<wire::MirrorRun>& batch, CUstream stream, Outbox& outbox,
                        uint32_t reply, std::vector<wire::MirrorRun>& changed);

    const DriverTable& driver_;
    std::mutex mutex_;
    std::map<uint64_t, Mirror> mirrors_;  // by device address
    uint64_t total_ = 0;
    std::unordered_map<CUcontext, CUstream> streams_;
    std::optional<HostBuffer> staging_;
};

}  // namespace carrel::worker
