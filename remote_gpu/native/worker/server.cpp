#include "worker/server.hpp"

#include <chrono>
#include <cstring>

#include "wire/connection.hpp"
#include "wire/log.hpp"

namespace carrel::worker {

Server::Server(Device& device, const Options& options, wire::Channel client)
    : device_(device),
      driver_(device.driver),
      options_(options),
      channel_(std::move(client)),
      outbox_(channel_),
      ledger_(options.ledger_fd, options.ledger_slot, options.vram_bytes),
      memory_(driver_, device.device, ledger_),
      host_calls_(driver_, outbox_),
      transfer_(driver_, host_calls_),
      mirrors_(driver_),
      objects_(driver_),
      graphs_(driver_, objects_, host_calls_, outbox_),
      activity_(
          driver_, [this](CUresult error) { outbox_.fail(Call::cuLaunchKernelEx, error); },
          [this] { memory_.reap(); }),
      libraries_(objects_, options.library_path,
                 [this](Reply& out, std::function<void(Reply&)> function) {
                     later(out, std::move(function));
                 }),
      images_(options.image_store) {
    contexts_[wire::kPrimaryContext] = device.primary;
    objects_.bind<CUcontext>(wire::kPrimaryContext, device.primary);
    objects_.on_stream = [this](CUstream stream) { streams_.push_back(stream); };
    objects_.per_thread_stream = [this] {
        CUstream& stream = per_thread_[context_name_];
        if (!stream) invoke(driver_.cuStreamCreate, &stream, 0u);
        return stream;
    };
    enter(wire::kPrimaryContext);
}

Server::~Server() {
    host_calls_.close();
}

std::string Server::run() {
    wire::Writer snapshot;
    device_.describe(options_).encode(snapshot);
    outbox_.send(wire::Frame::snapshot, 0, {snapshot.data(), snapshot.size()});
    std::string reason;
    try {
        while (!ended_.load(std::memory_order_relaxed)) {
            size_t need = 0;
            while (const auto call = wire::decode_call(channel_.buffered(), &need)) {
                execute(*call);
            }
            const size_t had = channel_.buffered().size();
            if (!channel_.fill(need)) break;
            counters_.bytes_in.fetch_add(channel_.buffered().size() - had,
                                         std::memory_order_relaxed);
        }
    } catch (const wire::Malformed& error) {
        reason =
            std::string("the program sent something that is not the protocol: ") + error.what();
        outbox_.end(reason);
    } catch (const std::bad_alloc&) {
        reason = "the worker ran out of host memory";
        outbox_.end(reason);
    }
    host_calls_.close();
    {
        const std::lock_guard lock(reason_mutex_);
        if (reason.empty()) reason = reason_;
    }
    if (!reason.empty()) {
        // Let the client read why before the connection resets.
        channel_.transport().end_sending();
        channel_.transport().linger(std::chrono::seconds(2));
    }
    return reason;
}

void Server::end(const std::string& reason) {
    {
        const std::lock_guard lock(reason_mutex_);
        if (reason_.empty()) reason_ = reason;
    }
    channel_.transport().hurry();  // nobody waits any longer for a program that is away
    outbox_.end(reason);
    ended_.store(true);
    channel_.transport().end_receiving();  // wakes the main loop
}

void Server::resume(int client_fd, const std::optional<wire::Hash>& tls_key) {
    try {
        if (channel_.transport().continue_on(wire::serve_again(client_fd, tls_key))) return;
        CARREL_WARNING("a connection for a session that cannot be continued");
    } catch (const std::runtime_error& error) {
        CARREL_WARNING("a connection that was to continue a session: %s", error.what());
    }
}

void Server::execute(const wire::CallView& call) {
    counters_.calls.fetch_add(1, std::memory_order_relaxed);
    activity_.touch_call();
    Reply reply(outbox_, call.header.reply, call.header.call);
    wire::Reader in(call.payload);
    // The payload stays where it is until the call is done: bulk data follows it in the buffer.
    if (call.bulk) {
        std::vector<std::byte> payload(call.payload.begin(), call.payload.end());
        channel_.consume(call.consumed);
        in = wire::Reader(payload);
        enter(call.header.context);
        dispatch(call.header.call, in, call.bulk, reply);
        counters_.bytes_in.fetch_add(call.bulk, std::memory_order_relaxed);
    } else {
        enter(call.header.context);
        dispatch(call.header.call, in, 0, reply);
        channel_.consume(call.consumed);
    }
    reply.finish();
    returned_.fetch_add(1, std::memory_order_relaxed);
}

bool Server::client_there() {
    const uint64_t returned = returned_.load(std::memory_order_relaxed);
    const bool stuck = returned == looked_at_ && returned != counters_.calls.load();
    looked_at_ = returned;
    if (!stuck) return true;
    outbox_.ping();
    return !channel_.transport().peer_gone();
}

CUcontext Server::context(uint32_t name) {
    const auto found = contexts_.find(name);
    if (found == contexts_.end()) throw wire::Malformed("a call in a context that does not exist");
    return found->second;
}

void Server::enter(uint32_t name) {
    if (name == context_name_) return;
    context_ = context(name);
    context_name_ = name;
    invoke(driver_.cuCtxSetCurrent, context_);
    objects_.enter(name);
}

void Server::later(Reply& out, std::function<void(Reply&)> function) {
    waits_.defer([this, reply = std::make_shared<Reply>(out.defer()),
                  function = std::move(function), context = context_] {
        invoke(driver_.cuCtxSetCurrent, context);
        // The client applies the rules of capture to the program's threads; this is none of them.
        thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        if (mode == CU_STREAM_CAPTURE_MODE_RELAXED)
            invoke(driver_.cuThreadExchangeStreamCaptureMode, &mode);
        function(*reply);
        reply->finish();
    });
}

void Server::answer_when(CUresult state, Reply& out, std::function<CUresult()> wait) {
    if (state != CUDA_ERROR_NOT_READY) {
        if (memory_.has_garbage() && activity_.idle()) memory_.reap();
        out.result(wait());
        return;
    }
    later(out, [wait = std::move(wait)](Reply& reply) { reply.result(wait()); });
}

}  // namespace carrel::worker
