// The PTX engine of the software GPU: from PTX text to a grid that has run.
//
//   parse(text)            -> Module    one translation unit, checked and decoded
//   link({modules})        -> Program   symbols resolved; kernels and variables listed
//   program.bind(i, addr)               the caller allocates device memory for every variable …
//   program.image(i)                    … and copies its initial bytes there
//   program.run(kernel, launch, params, environment) -> RunResult
//
// The engine executes on the calling thread (and helpers it starts for the length of one run). It
// knows nothing of the CUDA driver API, contexts, streams or modules' lifetimes, and reaches memory
// only where the environment's page table says it is mapped: nothing a kernel does can touch the
// rest of the process.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "softgpu/page_table.hpp"

namespace carrel::softgpu::ptx {

/// What is wrong with a text, as ptxas would say it. Line 0: the whole module.
struct Diagnostic {
    unsigned line = 0;
    std::string message;
};

/// A value, or the reasons why there is none.
template <class T>
struct Result {
    std::optional<T> value;
    std::vector<Diagnostic> log;

    explicit operator bool() const { return value.has_value(); }
    T& operator*() { return *value; }
    T* operator->() { return &*value; }
};

/// The log in ptxas' words, one diagnostic a line: what cuModuleLoadDataEx hands to
/// CU_JIT_ERROR_LOG_BUFFER.
[[nodiscard]] std::string format_log(std::span<const Diagnostic> log);

/// One parameter of a kernel, in declaration order. Offsets count from the start of the parameter
/// buffer.
struct Parameter {
    std::string name;
    std::size_t size = 0;   // bytes
    std::size_t align = 1;  // bytes
    std::size_t offset = 0;
};

/// A `.entry`: what a driver needs to check a launch and to answer cuFuncGetAttribute.
struct Kernel {
    std::string name;
    std::vector<Parameter> parameters;
    std::size_t param_bytes = 0;          // size of the parameter buffer `run` expects
    std::size_t static_shared_bytes = 0;  // per block, of this kernel and all that it may call
    std::size_t local_bytes = 0;  // per thread, its own stack frame without those of callees
    unsigned max_threads = 1024;  // per block; less where .maxntid or .reqntid say so
    std::array<unsigned, 3> required_block{0, 0, 0};  // .reqntid; all zero: any
    unsigned min_blocks = 0;                          // .minnctapersm
    unsigned registers = 0;                           // 32-bit registers per thread, estimated
    unsigned ptx_version = 0;                         // 10 × version: 8.3 is 83
    unsigned target = 0;                              // 80 for sm_80
    bool cooperative = false;                         // uses grid-wide synchronisation
    std::uint32_t index = 0;                          // the engine's own
};

enum class Space : std::uint8_t { global, constant };

/// A `.global` or `.const` variable. The caller gives it `size` bytes at `align` and binds the
/// address.
struct Variable {
    std::string name;
    std::size_t size = 0;  // bytes; 0 only for an unsized extern array that no module defines
    std::size_t align = 1;
    Space space = Space::global;
    bool visible = false;      // found by name from outside (.visible, .weak, .common)
    bool initialised = false;  // false: all zero
    bool managed = false;      // the host uses it too
};

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct LaunchConfig {
    Dim3 grid;
    Dim3 block;
    std::size_t dynamic_shared_bytes = 0;
    bool cooperative =
        false;  // all blocks are resident at once and time-sliced; grid synchronisation works
};

enum class Status : std::uint8_t {
    ok,
    illegal_address,
    misaligned_address,
    trap,                 // trap, or an instruction that cannot go on
    assertion,            // __assertfail; message holds file, line, function and text
    illegal_instruction,  // an instruction, or the target of a call, that the engine does not know
    invalid,              // launch dimensions or parameters that do not fit the kernel
    stack_overflow,       // the thread's local memory is used up
    out_of_budget,        // instruction_budget used up
    aborted,              // environment.abort was set
};

struct RunResult {
    Status status = Status::ok;
    std::uint64_t address = 0;  // of the failing access
    std::string message;        // for people: kernel, line of PTX, block and thread, what happened
    std::uint64_t instructions =
        0;  // executed, counted per thread (an instruction of a full warp counts 32)
};

/// What a running grid may reach. Callbacks may be called from several threads, one at a time.
struct Environment {
    const PageTable& memory;
    unsigned multiprocessors = 8;
    unsigned compute_capability =
        80;                     // for messages only; every instruction the engine knows is run
    unsigned host_threads = 1;  // blocks run at once
    std::uint64_t grid_id = 1;
    std::size_t stack_bytes = std::size_t{64}
                              << 10;  // of local memory per thread (CU_LIMIT_STACK_SIZE or more)
    std::uint64_t instruction_budget = UINT64_MAX;  // counted per thread, checked now and then
    const std::atomic<bool>* abort = nullptr;       // looked at every few thousand instructions
    std::function<void(std::string_view)> print{};  // device printf
    std::function<std::uint64_t(std::uint64_t bytes)>
        allocate{};                                        // device malloc; 0: out of memory
    std::function<void(std::uint64_t address)> release{};  // device free
    /// 256 zeroed bytes of mapped device memory that belong to this launch; needed for CUDA C++'s
    /// grid.sync() (%envreg1/2).
    std::uint64_t cooperative_workspace = 0;
};

struct ModuleImpl;
struct ProgramImpl;

/// One parsed translation unit; cheap to copy (shared, immutable).
class Module {
  public:
    explicit Module(std::shared_ptr<const ModuleImpl> impl) : impl_(std::move(impl)) {}
    /// Names of functions and variables that this unit uses and some other must define.
    [[nodiscard]] std::vector<std::string> unresolved() const;
    [[nodiscard]] const ModuleImpl& impl() const { return *impl_; }

  private:
    std::shared_ptr<const ModuleImpl> impl_;
};

/// Linked code. Bind every variable before `image` and `run`; after that `run` may be called from
/// many threads at once.
class Program {
  public:
    explicit Program(std::shared_ptr<ProgramImpl> impl) : impl_(std::move(impl)) {}
    [[nodiscard]] std::span<const Kernel> kernels() const;
    [[nodiscard]] std::span<const Variable> variables() const;
    [[nodiscard]] const Kernel* find_kernel(std::string_view name) const;
    [[nodiscard]] std::optional<std::size_t> find_variable(std::string_view name) const;

    void bind(std::size_t variable, std::uint64_t address);
    /// The initial bytes of a variable (`size` of them), with addresses of other variables and of
    /// functions filled in.
    [[nodiscard]] std::vector<std::byte> image(std::size_t variable) const;
    /// What a function pointer to `name` holds; 0: no such function.
    [[nodiscard]] std::uint64_t function_address(std::string_view name) const;

    /// Runs a whole grid and returns when it has ended, well or not. `params` must hold
    /// kernel.param_bytes bytes.
    RunResult run(const Kernel& kernel, const LaunchConfig& launch,
                  std::span<const std::byte> params, const Environment& environment) const;

  private:
    std::shared_ptr<ProgramImpl> impl_;
};

/// Parses PTX text (a trailing NUL is allowed). Never throws on bad text.
[[nodiscard]] Result<Module> parse(std::string_view text);

/// Links units into one program: extern symbols are found in the others, or among the functions the
/// engine provides (vprintf, malloc, free, __assertfail, cudaCG…). Fails on symbols that nobody
/// defines or that two define.
[[nodiscard]] Result<Program> link(std::span<const Module> modules);

}  // namespace carrel::softgpu::ptx
