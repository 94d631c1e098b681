// Host functions: the stream stops inside one until the client says that it has run there.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <unordered_set>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "worker/outbox.hpp"

namespace carrel::worker {

class HostCalls {
  public:
    HostCalls(const DriverTable& driver, Outbox& outbox) : driver_(driver), outbox_(outbox) {}

    CUresult enqueue(CUstream stream, uint64_t ticket);
    // The client has run it.
    void done(uint64_t ticket);
    // Lets every stream go on; nothing will be answered any more.
    void close();
    void reopen();
    // Whether a stream may be waiting for the client.
    bool outstanding() const { return outstanding_.load(std::memory_order_relaxed) != 0; }

  private:
    struct Ticket {
        HostCalls* calls;
        uint64_t number;
    };
    static void CUDAAPI run(void* ticket);

    const DriverTable& driver_;
    Outbox& outbox_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::unordered_set<uint64_t> done_;
    std::atomic<uint64_t> outstanding_{0};
    bool closed_ = false;
};

}  // namespace carrel::worker
