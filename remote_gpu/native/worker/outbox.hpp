// What goes back to the client: frames, whole, from any thread.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string_view>

#include "cuda_abi.hpp"
#include "cuda_calls.hpp"
#include "wire/channel.hpp"
#include "wire/protocol.hpp"
#include "wire/writer.hpp"
#include "worker/console.hpp"

namespace carrel::worker {

class Outbox {
  public:
    explicit Outbox(wire::Channel& channel) : channel_(channel) {}

    void send(wire::Frame kind, uint32_t reply, std::span<const std::byte> body);
    // A pipelined call failed. Told once until the next reply: the client keeps only the first, and
    // a flood that nobody reads would block both sides.
    void fail(Call call, CUresult error);
    // The same for a function of a library, with its status.
    void fail(uint16_t library, int status, const char* function);
    void host_call(uint64_t ticket, CUresult result);
    // What a graph has copied to the host.
    void host_data(uint64_t ticket, std::span<const std::byte> data);
    void end(std::string_view reason);
    // From now on, what the driver printed goes out ahead of each reply and error.
    void forward(Console& console) { console_ = &console; }

    // Sends a ping unless something else is being sent. Never blocks.
    void ping();

    uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  private:
    void forward_output();

    std::mutex mutex_;
    wire::Channel& channel_;
    Console* console_ = nullptr;
    std::atomic<uint64_t> bytes_{0};
    std::atomic<bool> told_{false};
};

// The answer to one call. A pipelined call has number 0: then only its failure is reported.
class Reply {
  public:
    Reply(Outbox& outbox, uint32_t number, uint16_t call)
        : outbox_(&outbox), number_(number), call_(call) {}

    bool wanted() const { return number_ != 0; }
    uint32_t number() const { return number_; }
    Outbox& outbox() { return *outbox_; }

    void result(CUresult result) {
        body_.clear();
        body_.put(static_cast<int32_t>(result));
        result_ = result;
    }
    wire::Writer& writer() { return body_; }
    void failed(Call, CUresult error) { result(error); }
    // A pipelined call of a library failed: told at once.
    void library_failed(uint16_t library, int status, const char* function) {
        outbox_->fail(library, status, function);
    }

    // Sends, unless defer() was called: then whoever took the reply over does.
    void finish() {
        if (deferred_) return;
        if (number_) {
            if (body_.empty()) result(CUDA_SUCCESS);
            outbox_->send(wire::Frame::reply, number_, {body_.data(), body_.size()});
        } else if (result_ != CUDA_SUCCESS) {
            outbox_->fail(static_cast<Call>(call_), result_);
        }
    }
    // A copy that answers later, from another thread.
    Reply defer() {
        deferred_ = true;
        return Reply(*outbox_, number_, call_);
    }
    // The answer has been sent in another way.
    void sent() { deferred_ = true; }

  private:
    Outbox* outbox_;
    uint32_t number_;
    uint16_t call_;
    CUresult result_ = CUDA_SUCCESS;
    bool deferred_ = false;
    wire::Writer body_;
};

}  // namespace carrel::worker
