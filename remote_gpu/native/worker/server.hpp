// One session: reads calls, runs them on the driver in order, answers. The main loop never waits
// for the GPU: what must, is finished by a thread of Waits.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "cuda_calls.hpp"
#include "wire/channel.hpp"
#include "wire/decoder.hpp"
#include "wire/reader.hpp"
#include "wire/sha256.hpp"
#include "worker/activity.hpp"
#include "worker/device.hpp"
#include "worker/graphs.hpp"
#include "worker/host_calls.hpp"
#include "worker/image_store.hpp"
#include "worker/jit.hpp"
#include "worker/ledger.hpp"
#include "worker/libraries/libraries.hpp"
#include "worker/memory.hpp"
#include "worker/mirrors.hpp"
#include "worker/objects.hpp"
#include "worker/options.hpp"
#include "worker/outbox.hpp"
#include "worker/transfer.hpp"
#include "worker/waits.hpp"

namespace carrel::worker {

struct Counters {
    std::atomic<uint64_t> launches{0};
    std::atomic<uint64_t> calls{0};
    std::atomic<uint64_t> bytes_in{0};
};

class Server {
  public:
    Server(Device& device, const Options& options, wire::Channel client);
    ~Server();

    // Serves until the client leaves (empty), or until there is a reason to end the session.
    std::string run();
    // Ends the session from another thread: the client is told why.
    void end(const std::string& reason);
    // The program is back on another connection; takes the descriptor over. Any thread.
    void resume(int client_fd, const std::optional<wire::Hash>& tls_key);

    // Whether the client is there, as far as can be known without blocking; for another thread, now
    // and then. While the main loop runs one long call nobody reads the socket: then it is asked.
    bool client_there();

    // What the driver prints goes to the program's terminal.
    void forward(Console& console) { outbox_.forward(console); }

    const Counters& counters() const { return counters_; }
    Activity& activity() { return activity_; }
    // What the device reports as used beyond this session's own allocations at its start.
    uint64_t context_bytes() const { return device_.context_bytes; }
    uint64_t vram_bytes() const { return ledger_.own(); }
    uint64_t bytes_out() const { return outbox_.bytes(); }

    // Runs one call. `payload` as of the protocol; bulk data is read from the channel. For the
    // main loop and the fuzzer. Throws wire::Malformed.
    void execute(const wire::CallView& call);

  private:
    void dispatch(uint16_t call, wire::Reader& in, uint64_t bulk, Reply& out);
    void note_work();
    void forget_stream(wire::Reader in);
    void dispatch_manual(Call call, wire::Reader& in, Reply& out);
    void dispatch_internal(wire::Internal call, wire::Reader& in, uint64_t bulk, Reply& out);

    void enter(uint32_t context);
    CUcontext context(uint32_t name);
    // Answers with wait() at once if the work is done, otherwise from another thread.
    void answer_when(CUresult state, Reply& out, std::function<CUresult()> wait);
    // `function(Reply&)` in a waiting thread, in the current context.
    void later(Reply& out, std::function<void(Reply&)> function);

    void copy_in(wire::Reader& in, uint64_t bulk, Reply& out);
    void copy_out(wire::Reader& in, Reply& out);
    void copy_shape(wire::Reader& in, uint64_t bulk, Reply& out);
    void grow(wire::Reader& in, Reply& out);
    void reset(Reply& out);
    void create_context(wire::Reader& in, Reply& out);
    void destroy_context(wire::Reader& in, Reply& out);

    void load_module(wire::Reader& in, Reply& out);
    void load_library(wire::Reader& in, Reply& out);
    void describe_function(CUfunction function, Reply& out);
    void list_functions(bool library, wire::Reader& in, Reply& out);
    void link_create(wire::Reader& in, Reply& out);
    void link_add(wire::Reader& in, Reply& out);
    void link_complete(wire::Reader& in, Reply& out);
    void link_destroy(wire::Reader& in);
    void launch(wire::Reader& in, Reply& out);

    void dispatch_graph(Call call, wire::Reader& in, Reply& out);
    void begin_capture(Call call, wire::Reader& in, Reply& out);
    void end_capture(wire::Reader& in, Reply& out);
    void update_capture(wire::Reader& in, Reply& out);
    void add_node(wire::Reader& in, Reply& out);
    void set_node(wire::Reader& in, Reply& out);
    void set_exec_node(wire::Reader& in, Reply& out);
    void list_nodes(Call call, wire::Reader& in, Reply& out);
    void list_edges(wire::Reader& in, Reply& out);
    void change_edges(Call call, wire::Reader& in, Reply& out);
    void describe_kernel_node(wire::Reader& in, Reply& out);
    void instantiate(wire::Reader& in, Reply& out);
    std::vector<CUgraphNode> node_list(wire::Reader& in);

    Device& device_;
    const DriverTable& driver_;
    const Options& options_;
    wire::Channel channel_;
    Outbox outbox_;
    Ledger ledger_;
    Memory memory_;
    HostCalls host_calls_;
    Transfer transfer_;
    Mirrors mirrors_;
    Objects objects_;
    Graphs graphs_;
    Activity activity_;
    Libraries libraries_;
    ImageStore images_;
    Counters counters_;
    std::unordered_map<uint32_t, CUcontext> contexts_;
    std::unordered_map<uint64_t, CUstream> per_thread_;  // by context
    std::unordered_map<uint64_t, std::unique_ptr<JitJob>> links_;
    uint32_t context_name_ = 0;
    CUcontext context_ = nullptr;
    std::vector<CUstream> streams_;  // that the current call names
    std::atomic<bool> ended_{false};
    std::atomic<uint64_t> returned_{0};  // calls from which the main loop has come back
    uint64_t looked_at_ = 0;             // returned_ when client_there() looked last
    std::mutex reason_mutex_;
    std::string reason_;
    Waits waits_;  // last: its threads use all of the above
};

}  // namespace carrel::worker
