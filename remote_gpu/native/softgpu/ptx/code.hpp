// Decoded code: what the decoder writes and the executor runs. No names of instructions are left,
// only handlers, resolved operands and side tables.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "softgpu/ptx/syntax.hpp"

namespace carrel::softgpu::ptx {

struct Warp;
struct Inst;

/// Vectors of lanes are loaded whole: storage for them starts on a cache line.
template <class T>
struct CacheLineAllocator {
    using value_type = T;
    CacheLineAllocator() = default;
    template <class U>
    CacheLineAllocator(const CacheLineAllocator<U>&) {}
    T* allocate(std::size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
    }
    void deallocate(T* place, std::size_t) { ::operator delete(place, std::align_val_t{64}); }
    template <class U>
    bool operator==(const CacheLineAllocator<U>&) const {
        return true;
    }
};
using AlignedBytes = std::vector<std::byte, CacheLineAllocator<std::byte>>;

inline constexpr unsigned kLanes = 32;
inline constexpr std::uint32_t kAllLanes = 0xffffffffU;

/// Does one instruction for the lanes in `mask` (never empty). Throws Fault.
using Handler = void (*)(Warp&, const Inst&, std::uint32_t mask);

/// Where an operand lives: the two low bits of its encoding choose the base, the rest is the byte
/// offset of 32 lanes of values (of one 32-bit mask for predicates).
enum OperandBase : std::uint32_t { kFrame = 0, kPool = 1, kSpecial = 2 };
inline constexpr std::uint32_t kNoOperand = UINT32_MAX;

enum class Control : std::uint8_t {
    plain,      // run the handler, go on with the next instruction
    branch,     // target in aux
    flow,       // the handler changes the warp's fragments itself and the scheduler picks anew
    warp_sync,  // plain, once all lanes named by operand c (a membermask) have come
};

enum InstFlags : std::uint8_t {
    kNegateA = 1,  // predicate sources
    kNegateB = 2,
    kNegateC = 4,
    kAddress32 = 8,  // the address register has 32 bits
    kSpinHint = 16,  // may be part of a loop that waits for another thread
    kUserFlag = 32,  // free for the family
    kUserFlag2 = 64,
};

struct Inst {
    Handler run = nullptr;
    std::uint32_t d = kNoOperand, a = kNoOperand, b = kNoOperand, c = kNoOperand;
    std::uint32_t guard = kNoOperand;
    bool guard_negated = false;
    Control control = Control::plain;
    std::uint8_t count = 1;  // elements of a vector operand
    std::uint8_t flags = 0;
    std::uint32_t aux = 0;  // branch target, or index into `operands`, or the family's own
    std::uint32_t line = 0;
    std::int64_t imm = 0;
};

/// A place in a function's constant pool that holds an address known only after linking or binding.
struct PoolSymbol {
    enum class Kind : std::uint8_t { named, shared } kind = Kind::named;
    std::size_t offset = 0;    // in the pool; all 32 lanes are filled
    unsigned width = 8;        // bytes per lane
    std::string name;          // named: a global, constant or function
    std::uint32_t shared = 0;  // shared: index into ModuleImpl::shared
    std::int64_t addend = 0;
};

/// How one value travels between a caller and a callee.
struct Transfer {
    bool from_register = false;  // else parameter memory
    bool is_predicate = false;
    std::uint32_t place = 0;  // operand, or byte offset in the frame's parameter memory
    std::uint32_t bytes = 0;
};

struct CallSite {
    std::string callee;                   // empty: indirect
    std::uint32_t function = UINT32_MAX;  // index in the program once linked
    std::uint32_t pointer = kNoOperand;
    std::vector<Transfer> arguments;
    std::vector<Transfer> results;
    std::uint32_t line = 0;
};

struct FunctionCode {
    std::string name;
    bool is_entry = false;
    syntax::Linkage linkage = syntax::Linkage::internal;
    std::vector<Inst> code;
    AlignedBytes pool;
    std::vector<PoolSymbol> pool_symbols;
    std::vector<std::uint32_t> operands;  // side table of vector operands and branch tables
    std::vector<CallSite> calls;
    std::vector<Transfer>
        parameters;  // formal parameters; of entries: offsets in the parameter buffer
    std::vector<Transfer> results;
    std::vector<std::uint32_t> shared_uses;  // indices into ModuleImpl::shared
    std::uint32_t frame_bytes = 0;           // of registers, all lanes
    std::uint32_t param_bytes = 0;           // of parameter memory per lane
    std::uint32_t local_bytes = 0;           // of local memory per lane
    std::uint32_t registers = 0;             // estimate, 32-bit registers per thread
};

}  // namespace carrel::softgpu::ptx
