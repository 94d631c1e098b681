#include "wire/local.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace carrel::wire {

namespace {

constexpr size_t kBoth = 2 * Ring::kMapping;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// Larger pieces of a copy are put into the ring and taken out of it at the same time.
constexpr size_t kPiece = size_t{128} << 10;
// From here on it is the program's memory, which may not be what the program says.
constexpr size_t kDoubted = size_t{64} << 10;
constexpr size_t kChecked = size_t{2} << 20;

[[noreturn]] void fail(const char* what, int error = errno) {
    throw std::system_error(error, std::generic_category(), what);
}

// Closes the descriptor unless it is released.
class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }

  private:
    int fd_;
};

std::byte* map(int memory) {
    void* at = ::mmap(nullptr, kBoth, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (at == MAP_FAILED) fail("cannot map the shared memory");
    return static_cast<std::byte*>(at);
}

void pass(int socket, int memory) {
    char word = 'R';
    iovec part{&word, 1};
    alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* const control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(control), &memory, sizeof memory);
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) fail("cannot pass the shared memory");
}

int take(int socket, std::chrono::milliseconds limit) {
    pollfd waiting{socket, POLLIN, 0};
    int ready = 0;
    while ((ready = ::poll(&waiting, 1, static_cast<int>(limit.count()))) < 0 && errno == EINTR) {
    }
    if (ready <= 0) fail("no shared memory came", ready ? errno : ETIMEDOUT);
    char word = 0;
    iovec part{&word, 1};
    alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    const ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0) fail("no shared memory came");
    const cmsghdr* const control = CMSG_FIRSTHDR(&message);
    if (n != 1 || word != 'R' || !control || control->cmsg_type != SCM_RIGHTS) {
        fail("no shared memory came", n == 0 ? ECONNRESET : EPROTO);
    }
    int memory = -1;
    std::memcpy(&memory, CMSG_DATA(control), sizeof memory);
    return memory;
}

// Whether the program's memory is there: 0, or EFAULT. A fault in a copy of ours would be a signal
// in its process; the kernel says it as an error.
enum class To { read, write };

// One byte of each page through a pipe: slow, and true of whatever memory.
int check_pages(uintptr_t begin, uintptr_t end, size_t page, To how) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return 0;
    const Descriptor out(ends[0]), in(ends[1]);
    int error = 0;
    for (uintptr_t at = begin; at < end && !error; at += page) {
        char byte = 0;
        if (::write(in.get(), reinterpret_cast<void*>(at), 1) != 1) {
            error = EFAULT;
        } else {
            void* const back = how == To::write ? reinterpret_cast<void*>(at) : &byte;
            if (::read(out.get(), back, 1) != 1) error = EFAULT;
        }
    }
    return error;
}

int check_memory(const void* data, size_t size, To how) {
    static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + size + page - 1) / page * page;
#ifdef MADV_POPULATE_READ
    const int advice = how == To::read ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
    while (::madvise(reinterpret_cast<void*>(begin), end - begin, advice) != 0) {
        if (errno == EFAULT || errno == ENOMEM) return EFAULT;
        if (errno == EINTR || errno == EAGAIN) continue;
        // An old kernel, memory of a device, or no permission: it does not say which.
        return check_pages(begin, end, page, how);
    }
    return 0;
#else
    return check_pages(begin, end, page, how);
#endif
}

}  // namespace

std::unique_ptr<Local> Local::offer(int socket) {
    Descriptor mine(socket);
    const Descriptor memory(::memfd_create("carrel-wire", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (memory.get() < 0 || ::ftruncate(memory.get(), kBoth) != 0 ||
        ::fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
        fail("cannot make shared memory");
    }
    std::byte* const mapping = map(memory.get());
    try {
        pass(socket, memory.get());
        return std::unique_ptr<Local>(new Local(mine.release(), mapping, true));
    } catch (...) {
        ::munmap(mapping, kBoth);
        throw;
    }
}

std::unique_ptr<Local> Local::accept(int socket, std::chrono::milliseconds limit) {
    Descriptor mine(socket);
    const Descriptor memory(take(socket, limit));
    struct stat status{};
    const int seals = ::fcntl(memory.get(), F_GET_SEALS);
    if (::fstat(memory.get(), &status) != 0 || status.st_size != kBoth || seals < 0 ||
        (seals & kSeals) != kSeals) {
        fail("the shared memory is not what it should be", EPROTO);
    }
    return std::unique_ptr<Local>(new Local(mine.release(), map(memory.get()), false));
}

Local::Local(int socket, std::byte* mapping, bool offered)
    : doubts_(!offered),
      socket_(socket),
      stop_(::eventfd(0, EFD_CLOEXEC)),
      mapping_(mapping),
      in_(mapping + (offered ? 0 : Ring::kMapping)),
      out_(mapping + (offered ? Ring::kMapping : 0)) {
    // A thread of ours must not run the program's signal handlers.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    watcher_ = std::thread([this] { watch(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Local::~Local() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(stop_, &one, sizeof one);
    watcher_.join();
    ::close(stop_);
    ::close(socket_);
    ::munmap(mapping_, kBoth);
}

// Nothing is said over the socket any more: whatever happens on it is its end.
void Local::watch() {
    pollfd waiting[2] = {{socket_, POLLIN | POLLRDHUP, 0}, {stop_, POLLIN, 0}};
    while (::poll(waiting, 2, -1) < 0 && errno == EINTR) {
    }
    gone_.store(true);
    in_.stop(false);
    out_.stop(false);
}

int Local::send(std::span<iovec> parts, size_t* sent) {
    *sent = 0;
    for (const iovec& part : parts) {
        const auto* from = static_cast<const std::byte*>(part.iov_base);
        size_t trusted = doubts_ && part.iov_len >= kDoubted ? 0 : part.iov_len;
        for (size_t done = 0; done < part.iov_len;) {
            if (done == trusted) {
                const size_t next = std::min(part.iov_len - done, kChecked);
                if (const int error = check_memory(from + done, next, To::read)) return error;
                trusted += next;
            }
            std::byte* at = nullptr;
            size_t room = 0;
            const Ring::Wait wait = out_.wait_for_room(&at, &room);
            if (wait != Ring::Wait::ready) return wait == Ring::Wait::broken ? EPROTO : EPIPE;
            const size_t n = std::min({room, trusted - done, kPiece});
            std::memcpy(at, from + done, n);
            out_.written(n);
            done += n;
            *sent += n;
        }
    }
    return 0;
}

ssize_t Local::receive(void* to, size_t size, bool all) {
    auto* const data = static_cast<std::byte*>(to);
    size_t trusted = doubts_ && all && size >= kDoubted ? 0 : size;
    size_t done = 0;
    while (done < size) {
        if (done == trusted) {
            const size_t next = std::min(size - done, kChecked);
            if (const int error = check_memory(data + done, next, To::write)) return -error;
            trusted += next;
        }
        const std::byte* at = nullptr;
        size_t there = 0;
        const Ring::Wait wait = in_.wait_for_bytes(&at, &there);
        if (wait != Ring::Wait::ready) {
            if (done) break;
            return wait == Ring::Wait::broken ? -EPROTO : 0;
        }
        const size_t n = std::min({there, trusted - done, kPiece});
        std::memcpy(data + done, at, n);
        in_.read(n);
        done += n;
        if (!all && in_.bytes() == 0) break;
    }
    return static_cast<ssize_t>(done);
}

bool Local::readable(std::chrono::milliseconds) {
    return in_.bytes() != 0 || in_.ended() || gone_.load();
}

bool Local::writable() {
    return !gone_.load() && out_.bytes() < Ring::kBytes / 2;
}

void Local::shutdown() {
    ::shutdown(socket_, SHUT_RDWR);
    in_.stop(false);
    out_.stop(false);
}

void Local::linger(std::chrono::milliseconds limit) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!gone_.load() && std::chrono::steady_clock::now() < until) ::poll(nullptr, 0, 5);
}

void Local::abandon() {
    ::close(socket_);
    ::close(stop_);
    ::munmap(mapping_, kBoth);
}

}  // namespace carrel::wire
