#include "worker/outbox.hpp"

#include "wire/log.hpp"

namespace carrel::worker {

void Outbox::send(wire::Frame kind, uint32_t reply, std::span<const std::byte> body) {
    if (kind == wire::Frame::reply || kind == wire::Frame::error) forward_output();
    const wire::FrameHeader header{static_cast<uint16_t>(kind), 0, reply, body.size()};
    const iovec parts[2] = {{const_cast<wire::FrameHeader*>(&header), sizeof header},
                            {const_cast<std::byte*>(body.data()), body.size()}};
    const std::lock_guard lock(mutex_);
    if (kind == wire::Frame::reply) told_ = false;
    channel_.send(
        std::span(parts, body.empty() ? 1 : 2));  // a broken socket shows at the next read
    bytes_.fetch_add(sizeof header + body.size(), std::memory_order_relaxed);
}

void Outbox::fail(Call call, CUresult error) {
    CARREL_DEBUG("%s failed: %d", call_name(call), static_cast<int>(error));
    if (told_.exchange(true)) return;
    wire::Writer body;
    body.put(static_cast<uint16_t>(call));
    body.put(static_cast<int32_t>(error));
    send(wire::Frame::error, 0, {body.data(), body.size()});
}

void Outbox::fail(uint16_t library, int status, const char* function) {
    CARREL_DEBUG("%s failed: %d", function, status);
    if (told_.exchange(true)) return;
    wire::Writer body;
    body.put(static_cast<uint16_t>(wire::Internal::library));
    body.put(static_cast<int32_t>(CUDA_ERROR_UNKNOWN));
    body.put(library);
    body.put(static_cast<int32_t>(status));
    body.text(function);
    send(wire::Frame::error, 0, {body.data(), body.size()});
}

void Outbox::host_call(uint64_t ticket, CUresult result) {
    wire::Writer body;
    body.put(ticket);
    body.put(static_cast<int32_t>(result));
    send(wire::Frame::host_call, 0, {body.data(), body.size()});
}

void Outbox::host_data(uint64_t ticket, std::span<const std::byte> data) {
    const wire::FrameHeader header{static_cast<uint16_t>(wire::Frame::host_data), 0, 0,
                                   sizeof ticket + data.size()};
    const iovec parts[3] = {{const_cast<wire::FrameHeader*>(&header), sizeof header},
                            {&ticket, sizeof ticket},
                            {const_cast<std::byte*>(data.data()), data.size()}};
    const std::lock_guard lock(mutex_);
    channel_.send(std::span(parts, 3));
    bytes_.fetch_add(sizeof header + header.size, std::memory_order_relaxed);
}

void Outbox::end(std::string_view reason) {
    wire::Writer body;
    body.text(reason);
    send(wire::Frame::end, 0, {body.data(), body.size()});
}

void Outbox::forward_output() {
    if (!console_) return;
    console_->take([&](int stream, std::string_view text) {
        wire::Writer body;
        body.put(static_cast<uint16_t>(stream));
        body.text(text);
        send(wire::Frame::output, 0, {body.data(), body.size()});
    });
}

void Outbox::ping() {
    if (channel_.transport().probe()) return;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || !channel_.transport().writable()) return;
    const wire::FrameHeader header{static_cast<uint16_t>(wire::Frame::ping), 0, 0, 0};
    channel_.send(&header, sizeof header);
}

}  // namespace carrel::worker
