#include "wire/tls.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <stdexcept>

namespace carrel::wire {

namespace {

// Of OpenSSL's headers, which keep these for good.
constexpr int kSetMinVersion = 123, kSetMaxVersion = 124, kSetMode = 33;
constexpr int kTls13 = 0x0304;
constexpr long kPartialWrite = 1, kMovingWriteBuffer = 2;
constexpr int kWantRead = 2, kWantWrite = 3, kErrorSyscall = 5, kZeroReturn = 6;
constexpr unsigned char kAes128GcmSha256[2] = {0x13, 0x01};
constexpr char kIdentity[] = "carrel";
constexpr size_t kRecord = size_t{16} << 10;
constexpr int kLookMs = 5000;

struct Asked {
    const OpenSsl* openssl;
    const Hash* key;
};

// A session that stands for the key, as OpenSSL wants external keys.
void* session_of(void* ssl, const Asked& asked) {
    const OpenSsl& o = *asked.openssl;
    void* const session = o.SSL_SESSION_new();
    const void* const cipher = o.SSL_CIPHER_find(ssl, kAes128GcmSha256);
    if (session && cipher &&
        o.SSL_SESSION_set1_master_key(session, asked.key->data(), asked.key->size()) &&
        o.SSL_SESSION_set_cipher(session, cipher) &&
        o.SSL_SESSION_set_protocol_version(session, kTls13)) {
        return session;
    }
    if (session) o.SSL_SESSION_free(session);
    return nullptr;
}

// The callbacks are given nothing but the SSL, and every SSL here is ours.
thread_local const Asked* in_handshake = nullptr;

int use_psk(void* ssl, const void*, const unsigned char** id, size_t* size, void** session) {
    *id = reinterpret_cast<const unsigned char*>(kIdentity);
    *size = sizeof kIdentity - 1;
    *session = in_handshake ? session_of(ssl, *in_handshake) : nullptr;
    return *session != nullptr;
}

int find_psk(void* ssl, const unsigned char* id, size_t size, void** session) {
    *session = nullptr;
    if (size != sizeof kIdentity - 1 || std::memcmp(id, kIdentity, size) != 0) return 1;
    if (in_handshake) *session = session_of(ssl, *in_handshake);
    return 1;
}

// OpenSSL writes to the socket without MSG_NOSIGNAL: a SIGPIPE must not reach the program.
class NoPipeSignal {
  public:
    NoPipeSignal() {
        sigemptyset(&pipe_);
        sigaddset(&pipe_, SIGPIPE);
        sigset_t pending;
        sigpending(&pending);
        was_pending_ = sigismember(&pending, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    }
    NoPipeSignal(const NoPipeSignal&) = delete;
    NoPipeSignal& operator=(const NoPipeSignal&) = delete;
    ~NoPipeSignal() {
        const int error = errno;
        const timespec now{0, 0};
        sigset_t pending;
        sigpending(&pending);
        if (!was_pending_ && sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe_, nullptr, &now);
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

  private:
    sigset_t pipe_, before_;
    bool was_pending_;
};

}  // namespace

std::unique_ptr<Tls> Tls::connect(int fd, const Hash& key, std::chrono::milliseconds limit) {
    Socket guard(fd);
    std::string why;
    const OpenSsl* const openssl = OpenSsl::load(&why);
    if (!openssl) throw std::runtime_error(why);
    std::unique_ptr<Tls> tls(new Tls(guard.release(), *openssl, key));
    tls->handshake(true, limit);
    return tls;
}

std::unique_ptr<Tls> Tls::accept(int fd, const Hash& key, std::chrono::milliseconds limit) {
    Socket guard(fd);
    std::string why;
    const OpenSsl* const openssl = OpenSsl::load(&why);
    if (!openssl) throw std::runtime_error(why);
    std::unique_ptr<Tls> tls(new Tls(guard.release(), *openssl, key));
    tls->handshake(false, limit);
    return tls;
}

Tls::Tls(int fd, const OpenSsl& openssl, const Hash& key)
    : socket_(fd), openssl_(openssl), key_(key) {
    const OpenSsl& o = openssl_;
    context_ = o.SSL_CTX_new(o.TLS_method());
    if (!context_) throw std::runtime_error("TLS: no context");
    o.SSL_CTX_ctrl(context_, kSetMinVersion, kTls13, nullptr);
    o.SSL_CTX_ctrl(context_, kSetMaxVersion, kTls13, nullptr);
    o.SSL_CTX_ctrl(context_, kSetMode, kPartialWrite | kMovingWriteBuffer, nullptr);
    o.SSL_CTX_set_num_tickets(context_, 0);
    o.SSL_CTX_set_psk_use_session_callback(context_, use_psk);
    o.SSL_CTX_set_psk_find_session_callback(context_, find_psk);
    if (!o.SSL_CTX_set_ciphersuites(context_, "TLS_AES_128_GCM_SHA256") ||
        !(ssl_ = o.SSL_new(context_)) || !o.SSL_set_fd(ssl_, fd)) {
        o.SSL_CTX_free(context_);
        throw std::runtime_error("TLS: cannot be set up");
    }
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

Tls::~Tls() {
    openssl_.SSL_free(ssl_);
    openssl_.SSL_CTX_free(context_);
    std::fill(key_.begin(), key_.end(), uint8_t{0});
}

void Tls::handshake(bool client, std::chrono::milliseconds limit) {
    const auto until = std::chrono::steady_clock::now() + limit;
    const Asked asked{&openssl_, &key_};
    const NoPipeSignal quiet;
    in_handshake = &asked;
    std::string failed;
    for (;;) {
        openssl_.ERR_clear_error();
        const int done = client ? openssl_.SSL_connect(ssl_) : openssl_.SSL_accept(ssl_);
        if (done == 1) break;
        const int reason = openssl_.SSL_get_error(ssl_, done);
        if (reason != kWantRead && reason != kWantWrite) {
            failed = "the TLS handshake failed: the other end has another key, or is not Carrel's";
            break;
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            until - std::chrono::steady_clock::now());
        pollfd waiting{socket_.fd(), static_cast<short>(reason == kWantRead ? POLLIN : POLLOUT), 0};
        if (left.count() <= 0 || ::poll(&waiting, 1, static_cast<int>(left.count())) == 0) {
            failed = "the TLS handshake was not finished in time";
            break;
        }
    }
    in_handshake = nullptr;
    // Without a certificate there is no other way in than the key; say so rather than trust so.
    if (failed.empty() && !openssl_.SSL_session_reused(ssl_)) failed = "TLS without the key";
    if (!failed.empty()) throw std::runtime_error(failed);
}

int Tls::wait(int reason) {
    if (reason == kZeroReturn) return EPIPE;
    if (reason != kWantRead && reason != kWantWrite) {
        return reason == kErrorSyscall && errno ? errno : ECONNRESET;
    }
    pollfd waiting{socket_.fd(), static_cast<short>(reason == kWantRead ? POLLIN : POLLOUT), 0};
    const int ready = ::poll(&waiting, 1, kLookMs);
    if (ready < 0 && errno != EINTR) return errno;
    return ready == 0 && socket_.silent() ? ETIMEDOUT : 0;
}

int Tls::send(std::span<iovec> parts, size_t* sent) {
    *sent = 0;
    // Small parts share a record: each costs a header, a tag and a system call.
    char record[kRecord];
    while (!(parts = after_bytes(parts, 0)).empty()) {
        const void* from = parts.front().iov_base;
        size_t size = std::min(parts.front().iov_len, size_t{1} << 20);
        if (size < kRecord) {
            size = 0;
            for (const iovec& part : parts) {
                const size_t n = std::min(part.iov_len, kRecord - size);
                std::memcpy(record + size, part.iov_base, n);
                size += n;
                if (n < part.iov_len || size == kRecord) break;
            }
            from = record;
        }
        for (;;) {
            int n = 0, reason = 0;
            {
                const NoPipeSignal quiet;
                const std::lock_guard lock(mutex_);
                openssl_.ERR_clear_error();
                errno = 0;
                n = openssl_.SSL_write(ssl_, from, static_cast<int>(size));
                if (n <= 0) reason = openssl_.SSL_get_error(ssl_, n);
            }
            if (n > 0) {
                *sent += static_cast<size_t>(n);
                parts = after_bytes(parts, static_cast<size_t>(n));
                break;
            }
            if (const int error = wait(reason)) return error;
        }
    }
    return 0;
}

ssize_t Tls::receive(void* to, size_t size, bool all) {
    size_t done = 0;
    while (done < size) {
        int n = 0, reason = 0;
        {
            const NoPipeSignal quiet;
            const std::lock_guard lock(mutex_);
            openssl_.ERR_clear_error();
            errno = 0;
            n = openssl_.SSL_read(ssl_, static_cast<char*>(to) + done,
                                  static_cast<int>(std::min(size - done, size_t{1} << 30)));
            if (n <= 0) reason = openssl_.SSL_get_error(ssl_, n);
        }
        if (n > 0) {
            done += static_cast<size_t>(n);
            continue;
        }
        if (done && !(all && reason == kWantRead)) break;
        if (reason == kZeroReturn) return 0;
        if (const int error = wait(reason)) return done ? static_cast<ssize_t>(done) : -error;
    }
    return static_cast<ssize_t>(done);
}

bool Tls::readable(std::chrono::milliseconds wait) {
    {
        const std::lock_guard lock(mutex_);
        if (openssl_.SSL_pending(ssl_) > 0) return true;
    }
    return socket_.readable(wait);
}

void Tls::end_sending() {
    {
        const NoPipeSignal quiet;
        const std::lock_guard lock(mutex_);
        openssl_.ERR_clear_error();
        openssl_.SSL_shutdown(ssl_);
    }
    socket_.end_sending();
}

}  // namespace carrel::wire
