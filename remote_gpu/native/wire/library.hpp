// How the calls of CUDA's libraries (cuBLAS, cuDNN, ...) travel: rows that client and worker
// interpret alike, made from api/libraries by codegen/library_cpp.py.
//
// A call's payload: u16 library, u16 function, then the arguments in two rounds. First all that is
// a word: values (as many bytes as they have), u32 names of handles, u64 names of streams, u64
// device addresses, structs by value. Then what lies in memory, each u8 Place and what follows:
// data, an address, or nothing; from the last
// to the first, so that a size may depend on the memory of a later argument. The answer: i32
// CUresult, u64 result, then the bytes of every output, in order.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace carrel::library {

// Functions that are no function of a library.
inline constexpr uint16_t kOpen = 0xFFFF;  // u32 CUDA major; answer: u8 per function: it is there

inline constexpr size_t kMaxArguments = 48;
inline constexpr size_t kMaxMemory = size_t{64} << 20;  // bytes of one argument
inline constexpr size_t kMaxScratch = size_t{1} << 30;  // and of one that does not travel

enum class Kind : uint8_t {
    value,       // a number, or a struct by value
    handle,      // of the library, named by the client
    mint,        // pointer to a new handle
    box,         // the program's memory, which will hold a new handle
    gone,        // a handle that ends with the call
    stream,      // a CUstream
    stream_out,  // pointer to the stream of the first handle
    device,      // an address in device memory
    string,
    null,      // must be null
    in,        // host memory that the library reads
    out,       // host memory that it writes
    inout,     // both
    scalar,    // read, in host or device memory
    result,    // written, in host or device memory
    inresult,  // both, in host or device memory
    scratch,   // host memory of no interest to the program
    ignored,   // the library gets null
};

// What memory holds, in elements of 8 bytes for all but data.
enum class Holds : uint8_t {
    data,
    handles,   // of this library, never written
    pointers,  // u64 address; if it is not device memory, u8 1 and the kValue bytes that lie there
    streams,   // their names
};
inline constexpr size_t kValue = 8;

enum class Place : uint8_t { none, host, device };

inline bool reads(Kind kind) {
    return kind == Kind::in || kind == Kind::inout || kind == Kind::scalar ||
           kind == Kind::inresult || kind == Kind::string;
}
inline bool writes(Kind kind) {
    return kind == Kind::out || kind == Kind::inout || kind == Kind::result ||
           kind == Kind::inresult;
}
inline bool either_place(Kind kind) {
    return kind == Kind::scalar || kind == Kind::result || kind == Kind::inresult;
}
inline bool in_memory(Kind kind) {
    return reads(kind) || writes(kind) || kind == Kind::scratch;
}

inline size_t most(Kind kind) {
    return kind == Kind::scratch ? kMaxScratch : kMaxMemory;
}

struct ParameterRow {
    Kind kind;
    uint8_t handle;  // number of its handle type in the library, from 1
    uint16_t width;  // bytes, of a value
    uint16_t size;   // what measures its memory
    uint16_t holds;  // measures to what lies there: see Holds
};

// Flags of a function.
inline constexpr uint16_t kForwarded = 1;
inline constexpr uint16_t kBlocks = 2;  // may wait for the GPU
inline constexpr uint16_t kStatus = 4;  // returns the library's status
inline constexpr uint16_t kNotes = 8;
inline constexpr uint16_t kRequires = 16;
inline constexpr uint16_t kSetsStream = 32;
inline constexpr uint16_t kTells = 64;  // changes what is answered of its first handle
inline constexpr uint16_t kMemo = 128;  // the same question always has the same answer

struct FunctionRow {
    const char* name;
    uint16_t first;  // its parameters
    uint16_t count;
    uint16_t flags;
    uint16_t shape;    // how the machine passes its arguments
    uint16_t wait;     // condition: wait, even though there is no output
    uint16_t note;     // what is remembered with the handle
    uint16_t require;  // condition: otherwise not supported
};

struct HandleRow {
    uint32_t box;  // bytes of the struct in the program's memory, 0 for a pointer
    bool integer;  // the program holds a number
    bool kept;     // a descriptor: made in the worker when it is used, and kept there for others
    uint32_t foreign;  // the kind of another library's handle, 0 for its own
};

struct Soname {
    uint32_t major;  // CUDA's
    const char* name;
};

struct LibraryRow {
    uint16_t number;
    const char* name;
    const FunctionRow* functions;
    uint16_t count;
    const ParameterRow* parameters;
    const HandleRow* handles;
    uint16_t handle_count;
    const Soname* sonames;
    uint16_t soname_count;
    int64_t (*measure_expression)(uint16_t, const uint64_t* arguments, const uint32_t* notes);
    // What its functions return.
    int not_supported;
    int unavailable;
    int failed;
    int invalid;
    bool pointer_mode;  // the first handle's note says where scalars are: 0 host, 1 device

    // An expression of a row: small numbers stand for themselves.
    int64_t measure(uint16_t which, const uint64_t* arguments, const uint32_t* notes) const {
        return which < 0x8000 ? which : measure_expression(which & 0x7FFF, arguments, notes);
    }
    const char* soname(uint32_t major) const {
        for (uint16_t i = 0; i < soname_count; ++i)
            if (sonames[i].major == major) return sonames[i].name;
        return sonames[soname_count - 1].name;
    }
    // The kind of a handle in the client's table of names; 0 is none.
    uint32_t kind(uint8_t handle) const {
        const uint32_t foreign = handle < handle_count ? handles[handle].foreign : 0;
        return foreign ? foreign : (uint32_t{number} + 1) << 8 | handle;
    }
};

// A struct as it is passed by value.
template <size_t N>
struct Bytes {
    std::byte data[N];
};

template <class T>
uint64_t word(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T>
T unword(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// ---- for expressions ----------------------------------------------------------------------------

inline constexpr int64_t keep = int64_t{1} << 40;  // the note stays as it is

template <class T>
int64_t read_as(uint64_t address) {
    T value{};
    if (address) std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
    return static_cast<int64_t>(value);
}
inline int64_t u32(uint64_t address) {
    return read_as<uint32_t>(address);
}
inline int64_t i32(uint64_t address) {
    return read_as<int32_t>(address);
}
inline int64_t i64(uint64_t address) {
    return read_as<int64_t>(address);
}
inline int64_t sum32(uint64_t address, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; address && i < count; ++i)
        sum += i32(address + static_cast<uint64_t>(i) * sizeof(int32_t));
    return sum;
}
inline int64_t min(int64_t a, int64_t b) {
    return std::min(a, b);
}
inline int64_t max(int64_t a, int64_t b) {
    return std::max(a, b);
}

// Elements from the first to the last of `count` with a distance of `increment`.
inline int64_t gaps(int64_t count, int64_t increment) {
    return count <= 0 ? 0 : (count - 1) * (increment < 0 ? -increment : increment) + 1;
}

// Bytes of a cudaDataType; 16, the largest, for those unknown. Those below a byte take one.
inline int64_t size(int64_t type) {
    switch (type) {
        case 2:   // R_16F
        case 14:  // R_16BF
        case 20:  // R_16I
        case 22:  // R_16U
        case 7:   // C_8I
        case 9:   // C_8U
            return 2;
        case 0:   // R_32F
        case 10:  // R_32I
        case 12:  // R_32U
        case 6:   // C_16F
        case 15:  // C_16BF
        case 21:  // C_16I
        case 23:  // C_16U
            return 4;
        case 1:   // R_64F
        case 4:   // C_32F
        case 11:  // C_32I
        case 13:  // C_32U
        case 24:  // R_64I
        case 26:  // R_64U
            return 8;
        case 3:   // R_8I
        case 8:   // R_8U
        case 16:  // R_4I
        case 17:  // C_4I
        case 18:  // R_4U
        case 19:  // C_4U
        case 28:  // R_8F_E4M3
        case 29:  // R_8F_E5M2
        case 30:  // R_8F_UE8M0
        case 31:  // R_6F_E2M3
        case 32:  // R_6F_E3M2
        case 33:  // R_4F_E2M1
            return 1;
        default:  // C_64F and those to come
            return 16;
    }
}

// Bytes of cuBLAS' alpha and beta, by its compute type and the type of C.
inline int64_t scale(int64_t compute, int64_t type) {
    const bool complex = type == 4 || type == 5 || type == 6 || type == 7 || type == 15;
    switch (compute) {
        case 64:  // 16F
        case 65:
            return complex ? 4 : 2;
        case 70:  // 64F
        case 71:
        case 79:  // 64F_EMULATED_FIXEDPOINT
            return complex ? 16 : 8;
        case 72:  // 32I
        case 73:
            return 4;
        default:  // 32F and what it is emulated with
            return complex ? 8 : 4;
    }
}

// Bytes of cuDNN's alpha and beta, by the note of a tensor: double for double, float otherwise.
inline int64_t scalar_of(int64_t note) {
    return (note & 0xFF) == 1 ? 8 : 4;
}

// Bytes of an element of a cudnnBackendAttributeType_t.
inline int64_t attribute_element(int64_t type) {
    switch (type) {
        case 0:   // HANDLE
        case 3:   // INT64
        case 5:   // DOUBLE
        case 6:   // VOID_PTR
        case 15:  // BACKEND_DESCRIPTOR
            return 8;
        case 2:   // BOOLEAN
        case 24:  // CHAR
            return 1;
        case 26:  // FRACTION
            return 16;
        default:  // FLOAT, INT32 and the enums
            return 4;
    }
}

}  // namespace carrel::library
