#include "client/session.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>

#include "carrel_protocol.hpp"
#include "wire/connection.hpp"
#include "wire/decoder.hpp"
#include "wire/endpoint.hpp"
#include "wire/log.hpp"

namespace carrel::client {

namespace {

// How long buffered calls may wait for company before they are sent.
constexpr long kFlushDelayNs = 30'000;

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr);
}

void futex_wake(std::atomic<uint32_t>& word) {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 1);
}

// Our threads must not run the program's signal handlers.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

}  // namespace

bool corrupts_context(CUresult error) {
    switch (error) {
        case CUDA_ERROR_ECC_UNCORRECTABLE:
        case CUDA_ERROR_NVLINK_UNCORRECTABLE:
        case CUDA_ERROR_CONTAINED:
        case CUDA_ERROR_ILLEGAL_ADDRESS:
        case CUDA_ERROR_LAUNCH_TIMEOUT:
        case CUDA_ERROR_CONTEXT_IS_DESTROYED:
        case CUDA_ERROR_ASSERT:
        case CUDA_ERROR_HARDWARE_STACK_ERROR:
        case CUDA_ERROR_ILLEGAL_INSTRUCTION:
        case CUDA_ERROR_MISALIGNED_ADDRESS:
        case CUDA_ERROR_INVALID_ADDRESS_SPACE:
        case CUDA_ERROR_INVALID_PC:
        case CUDA_ERROR_LAUNCH_FAILED:
        case CUDA_ERROR_TENSOR_MEMORY_LEAK:
        case CUDA_ERROR_EXTERNAL_DEVICE:
            return true;
        default:
            return false;
    }
}

Session& session() {
    // Never destroyed: its threads may run until the process is gone.
    static Session* const instance = [] {
        auto* made = new Session;
        pthread_atfork(nullptr, nullptr, [] { session().after_fork(); });
        std::atexit([] { session().leave(); });
        return made;
    }();
    return *instance;
}

CUresult Session::attach() {
    if (connected_.load(std::memory_order_acquire)) return status();
    if (forked_.load(std::memory_order_relaxed)) return status();
    const std::lock_guard lock(attach_);
    if (attached_) return attach_result_;
    attached_ = true;
    wire::Connection connection =
        wire::connect(wire::Purpose::session, wire::Credentials::from_environment(), kProtocolHash);
    if (connection.fd < 0) {
        CARREL_WARNING("no GPU: %s", connection.error.c_str());
        attach_result_ = connection.status == wire::Status::no_credentials
                             ? CUDA_ERROR_NO_DEVICE
                             : CUDA_ERROR_SYSTEM_NOT_READY;
        return attach_result_;
    }
    try {
        channel_ = wire::open(connection, kProtocolHash);
    } catch (const std::exception& error) {
        CARREL_WARNING("no GPU: %s", error.what());
        return attach_result_ = CUDA_ERROR_SYSTEM_NOT_READY;
    }
    attach_result_ = start(connection.session);
    return attach_result_;
}

CUresult Session::adopt(int fd, std::string id) {
    const std::lock_guard lock(attach_);
    attached_ = true;
    channel_ = wire::Channel(fd);
    attach_result_ = start(id);
    return attach_result_;
}

CUresult Session::start(const std::string& id) {
    id_ = id;
    try {
        wire::FrameHeader header{};
        std::string reason = "the GPU host closed the connection";
        if (channel_.receive(&header, sizeof header)) {
            wire::check_frame(header);
            if (header.size > wire::kMaxPayload) throw wire::Malformed("the snapshot is too large");
            std::vector<std::byte> body(header.size);
            if (channel_.receive(body.data(), body.size())) {
                wire::Reader in(body);
                if (header.kind == static_cast<uint16_t>(wire::Frame::snapshot)) {
                    snapshot_ = wire::Snapshot::decode(in);
                    status_.store(CUDA_SUCCESS, std::memory_order_release);
                    connected_.store(true, std::memory_order_release);
                    const SignalsBlocked blocked;
                    std::thread([this] { flusher(); }).detach();
                    CARREL_DEBUG("attached to %s, session %s", snapshot_.name.c_str(), id_.c_str());
                    return CUDA_SUCCESS;
                }
                if (header.kind == static_cast<uint16_t>(wire::Frame::end)) reason = in.text();
            }
        }
        CARREL_WARNING("no GPU: the session could not start: %s", reason.c_str());
    } catch (const wire::Malformed& error) {
        CARREL_WARNING("no GPU: the session could not start: %s", error.what());
    }
    channel_.close();
    return CUDA_ERROR_SYSTEM_NOT_READY;
}

// ---- sending -----------------------------------------------------------------------------------

void Session::flush() {
    const std::lock_guard writing(write_);
    {
        const std::lock_guard lock(send_);
        if (pending_.empty()) return;
        sending_.swap(pending_);
    }
    send_out({});
}

CUresult Session::send_out(Bulk bulk) {
    const iovec parts[2] = {{const_cast<std::byte*>(sending_.data()), sending_.size()},
                            {const_cast<void*>(bulk.data), bulk.size}};
    size_t sent = 0;
    int error = channel_.send(std::span(parts, bulk.size ? 2 : 1), &sent);
    CUresult result = CUDA_SUCCESS;
    if (error == EFAULT && bulk.size) {
        // The program's memory ends early: keep the pipeline whole, and tell the caller.
        result = CUDA_ERROR_INVALID_VALUE;
        error = 0;
        std::vector<std::byte> zeros(size_t{1} << 20);
        for (uint64_t left = sending_.size() + bulk.size - sent; left && !error;) {
            const auto part = std::min<uint64_t>(left, zeros.size());
            error = channel_.send(zeros.data(), part);
            left -= part;
        }
    }
    sending_.clear();
    sending_.shrink(4 * kFlushAt);
    if (!error) return result;
    poll();  // the worker may have said why before it closed
    lose(CUDA_ERROR_DEVICE_UNAVAILABLE,
         std::string("the connection to the GPU host broke (") + std::strerror(error) + ")");
    return status();
}

void Session::wake_flusher() {
    if (flusher_sleeps_.load(std::memory_order_seq_cst) &&
        flusher_sleeps_.exchange(0, std::memory_order_seq_cst)) {
        futex_wake(flusher_sleeps_);
    }
}

void Session::flusher() {
    prctl(PR_SET_NAME, "carrel-flush");
    prctl(PR_SET_TIMERSLACK, 1000);
    while (connected_.load(std::memory_order_acquire)) {
        flusher_sleeps_.store(1, std::memory_order_seq_cst);
        bool empty;
        {
            const std::lock_guard lock(send_);
            empty = pending_.empty();
        }
        if (empty) {
            futex_wait(flusher_sleeps_, 1);
            const timespec delay{0, kFlushDelayNs};
            nanosleep(&delay, nullptr);
        }
        flusher_sleeps_.store(0, std::memory_order_seq_cst);
        flush();
        poll();
    }
}

// ---- receiving ---------------------------------------------------------------------------------

bool Session::enlist(Pending& pending) {
    const std::lock_guard lock(wait_);
    if (!connected_.load(std::memory_order_relaxed)) return false;
    pending.id = next_reply_++;
    if (!next_reply_) next_reply_ = 1;
    waiting_.push_back(&pending);
    return true;
}

void Session::withdraw(Pending& pending) {
    const std::lock_guard lock(wait_);
    std::erase(waiting_, &pending);
}

void Session::wait(Pending& pending) {
    std::unique_lock lock(wait_);
    while (!pending.done) {
        if (reading_) {
            changed_.wait(lock);
            continue;
        }
        reading_ = true;
        lock.unlock();
        read_frame();
        lock.lock();
        reading_ = false;
        changed_.notify_all();  // what was read may be another's; or another must read on
    }
}

void Session::poll() {
    std::unique_lock lock(wait_);
    if (reading_ || !connected_.load(std::memory_order_relaxed)) return;
    reading_ = true;
    while (connected_.load(std::memory_order_relaxed) && channel_.readable()) {
        lock.unlock();
        read_frame();
        lock.lock();
    }
    reading_ = false;
    changed_.notify_all();  // even if nobody waits for more: an answer that was read has its thread
}

void Session::listen() {
    std::unique_lock lock(wait_);
    const uint64_t before = frames_;
    while (frames_ == before && connected_.load(std::memory_order_relaxed)) {
        if (reading_) {
            changed_.wait(lock);
            continue;
        }
        reading_ = true;
        lock.unlock();
        read_frame();
        lock.lock();
        reading_ = false;
        changed_.notify_all();
    }
}

void Session::on_host_call(std::function<void(uint64_t, CUresult)> handler) {
    const std::lock_guard lock(wait_);
    host_call_ = std::move(handler);
}

void Session::on_host_data(std::function<void(uint64_t, std::span<const std::byte>)> handler) {
    const std::lock_guard lock(wait_);
    host_data_ = std::move(handler);
}

void Session::read_frame() {
    try {
        while (channel_.buffered().size() < sizeof(wire::FrameHeader)) {
            if (channel_.fill(sizeof(wire::FrameHeader))) continue;
            const int error = channel_.error();
            lose(CUDA_ERROR_DEVICE_UNAVAILABLE,
                 error ? std::string("the connection to the GPU host broke (") +
                             std::strerror(error) + ")"
                       : "the process that served this session on the GPU host is gone");
            return;
        }
        wire::FrameHeader header;
        std::memcpy(&header, channel_.buffered().data(), sizeof header);
        channel_.consume(sizeof header);
        wire::check_frame(header);
        const auto kind = static_cast<wire::Frame>(header.kind);
        if (kind == wire::Frame::reply || kind == wire::Frame::data) {
            read_answer(header);
        } else {
            std::vector<std::byte> body(header.size);
            if (!channel_.receive(body.data(), body.size())) {
                lose(CUDA_ERROR_DEVICE_UNAVAILABLE, "the connection to the GPU host broke");
                return;
            }
            wire::Reader in(body);
            switch (kind) {
                case wire::Frame::ping:
                    break;
                case wire::Frame::error: {
                    const auto call = static_cast<Call>(in.get<uint16_t>());
                    fail(call, static_cast<CUresult>(in.get<int32_t>()));
                    if (in.left()) library_failed(in);
                    break;
                }
                case wire::Frame::host_call: {
                    const auto ticket = in.get<uint64_t>();
                    const auto result = static_cast<CUresult>(in.get<int32_t>());
                    std::function<void(uint64_t, CUresult)> handler;
                    {
                        const std::lock_guard lock(wait_);
                        handler = host_call_;
                    }
                    if (handler) handler(ticket, result);
                    break;
                }
                case wire::Frame::host_data: {
                    const auto ticket = in.get<uint64_t>();
                    std::function<void(uint64_t, std::span<const std::byte>)> handler;
                    {
                        const std::lock_guard lock(wait_);
                        handler = host_data_;
                    }
                    if (handler) handler(ticket, in.rest());
                    break;
                }
                case wire::Frame::output: {
                    // As CUDA prints: through this process's own standard streams.
                    std::FILE* const out = in.get<uint16_t>() == 2 ? stderr : stdout;
                    const std::string text = in.text();
                    std::fwrite(text.data(), 1, text.size(), out);
                    std::fflush(out);
                    break;
                }
                case wire::Frame::end:
                    lose(CUDA_ERROR_SYSTEM_NOT_READY, in.text());
                    break;
                default:
                    throw wire::Malformed("an unexpected frame");
            }
        }
    } catch (const wire::Malformed& error) {
        lose(CUDA_ERROR_DEVICE_UNAVAILABLE,
             std::string("the GPU host sent something that is not the protocol: ") + error.what());
    }
    const std::lock_guard lock(wait_);
    ++frames_;
}

// A reply, or data that goes before one.
void Session::read_answer(const wire::FrameHeader& header) {
    const bool reply = header.kind == static_cast<uint16_t>(wire::Frame::reply);
    Pending* pending = nullptr;
    {
        const std::lock_guard lock(wait_);
        const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                        [&](const Pending* p) { return p->id == header.reply; });
        if (found == waiting_.end()) throw wire::Malformed("an answer that nobody asked for");
        pending = *found;
        if (!reply && header.size > pending->sink_size) {
            throw wire::Malformed("more data than was asked for");
        }
        pending->receiving = true;
    }
    std::byte* to = pending->small;
    if (!reply) {
        to = pending->sink;
        pending->sink += header.size;
        pending->sink_size -= header.size;
    } else {
        pending->size = header.size;
        if (header.size > sizeof pending->small) {
            pending->large.resize(header.size);
            to = pending->large.data();
        }
    }
    const bool whole = channel_.receive(to, header.size);
    if (!whole && channel_.error() == EFAULT) {
        lose(CUDA_ERROR_INVALID_VALUE, "the program gave a copy a bad host address");
    } else if (!whole) {
        lose(CUDA_ERROR_DEVICE_UNAVAILABLE, "the connection to the GPU host broke in an answer");
    }
    const std::lock_guard lock(wait_);
    pending->receiving = false;
    if (!connected_.load(std::memory_order_relaxed)) {
        pending->lost = static_cast<CUresult>(status_.load());
    } else if (!reply) {
        return;
    }
    pending->done = true;
    std::erase(waiting_, pending);
}

// ---- errors ------------------------------------------------------------------------------------

CUresult Session::settle(CUresult result) {
    if (corrupts_context(result)) {
        int good = CUDA_SUCCESS;
        status_.compare_exchange_strong(good, result);
    }
    if (result != CUDA_SUCCESS) return result;
    if (const int sticky = status_.load(std::memory_order_relaxed)) {
        return static_cast<CUresult>(sticky);
    }
    if (deferred_.load(std::memory_order_relaxed) == CUDA_SUCCESS) return CUDA_SUCCESS;
    return static_cast<CUresult>(deferred_.exchange(CUDA_SUCCESS));
}

void Session::fail(Call call, CUresult error) {
    CARREL_DEBUG("%s failed with error %d", call_name(call), static_cast<int>(error));
    int good = CUDA_SUCCESS;
    if (corrupts_context(error)) {
        status_.compare_exchange_strong(good, error);
    } else {
        deferred_.compare_exchange_strong(good, error);
    }
}

void Session::library_failed(wire::Reader& in) {
    const auto library = in.get<uint16_t>();
    const auto status = in.get<int32_t>();
    CARREL_WARNING("%s failed on the GPU host with status %d; a later call that waits reports it",
                   in.text().c_str(), status);
    if (library < kLibraries) library_failures_[library].store(status ? status : -1);
}

int Session::take_library_failure(uint16_t library) {
    if (library >= kLibraries || !library_failures_[library].load(std::memory_order_relaxed))
        return 0;
    // Told here, it is not told again as CUDA's.
    int unknown = CUDA_ERROR_UNKNOWN;
    deferred_.compare_exchange_strong(unknown, CUDA_SUCCESS);
    return library_failures_[library].exchange(0);
}

void Session::forgive() {
    deferred_.store(CUDA_SUCCESS);
    int status = status_.load();
    if (connected_.load() && corrupts_context(static_cast<CUresult>(status))) {
        status_.compare_exchange_strong(status, CUDA_SUCCESS);
    }
}

void Session::lose(CUresult error, const std::string& reason) {
    const bool leaving = leaving_.load(std::memory_order_acquire);
    if (leaving) error = CUDA_ERROR_DEINITIALIZED;
    {
        const std::lock_guard lock(wait_);
        if (!connected_.exchange(false)) return;
        status_.store(error, std::memory_order_release);
        std::erase_if(waiting_, [error](Pending* pending) {
            if (pending->receiving) return false;
            pending->lost = error;
            pending->done = true;
            return true;
        });
        ++frames_;
    }
    channel_.shutdown();
    changed_.notify_all();
    if (leaving) return;
    CARREL_WARNING(
        "the GPU session ended: %s. Its device memory is gone; restart the kernel or the program "
        "to attach again.",
        reason.c_str());
}

void Session::after_fork() {
    // Only the parent owns the connection.
    if (connected_.load() || status_.load() != CUDA_ERROR_NOT_INITIALIZED) {
        forked_.store(true);
        connected_.store(false);
        status_.store(CUDA_ERROR_NOT_INITIALIZED);
        channel_.abandon();
    }
}

void Session::leave() {
    leaving_.store(true, std::memory_order_release);
    if (connected_.load(std::memory_order_acquire)) channel_.transport().end_sending();
}

void Session::explain_fork() const {
    static std::atomic<bool> told{false};
    if (!told.exchange(true)) {
        CARREL_WARNING(
            "CUDA cannot be used in a forked process whose parent has used it. Start the process "
            "with the 'spawn' method (multiprocessing.set_start_method(\"spawn\")).");
    }
}

}  // namespace carrel::client
