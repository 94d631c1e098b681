#include "wire/resumable.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "wire/log.hpp"
#include "wire/socket.hpp"

namespace carrel::wire {

namespace {

using namespace std::chrono_literals;

constexpr size_t kRaw = size_t{64} << 10;
constexpr size_t kDirect = size_t{4} << 10;  // this much is received without a copy
constexpr auto kPumpFor = 20ms;
constexpr auto kLookEvery = 500ms;
constexpr auto kRetryEvery = 100ms;
constexpr auto kFarewellWithin = 200ms;
constexpr size_t kMaxSlices = 20;

int64_t now_ms() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

uint64_t total(std::span<const iovec> parts) {
    uint64_t size = 0;
    for (const iovec& part : parts) size += part.iov_len;
    return size;
}

// The pieces of `parts` from `offset` on, `size` bytes; returns how many there are in `out`.
size_t slice(std::span<const iovec> parts, uint64_t offset, uint64_t size, iovec* out) {
    size_t count = 0;
    for (const iovec& part : parts) {
        if (offset >= part.iov_len) {
            offset -= part.iov_len;
            continue;
        }
        const auto n = std::min<uint64_t>(part.iov_len - offset, size);
        if (!n) break;
        out[count++] = {static_cast<char*>(part.iov_base) + offset, n};
        size -= n;
        offset = 0;
    }
    return count;
}

}  // namespace

Resumable::Resumable(std::unique_ptr<Transport> first, std::chrono::milliseconds grace,
                     Reconnect reconnect)
    : grace_(grace), reconnect_(std::move(reconnect)), connection_(std::move(first)), raw_(kRaw) {
    if (!reconnect_) return;
    // A thread of ours must not run the program's signal handlers.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watcher_ = std::thread([this] { watch(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Resumable::Resumable(std::unique_ptr<Transport> first, std::chrono::milliseconds grace)
    : Resumable(std::move(first), grace, nullptr) {}

Resumable::~Resumable() {
    end_sending();
    shutdown();
    if (!watcher_.joinable()) return;
    {
        const std::lock_guard lock(watch_mutex_);
        stop_watching_ = true;
    }
    watch_.notify_all();
    watcher_.join();
}

Resumable::Current Resumable::current() {
    const std::lock_guard lock(current_mutex_);
    return {connection_, generation_.load(std::memory_order_relaxed)};
}

// The same for one direction, without a lock while nothing changes.
const Resumable::Current& Resumable::follow(Current& known) {
    if (!known.connection || known.generation != generation_.load()) known = current();
    return known;
}

// ---- another connection ------------------------------------------------------------------------

void Resumable::give_up(int error) {
    if (over_.exchange(true)) return;
    error_.store(error);
    current().connection->shutdown();
    joinable_.notify_all();
    progress_.notify_all();
}

bool Resumable::recover(uint64_t generation) {
    std::unique_lock joining(join_);
    if (generation_.load() != generation) return true;
    if (over_.load() || goodbye_.load() || deaf_.load()) return false;
    {
        // What had arrived before the break counts: among it may be why there is no other.
        // Who holds the lock now is reading it.
        const std::unique_lock reading(receive_, std::try_to_lock);
        while (reading && early_.size() < kMaxEarly && pump(0ms) == Read::bytes) {
        }
    }
    if (goodbye_.load()) return false;
    current().connection->shutdown();
    return reconnect_ ? recover_as_client(joining) : recover_as_worker(joining);
}

bool Resumable::recover_as_client(std::unique_lock<std::mutex>& joining) {
    const uint64_t generation = generation_.load();
    CARREL_INFO("the connection to the GPU host broke; connecting again");
    const auto until = std::chrono::steady_clock::now() + grace_;
    for (bool final = false; !over_.load();) {
        if (generation_.load() != generation) return true;  // another thread was here
        if (auto next = grace_ > 0ms ? reconnect_(&final) : nullptr;
            next && join(std::move(next))) {
            return true;
        }
        if (final || std::chrono::steady_clock::now() >= until) {
            give_up(final ? 0 : ETIMEDOUT);
            break;
        }
        joinable_.wait_for(joining, kRetryEvery);
    }
    return false;
}

bool Resumable::recover_as_worker(std::unique_lock<std::mutex>& joining) {
    const uint64_t generation = generation_.load();
    CARREL_INFO("the connection to the program broke; it has %.0f s to come back",
                static_cast<double>(grace_.count()) / 1000);
    const auto until = std::chrono::steady_clock::now() + grace_;
    while (!over_.load() && !hurried_.load() && !deaf_.load()) {
        if (generation_.load() != generation) return true;  // another thread was here
        if (next_) {
            if (join(std::move(next_))) return true;
            continue;
        }
        if (std::chrono::steady_clock::now() >= until) break;
        joinable_.wait_for(joining, kRetryEvery);
    }
    if (generation_.load() != generation) return true;
    give_up(ETIMEDOUT);
    return false;
}

bool Resumable::join(std::unique_ptr<Transport> next) {
    std::shared_ptr<Transport> connection(std::move(next));
    const std::lock_guard reading(receive_);  // received_ stands still
    Segment mine{0, received_.load()}, theirs{};
    iovec part{&mine, sizeof mine};
    size_t sent = 0;
    if (connection->send({&part, 1}, &sent) != 0) return false;
    for (size_t done = 0; done < sizeof theirs;) {
        const ssize_t n = connection->receive(reinterpret_cast<char*>(&theirs) + done,
                                              sizeof theirs - done, true);
        if (n <= 0) return false;
        done += static_cast<size_t>(n);
    }
    if (theirs.size != 0 || theirs.received < acked_.load()) {
        CARREL_WARNING("the other end continues another stream");
        give_up(EPROTO);
        return false;
    }
    said_.store(mine.received);
    acked_.store(theirs.received);
    {
        const std::lock_guard lock(current_mutex_);
        connection_ = std::move(connection);
        generation_.fetch_add(1);
    }
    CARREL_INFO("the connection is back: %llu bytes received, %llu sent",
                static_cast<unsigned long long>(mine.received),
                static_cast<unsigned long long>(theirs.received));
    progress_.notify_all();
    joinable_.notify_all();
    return true;
}

bool Resumable::continue_on(std::unique_ptr<Transport> next) {
    if (over_.load()) return false;
    current().connection->shutdown();  // whoever uses it goes to recover()
    const std::lock_guard lock(join_);
    next_ = std::move(next);
    joinable_.notify_all();
    return true;
}

// Breaks are noticed while the program is busy elsewhere, for the worker waits only so long.
void Resumable::watch() {
    std::unique_lock lock(watch_mutex_);
    while (!stop_watching_ && !over_.load() && !goodbye_.load()) {
        watch_.wait_for(lock, kLookEvery);
        const Current now = current();
        if (stop_watching_ || !now.connection->hung_up()) continue;
        lock.unlock();
        if (recover(now.generation)) settle();
        lock.lock();
    }
}

// ---- sending -----------------------------------------------------------------------------------

int Resumable::send(std::span<iovec> parts, size_t* sent) {
    *sent = 0;
    std::unique_lock sending(send_);
    const uint64_t begin = sent_, end = begin + total(parts);
    bool fault = false;
    for (;;) {
        const int error = push(parts, end, &fault);
        if (error) {
            *sent = written_ > begin ? written_ - begin : 0;
            return error;
        }
        // Memory that is not there cannot be kept: the zeros that went instead are waited for.
        const uint64_t needed = fault ? end : end - std::min(end, kKept);
        if (acked_.load() >= needed) break;
        wait_for_ack(needed);
    }
    hear_acks();
    if (!fault) keep(parts, end);
    sent_ = end;
    *sent = end - begin;
    sending.unlock();
    settle();
    return fault ? EFAULT : 0;
}

// Gives the connection everything up to `end`; what is beyond sent_ comes from `parts`.
int Resumable::push(std::span<const iovec> parts, uint64_t end, bool* fault) {
    for (;;) {
        if (over_.load()) return error_.load() ? error_.load() : EPIPE;
        const Current& to = follow(sending_to_);
        if (written_to_.load() != to.generation) {
            written_ = acked_.load();
            written_to_.store(to.generation);
        }
        if (written_ >= end) return 0;
        iovec list[kMaxSlices];
        Segment segment{std::min(end - written_, kMaxSegment), received_.load()};
        list[0] = {&segment, sizeof segment};
        size_t count = 1;
        if (written_ < sent_) {
            segment.size = std::min(segment.size, sent_ - written_);
            segment.size = std::min(segment.size, kKept - written_ % kKept);
            list[count++] = {kept_.get() + written_ % kKept, segment.size};
        } else {
            count += slice(parts, written_ - sent_, segment.size, list + 1);
        }
        size_t out = 0;
        int error = to.connection->send({list, count}, &out);
        if (error == EFAULT) {
            // The segment has been announced: zeros complete it.
            *fault = true;
            std::vector<std::byte> zeros(sizeof segment + segment.size - out);
            iovec rest{zeros.data(), zeros.size()};
            error = to.connection->send({&rest, 1}, &out);
        }
        if (!error) {
            written_ += segment.size;
            said_.store(segment.received);
        } else if (!recover(written_to_.load())) {
            return error_.load() ? error_.load() : error;
        }
    }
}

// Copies what the other end has not acknowledged, for another connection.
void Resumable::keep(std::span<const iovec> parts, uint64_t end) {
    uint64_t at = std::max(sent_, acked_.load());
    if (at >= end) return;
    if (!kept_) kept_.reset(new std::byte[kKept]);
    while (at < end) {
        iovec piece[kMaxSlices];
        const uint64_t n = std::min(end - at, kKept - at % kKept);
        const size_t count = slice(parts, at - sent_, n, piece);
        for (size_t i = 0; i < count; ++i) {
            std::memcpy(kept_.get() + at % kKept, piece[i].iov_base, piece[i].iov_len);
            at += piece[i].iov_len;
        }
    }
}

// Returns when the other end has received up to `position`, or must be sent something again. What
// arrives meanwhile is read, for the other end may be waiting likewise.
void Resumable::wait_for_ack(uint64_t position) {
    while (acked_.load() < position && !over_.load() && generation_.load() == written_to_.load()) {
        bool looked = false;
        if (receivers_.load() == 0 && receive_.try_lock()) {
            Read result = Read::nothing;
            looked = early_.size() < kMaxEarly;
            if (looked) result = pump(kPumpFor);
            receive_.unlock();
            if (result == Read::broken && !recover(written_to_.load())) return give_up(EPIPE);
        }
        // The other end may wait for the same of us.
        if (received_.load() - said_.load() >= kAckEvery) ack_due_.store(true);
        if (ack_due_.load() && current().connection->writable()) {
            ack_due_.store(false);
            say(0);
        }
        if (looked) continue;
        std::unique_lock lock(progress_mutex_);
        progress_.wait_for(lock, 1ms);
    }
}

// What has been acknowledged meanwhile need not be kept.
void Resumable::hear_acks() {
    if (acked_.load() + kRaw > written_) return;
    const std::unique_lock reading(receive_, std::try_to_lock);
    while (reading && early_.size() < kRaw && pump(0ms) != Read::broken &&
           current().connection->readable(0ms)) {
    }
}

// Under send_: a segment without bytes.
void Resumable::say(uint64_t size) {
    const Current& to = follow(sending_to_);
    Segment segment{size, received_.load()};
    iovec part{&segment, sizeof segment};
    size_t sent = 0;
    if (to.connection->send({&part, 1}, &sent) == 0) said_.store(segment.received);
}

void Resumable::settle() {
    const auto due = [&] {
        return !over_.load() && (ack_due_.load() || generation_.load() != written_to_.load());
    };
    while (due()) {
        // Whoever holds it looks again after letting go.
        const std::unique_lock sending(send_, std::try_to_lock);
        if (!sending) return;
        bool fault = false;
        if (generation_.load() != written_to_.load() && push({}, sent_, &fault) != 0) return;
        if (!ack_due_.load()) continue;
        if (!current().connection->writable()) return;  // the next receive() tries again
        ack_due_.store(false);
        say(0);
    }
}

// ---- receiving ---------------------------------------------------------------------------------

ssize_t Resumable::receive(void* to, size_t size, bool all) {
    for (;;) {
        uint64_t generation = 0;
        Read result = Read::nothing;
        size_t got = 0;
        receivers_.fetch_add(1);
        {
            const std::lock_guard reading(receive_);
            receivers_.fetch_sub(1);
            if (deaf_.load()) return 0;
            if (early_begin_ < early_.size()) {
                got = std::min(size, early_.size() - early_begin_);
                std::memcpy(to, early_.data() + early_begin_, got);
                early_begin_ += got;
                if (early_begin_ == early_.size()) {
                    early_.clear();
                    early_begin_ = 0;
                }
            }
            generation = follow(receiving_from_).generation;
            if (!got && !over_.load() && !goodbye_.load()) result = read(to, size, all, &got);
        }
        if (received_.load() - said_.load() >= kAckEvery) ack_due_.store(true);
        if (ack_due_.load() || generation_.load() != written_to_.load()) settle();
        if (got) return static_cast<ssize_t>(got);
        if (deaf_.load() || goodbye_.load()) {
            const std::lock_guard reading(receive_);
            if (early_begin_ == early_.size() || deaf_.load()) return 0;
            continue;
        }
        if (over_.load() || (result == Read::broken && !recover(generation))) {
            const std::lock_guard reading(receive_);
            if (early_begin_ == early_.size()) return -error_.load();
        } else if (result == Read::broken) {
            settle();  // before waiting for an answer to what the other end has not got
        }
    }
}

// Reads once from the connection: bytes of the stream, or only what the other end says about it.
Resumable::Read Resumable::read(void* to, size_t size, bool all, size_t* got) {
    const Current& from = follow(receiving_from_);
    if (read_from_ != from.generation) {
        read_from_ = from.generation;
        raw_begin_ = raw_end_ = 0;
        segment_left_ = 0;
    }
    *got = 0;
    if (raw_begin_ == raw_end_ && segment_left_ && size >= kDirect) {
        const ssize_t n =
            from.connection->receive(to, std::min<uint64_t>(size, segment_left_), all);
        if (n == -EFAULT) {
            // The program's memory is not there: its own affair, not the connection's.
            give_up(EFAULT);
            return Read::broken;
        }
        if (n <= 0) return Read::broken;
        *got = static_cast<size_t>(n);
    } else {
        if (raw_end_ - raw_begin_ < (segment_left_ ? 1 : sizeof(Segment))) {
            std::memmove(raw_.data(), raw_.data() + raw_begin_, raw_end_ - raw_begin_);
            raw_end_ -= raw_begin_;
            raw_begin_ = 0;
            const ssize_t n =
                from.connection->receive(raw_.data() + raw_end_, raw_.size() - raw_end_, false);
            if (n <= 0) return Read::broken;
            raw_end_ += static_cast<size_t>(n);
        }
        if (!segment_left_ && raw_end_ - raw_begin_ >= sizeof(Segment)) {
            Segment segment;
            std::memcpy(&segment, raw_.data() + raw_begin_, sizeof segment);
            raw_begin_ += sizeof segment;
            if (segment.size == kGoodbye) {
                goodbye_.store(true);
                return Read::broken;
            }
            if (segment.size > kMaxSegment) {
                give_up(EPROTO);
                return Read::broken;
            }
            segment_left_ = segment.size;
            if (segment.received > acked_.load()) {
                acked_.store(segment.received);
                progress_.notify_all();
            }
        }
        *got = std::min({size, size_t{raw_end_ - raw_begin_}, size_t{segment_left_}});
        std::memcpy(to, raw_.data() + raw_begin_, *got);
        raw_begin_ += *got;
    }
    segment_left_ -= *got;
    received_.fetch_add(*got);
    return *got ? Read::bytes : Read::nothing;
}

// Reads ahead into early_.
Resumable::Read Resumable::pump(std::chrono::milliseconds wait) {
    const Current& from = follow(receiving_from_);
    const bool ready = read_from_ == from.generation && raw_begin_ != raw_end_ &&
                       (segment_left_ || raw_end_ - raw_begin_ >= sizeof(Segment));
    if (!ready && !from.connection->readable(wait)) return Read::nothing;
    const size_t had = early_.size();
    early_.resize(had + kRaw);
    size_t got = 0;
    const Read result = read(early_.data() + had, kRaw, false, &got);
    early_.resize(had + got);
    return result;
}

bool Resumable::readable(std::chrono::milliseconds wait) {
    if (over_.load() || goodbye_.load() || deaf_.load()) return true;
    const std::unique_lock reading(receive_, std::try_to_lock);
    if (!reading) return false;
    Read result = Read::bytes;
    while (early_begin_ == early_.size() && (result = pump(wait)) == Read::nothing) {
        if (!current().connection->readable(0ms)) return false;
    }
    return true;
}

// ---- the end -----------------------------------------------------------------------------------

bool Resumable::writable() {
    const std::shared_ptr<Transport> to = current().connection;
    return !over_.load() && !to->hung_up() && to->writable();
}

bool Resumable::probe() {
    if (writable()) {
        missing_since_ms_.store(0);
        const std::unique_lock sending(send_, std::try_to_lock);
        if (sending) say(0);
    } else if (current().connection->hung_up() && missing_since_ms_.load() == 0) {
        missing_since_ms_.store(now_ms());
    }
    return true;
}

bool Resumable::peer_gone() {
    const int64_t since = missing_since_ms_.load();
    return over_.load() || (since && now_ms() - since > grace_.count());
}

void Resumable::shutdown() {
    give_up(0);
}

void Resumable::end_sending() {
    const auto until = std::chrono::steady_clock::now() + kFarewellWithin;
    std::unique_lock sending(send_, std::try_to_lock);
    while (!sending && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(1ms);
        sending.try_lock();
    }
    const std::shared_ptr<Transport> to = current().connection;
    if (!sending || over_.load() || !to->writable()) return;
    say(kGoodbye);
    to->end_sending();
}

void Resumable::end_receiving() {
    deaf_.store(true);
    current().connection->end_receiving();
    joinable_.notify_all();
}

void Resumable::hurry() {
    hurried_.store(true);
    joinable_.notify_all();
}

void Resumable::linger(std::chrono::milliseconds limit) {
    current().connection->linger(limit);
}

void Resumable::abandon() {
    connection_->abandon();
}

}  // namespace carrel::wire
