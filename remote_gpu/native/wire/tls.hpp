// TLS 1.3 over a connected socket, with an external pre-shared key instead of certificates: both
// ends have derived it from the lease key and their nonces (wire/handshake.hpp), so that the worker
// never holds the lease key and no two connections share one. Ephemeral keys are exchanged as well.
#pragma once
#include <memory>
#include <mutex>

#include "wire/openssl.hpp"
#include "wire/sha256.hpp"
#include "wire/socket.hpp"

namespace carrel::wire {

class Tls : public Transport {
  public:
    // The handshake, within `limit`. Takes the descriptor over. Throws std::runtime_error.
    static std::unique_ptr<Tls> connect(int fd, const Hash& key, std::chrono::milliseconds limit);
    static std::unique_ptr<Tls> accept(int fd, const Hash& key, std::chrono::milliseconds limit);
    ~Tls() override;

    int send(std::span<iovec> parts, size_t* sent) override;
    ssize_t receive(void* to, size_t size, bool all) override;
    bool readable(std::chrono::milliseconds wait) override;
    bool writable() override { return socket_.writable(); }
    bool peer_gone() override { return socket_.peer_gone(); }
    bool hung_up() override { return socket_.hung_up(); }
    void shutdown() override { socket_.shutdown(); }
    void end_sending() override;
    void end_receiving() override { socket_.end_receiving(); }
    void linger(std::chrono::milliseconds limit) override { socket_.linger(limit); }
    void abandon() override { socket_.abandon(); }

  private:
    Tls(int fd, const OpenSsl& ssl, const Hash& key);
    void handshake(bool client, std::chrono::milliseconds limit);
    // Waits for what the last result asked for; an errno when it was no such thing.
    int wait(int reason);

    Socket socket_;
    const OpenSsl& openssl_;
    Hash key_;
    std::mutex mutex_;  // of ssl_, which is not made for two threads; never held while waiting
    void* context_ = nullptr;
    void* ssl_ = nullptr;
};

}  // namespace carrel::wire
