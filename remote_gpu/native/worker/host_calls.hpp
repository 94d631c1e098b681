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

    // The argument of run().
    struct Ticket {
        HostCalls* calls = nullptr;
        uint64_t number = 0;
        bool repeats = false;  // of a graph, which keeps it; otherwise run() deletes it
    };
    // A host function for the driver: it ends when the client has run the ticket.
    static void CUDAAPI run(void* ticket);

    CUresult enqueue(CUstream stream, uint64_t ticket);
    // The client has run it.
    void done(uint64_t ticket);
    // Lets every stream go on; nothing will be answered any more.
    void close();
    void reopen();
    // Whether a stream may be waiting for the client.
    bool outstanding() const { return outstanding_.load(std::memory_order_relaxed) != 0; }

  private:
    const DriverTable& driver_;
    Outbox& outbox_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::unordered_multiset<uint64_t> done_;
    std::atomic<uint64_t> outstanding_{0};
    bool closed_ = false;
};

}  // namespace carrel::worker
