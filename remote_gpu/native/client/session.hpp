// The session: one connection of this process to its worker, one ordered pipeline. It knows calls,
// replies and errors, not what the calls mean.
//
// Locks, in the order in which they may be taken: write_, send_, wait_.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "client/handles.hpp"
#include "cuda_abi.hpp"
#include "cuda_calls.hpp"
#include "wire/channel.hpp"
#include "wire/protocol.hpp"
#include "wire/reader.hpp"
#include "wire/snapshot.hpp"
#include "wire/writer.hpp"

namespace carrel::client {

// An answer that a thread waits for. Lives on that thread's stack.
struct Pending {
    uint32_t id = 0;
    bool done = false;
    CUresult lost = CUDA_SUCCESS;  // why there is no answer
    bool receiving = false;        // a thread writes into it: only that thread may end it
    std::byte* sink = nullptr;     // where the next data of a copy to the host goes
    uint64_t sink_size = 0;        // bytes that are still to come
    size_t size = 0;               // payload bytes
    std::byte small[256];
    std::vector<std::byte> large;

    std::span<const std::byte> body() const {
        return {size <= sizeof small ? small : large.data(), size};
    }
};

// Host memory that follows a call as bulk data.
struct Bulk {
    const void* data = nullptr;
    uint64_t size = 0;
};

class Session {
  public:
    // Bytes in the send buffer that make the caller send.
    static constexpr size_t kFlushAt = size_t{64} << 10;

    // Connects with the credentials of the environment, once; later calls give the same answer.
    CUresult attach();
    // The same over a connected socket (tests).
    CUresult adopt(int fd, std::string id);

    // CUDA_SUCCESS while the session can be used; otherwise what every call answers.
    CUresult status() const {
        const int status = status_.load(std::memory_order_acquire);
        if (status != CUDA_SUCCESS && forked_.load(std::memory_order_relaxed)) [[unlikely]]
            explain_fork();
        return static_cast<CUresult>(status);
    }
    const wire::Snapshot& snapshot() const { return snapshot_; }
    // Calls that have been appended so far.
    uint64_t calls() const { return calls_.load(std::memory_order_relaxed); }

    // Appends a call without an answer. `encode(Writer&)` may throw BadHandle.
    template <class E>
    CUresult post(uint16_t call, uint32_t context, E&& encode) {
        if (const CUresult bad = status()) return bad;
        std::unique_lock lock(send_);
        const bool first = pending_.empty();
        if (!append(call, context, 0, 0, encode)) return CUDA_ERROR_INVALID_HANDLE;
        const size_t size = pending_.size();
        lock.unlock();
        if (size >= kFlushAt) {
            flush();
        } else if (first) {
            wake_flusher();
        }
        return CUDA_SUCCESS;
    }

    // Appends a call, sends, and waits for its answer in `pending`. With `bulk`, its bytes are sent
    // straight from the program's memory; with `pipelined`, nothing is awaited.
    template <class E>
    CUresult transact(uint16_t call, uint32_t context, E&& encode, Pending* pending, Bulk bulk = {},
                      bool even_after_error = false) {
        const CUresult bad = status();
        if (bad && !(even_after_error && connected_.load(std::memory_order_acquire))) return bad;
        if (pending && !enlist(*pending)) return status();
        std::unique_lock writing(write_);
        {
            const std::lock_guard lock(send_);
            try {
                if (!append(call, context, pending ? pending->id : 0, bulk.size, encode)) {
                    if (pending) withdraw(*pending);
                    return CUDA_ERROR_INVALID_HANDLE;
                }
            } catch (...) {
                if (pending) withdraw(*pending);
                throw;
            }
            sending_.swap(pending_);
        }
        const CUresult sent = send_out(bulk);
        writing.unlock();
        if (!pending) return sent;
        wait(*pending);
        if (pending->lost) return pending->lost;
        return sent;
    }

    // Sends what is buffered.
    void flush();

    // Errors of pipelined calls. settle() is applied to every answer that the program sees.
    CUresult settle(CUresult result);
    void fail(Call call, CUresult error);
    // The status of a pipelined call of a library that failed; 0 if none has since the last time.
    int take_library_failure(uint16_t library);
    // After a reset of the primary context: the sticky error is gone.
    void forgive();
    // The session is over: every later call answers `error`; `reason` is printed once.
    void lose(CUresult error, const std::string& reason);

    // Reads frames that have arrived, if nobody else does; never blocks.
    void poll();
    // Blocks until a frame has been handled by this or another thread, or the session is lost.
    void listen();
    void on_host_call(std::function<void(uint64_t ticket, CUresult)> handler);

    void on_host_data(std::function<void(uint64_t ticket, std::span<const std::byte>)> handler);

    void after_fork();
    // The program ends in order: the worker need not wait for it to come back.
    void leave();

  private:
    template <class E>
    bool append(uint16_t call, uint32_t context, uint32_t reply, uint64_t bulk, E&& encode) {
        const size_t at = pending_.size();
        wire::CallHeader header{call, static_cast<uint16_t>(bulk ? wire::kBulk : 0), 0, reply,
                                context};
        pending_.put(header);
        if (bulk) pending_.put(bulk);
        const size_t start = pending_.size();
        try {
            encode(pending_);
        } catch (const BadHandle&) {
            pending_.truncate(at);
            return false;
        }
        header.size = static_cast<uint32_t>(pending_.size() - start);
        pending_.patch(at, header);
        calls_.store(calls_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
        return true;
    }

    bool enlist(Pending& pending);
    void withdraw(Pending& pending);
    void wait(Pending& pending);
    void read_frame();
    void read_answer(const wire::FrameHeader& header);
    void library_failed(wire::Reader& in);
    CUresult send_out(Bulk bulk);
    CUresult start(const std::string& id);
    void wake_flusher();
    void flusher();
    void explain_fork() const;

    std::atomic<int> status_{CUDA_ERROR_NOT_INITIALIZED};
    std::atomic<uint64_t> calls_{0};           // written with send_ held
    std::atomic<int> deferred_{CUDA_SUCCESS};  // an error that surfaces once
    static constexpr size_t kLibraries = 32;
    std::atomic<int> library_failures_[kLibraries] = {};
    std::atomic<bool> forked_{false};
    std::atomic<bool> connected_{false};
    std::atomic<bool> leaving_{false};
    std::mutex attach_;
    bool attached_ = false;
    CUresult attach_result_ = CUDA_SUCCESS;

    wire::Channel channel_;
    wire::Snapshot snapshot_;
    std::string id_;

    std::mutex write_;      // who writes to the socket
    wire::Writer sending_;  // under write_
    std::mutex send_;       // the buffer
    wire::Writer pending_{2 * kFlushAt};

    std::mutex wait_;
    std::condition_variable changed_;
    std::vector<Pending*> waiting_;
    uint32_t next_reply_ = 1;
    bool reading_ = false;  // a thread reads the socket
    uint64_t frames_ = 0;
    std::function<void(uint64_t, CUresult)> host_call_;
    std::function<void(uint64_t, std::span<const std::byte>)> host_data_;

    std::atomic<uint32_t> flusher_sleeps_{0};
};

Session& session();

// Errors after which a context answers nothing but them.
bool corrupts_context(CUresult error);

}  // namespace carrel::client
