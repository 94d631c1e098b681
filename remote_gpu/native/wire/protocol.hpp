// The layouts of what client and worker say to each other. Part of the protocol hash: whatever
// changes here makes clients and workers of different builds refuse each other.
//
// Client to worker: calls, executed in order.
//     CallHeader, [u64 bulk bytes if kBulk], payload of `size` bytes, the bulk bytes
// Worker to client: frames.
//     FrameHeader, payload of `size` bytes
// All integers are little-endian, structs are sent as they lie in memory (x86-64 and AArch64
// agree).
#pragma once
#include <cstddef>
#include <cstdint>

namespace carrel::wire {

inline constexpr size_t kMaxPayload = size_t{512} << 20;  // of one call or frame, bulk not counted
inline constexpr size_t kInlineData = size_t{64}
                                      << 10;  // host data below this travels in the payload
inline constexpr uint64_t kMaxBulk = uint64_t{1} << 40;  // of one copy
inline constexpr uint64_t kPiece = uint64_t{16} << 20;  // larger copies to the device go in pieces,
                                                        // so that other calls find a place between
inline constexpr uint64_t kGranule = uint64_t{2}
                                     << 20;  // device memory is mapped in multiples of it
inline constexpr size_t kMaxParams = 32764;  // bytes of kernel parameters, CUDA's limit
inline constexpr uint32_t kMaxLaunchAttributes = 64;
inline constexpr uint32_t kMaxJitOptions = 256;
inline constexpr uint64_t kMaxJitLog = 1 << 20;

// How the code of a module travels: u8 ImageForm, then its SHA-256 and u64 its size unless it is
// `bytes`, then the bytes unless it is `named`. The answer to a name that the node does not know is
// kImageUnknown, and nothing is loaded.
enum class ImageForm : uint8_t { bytes, named, both };
inline constexpr int32_t kImageUnknown = 0x7FFF0001;     // no CUresult
inline constexpr size_t kNamedImage = size_t{16} << 10;  // smaller ones are sent at once

// Flags of a call.
inline constexpr uint16_t kBulk = 1;

struct CallHeader {
    uint16_t call;     // carrel::Call or wire::Internal
    uint16_t flags;    // kBulk
    uint32_t size;     // payload bytes
    uint32_t reply;    // 0: pipelined, no answer; otherwise the answer carries this number
    uint32_t context;  // name of the context that is current in the calling thread
};
static_assert(sizeof(CallHeader) == 16);

// Calls that are no function of the driver API.
enum class Internal : uint16_t {
    first = 0xF000,
    arena =
        first,  // u64 base, u64 bytes: reserve the address range; the reply says whether it is free
    grow,       // u64 address, u64 bytes: create and map memory
    unmap,      // u64 address, u64 bytes: give back what one grow mapped, once it is idle
    copy_in,    // u64 device address, u64 bytes, u64 stream; data in the payload or as bulk
    copy_out,   // u64 device address, u64 bytes, u64 stream; data frames, then the reply
    copy_shape,  // CUDA_MEMCPY3D, u64 stream; dense host data as bulk, or in data frames
    host_done,   // u64 ticket: the client has run the host function
    reset,       // destroy and renew the primary context
    library,     // a call of a CUDA library: see wire/library.hpp
    // Graphs. A node travels as u32 CUgraphNodeType, then
    //   kernel: u64 function, u32 grid[3], block[3], shared, parameter bytes, parameters
    //   memcpy: CUDA_MEMCPY3D between device addresses, u64 context
    //   memset: CUDA_MEMSET_NODE_PARAMS, u64 context
    //   host: u64 ticket; child graph: u64 graph; events: u64 event; empty: nothing
    graph_copy,   // u64 stream, u64 device address, u64 bytes, u64 ticket, u8 to the host: captured
    graph_data,   // u64 ticket: bulk data that a replay has asked for
    graph_names,  // u64 token, u64 names: of nodes that a list did not know
    // Memory that both sides touch (worker/mirrors.hpp).
    mirror_open,     // u64 device address, u64 bytes, u8 zero it: both sides now hold zeros there
    mirror_close,    // u64 device address
    mirror_write,    // u32 count, MirrorRuns, their data in the payload or (count 1) as bulk
    mirror_collect,  // data frames with what the device has changed, then u32 count, MirrorRuns
    last,
};

// A part of the memory that both sides touch.
struct MirrorRun {
    uint64_t address, bytes;
};
inline constexpr uint64_t kMirrorPage = 4096;  // what the device has changed is found by pages

enum class Frame : uint16_t {
    snapshot = 1,  // the first frame of a session
    reply,         // i32 CUresult, outputs
    error,      // u16 call, i32 CUresult: a pipelined call failed; of a library also u16 library,
                // i32 its status, text: the function
    host_call,  // u64 ticket, i32 CUresult of the stream: run the host function with that number;
                // CUDA_ERROR_NOT_FOUND: no graph has it any more
    host_data,  // u64 ticket, data: what a graph has copied to the host
    end,        // text: why the session ends
    output,     // u16 stream (1: stdout, 2: stderr), text: what the driver has printed
    data,       // the next bytes of a copy to the host; a reply with the same number ends it
    ping,       // nothing; a connection whose other end is closed answers with a reset
    last = ping,
};

struct FrameHeader {
    uint16_t kind;
    uint16_t reserved;
    uint32_t reply;
    uint64_t size;
};
static_assert(sizeof(FrameHeader) == 16);

// Stream names that mean the same on both sides.
inline constexpr uint64_t kDefaultStream = 0;
inline constexpr uint64_t kLegacyStream = 1;
inline constexpr uint64_t kPerThreadStream = 2;
inline constexpr uint32_t kPrimaryContext = 1;

}  // namespace carrel::wire
