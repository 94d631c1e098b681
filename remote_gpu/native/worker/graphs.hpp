// Graphs on this side: which streams capture, what the client calls the nodes, and what a replay
// needs of the client: host functions, and copies from and to its memory through buffers that live
// as long as the graphs do. Main loop only, unless said otherwise.
//
// The driver's rules about what other threads may do while a stream captures are about the
// program's threads, so the client applies them. Here every capture is a relaxed one.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "cuda_abi.hpp"
#include "driver_table.hpp"
#include "wire/channel.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"
#include "worker/host_calls.hpp"
#include "worker/objects.hpp"
#include "worker/outbox.hpp"
#include "worker/transfer.hpp"

namespace carrel::worker {

class Graphs {
  public:
    static constexpr uint64_t kMaxCopy = uint64_t{256} << 20;   // bytes of one copy in a graph
    static constexpr uint64_t kMaxBuffers = uint64_t{1} << 30;  // bytes of all of them

    Graphs(const DriverTable& driver, Objects& objects, HostCalls& host_calls, Outbox& outbox)
        : driver_(driver), objects_(objects), host_calls_(host_calls), outbox_(outbox) {}
    ~Graphs();

    // --- capture --------------------------------------------------------------------------------
    // Whether any stream captures.
    bool capturing() const { return !origins_.empty(); }
    // Whether this one does. Never asks about a default stream: that would be using it.
    bool captures(CUstream stream) const;
    void began(CUstream stream) { origins_.push_back(stream); }
    // Forgets the streams whose capture is over.
    void sweep();
    void forget(CUstream stream);
    // The graph that a stream captures into; null: it does not capture.
    CUgraph graph_of(CUstream stream, uint64_t* id = nullptr) const;

    // --- nodes ----------------------------------------------------------------------------------
    void bind(uint64_t name, CUgraphNode node);
    uint64_t name_of(CUgraphNode node) const;  // 0: the client has none for it
    // u64 token, u32 count, u64 names; the client names those that are 0 with name().
    void put(wire::Writer& out, std::span<const CUgraphNode> nodes);
    void name(wire::Reader& in);
    // Before the graph is destroyed.
    void forget(CUgraph graph);
    void forget(CUgraphNode node);

    // --- what a replay needs of the client
    // -------------------------------------------------------- The argument of a host node that
    // runs `ticket` in the client; the graph keeps it.
    CUresult host_node(CUgraph graph, uint64_t ticket, CUDA_HOST_NODE_PARAMS* out);
    CUresult capture_host_call(CUstream stream, uint64_t ticket);
    // A copy whose host side is the client's memory at each replay.
    CUresult capture_copy(CUstream stream, bool to_host, CUdeviceptr device, uint64_t bytes,
                          uint64_t ticket);
    // The bytes for such a copy to the device. False when the connection broke; throws
    // wire::Malformed.
    bool receive(wire::Channel& from, uint64_t ticket, uint64_t bytes);
    // The graph keeps nothing but a ticket: the client hears when no graph has it any more, as of
    // every other ticket.
    CUresult keep_ticket(CUgraph graph, uint64_t ticket);
    CUresult release_ticket(CUgraph graph, uint64_t ticket);
    // Frees what destroyed graphs have left.
    void collect();

  private:
    struct Kept {
        HostCalls::Ticket ticket;
        Graphs* graphs = nullptr;
        CUuserObject object = nullptr;
        HostBuffer buffer;
        bool to_host = false;
    };
    static void CUDAAPI run_send(void* kept);
    static void CUDAAPI dropped(void* kept);
    // The graph, and every copy of it, keeps the object.
    CUresult keep(CUgraph graph, std::unique_ptr<Kept> kept, Kept** out);

    const DriverTable& driver_;
    Objects& objects_;
    HostCalls& host_calls_;
    Outbox& outbox_;
    std::vector<CUstream> origins_;
    std::unordered_map<CUgraphNode, uint64_t> names_;
    std::unordered_map<uint64_t, std::vector<CUgraphNode>> unnamed_;  // by token
    uint64_t last_token_ = 0;
    std::unordered_map<uint64_t, Kept*> by_ticket_;
    uint64_t buffer_bytes_ = 0;
    std::mutex mutex_;  // guards dropped_: the driver tells from a thread of its own
    std::vector<Kept*> dropped_;
};

}  // namespace carrel::worker
