// Cuts the client's byte stream into calls. It does no input or output, so that it can be fuzzed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "wire/protocol.hpp"

namespace carrel::wire {

struct CallView {
    CallHeader header;
    uint64_t bulk = 0;  // bytes that follow the call in the stream
    std::span<const std::byte> payload;
    size_t consumed = 0;  // bytes of the stream up to the end of the payload
};

// The next call at the front of `data`; nothing when more bytes are needed, then `*need` says how
// many the call has in all as far as is known. Throws Malformed.
std::optional<CallView> decode_call(std::span<const std::byte> data, size_t* need);

// Checks the header of a frame from the worker. Throws Malformed.
void check_frame(const FrameHeader& header);

}  // namespace carrel::wire
