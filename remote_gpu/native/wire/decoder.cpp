#include "wire/decoder.hpp"

#include <cstring>

#include "cuda_calls.hpp"
#include "wire/reader.hpp"

namespace carrel::wire {

std::optional<CallView> decode_call(std::span<const std::byte> data, size_t* need) {
    CallView view;
    size_t head = sizeof(CallHeader);
    if (data.size() < head) {
        *need = head;
        return std::nullopt;
    }
    std::memcpy(&view.header, data.data(), sizeof(CallHeader));
    const CallHeader& header = view.header;
    const bool internal = header.call >= static_cast<uint16_t>(Internal::first) &&
                          header.call < static_cast<uint16_t>(Internal::last);
    if (header.call >= kCallCount && !internal) throw Malformed("a call has an unknown number");
    if (header.flags & ~kBulk) throw Malformed("a call has unknown flags");
    if (header.size > kMaxPayload) throw Malformed("a call is larger than 512 MiB");
    if (header.flags & kBulk) {
        head += sizeof(uint64_t);
        if (data.size() < head) {
            *need = head;
            return std::nullopt;
        }
        std::memcpy(&view.bulk, data.data() + sizeof(CallHeader), sizeof(uint64_t));
        if (view.bulk > kMaxBulk) throw Malformed("a copy is larger than 1 TiB");
    }
    view.consumed = head + header.size;
    if (data.size() < view.consumed) {
        *need = view.consumed;
        return std::nullopt;
    }
    view.payload = data.subspan(head, header.size);
    return view;
}

void check_frame(const FrameHeader& header) {
    if (header.kind < static_cast<uint16_t>(Frame::snapshot) ||
        header.kind > static_cast<uint16_t>(Frame::last)) {
        throw Malformed("a frame has an unknown kind");
    }
    if (header.size > kMaxPayload) throw Malformed("a frame is too large");
}

}  // namespace carrel::wire
