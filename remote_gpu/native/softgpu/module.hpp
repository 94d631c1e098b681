// Loaded code: modules of a context, their functions, and libraries, which become a module in every
// context that uses them. The PTX itself is the engine's business.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cuda_abi.hpp"
#include "softgpu/context.hpp"
#include "softgpu/ptx/ptx.hpp"

namespace carrel::softgpu {

/// What a caller set for JIT compilation, and where it wants to read the log.
struct JitOptions {
    JitOptions() = default;
    JitOptions(unsigned count, const CUjit_option* options, void** values);
    /// Puts the text into the caller's buffer and its size into the caller's option.
    void info(std::string_view text) const;
    void error(std::string_view text) const;

    unsigned max_registers = 0;  // 0: any

  private:
    struct Log {
        char* buffer = nullptr;
        std::size_t bytes = 0;
        void** size_option = nullptr;
        void write(std::string_view text) const;
    };
    Log info_, error_;
};

/// What an image holds.
struct Image {
    std::vector<std::string> texts;  // PTX
    unsigned max_registers = 0;      // set when it was linked; 0: any
};
/// Takes an image apart (text, fatbin, or what cuLinkComplete made). Throws Failure; says why in
/// the log.
[[nodiscard]] Image read_image(const void* image, const JitOptions& options);
/// Parses the texts. Throws Failure(CUDA_ERROR_INVALID_PTX); says why in the log.
[[nodiscard]] std::vector<ptx::Module> parse_units(std::span<const std::string> texts,
                                                   const JitOptions& options);
/// One text that `read_image` takes apart again.
[[nodiscard]] std::string write_image(const Image& image);
[[nodiscard]] std::string read_file(const char* path);

struct Function;

/// Linked code whose variables lie in one context's memory.
class Module {
  public:
    /// Links the units and places variables. Throws Failure; says why in the log.
    Module(std::shared_ptr<Context> context, std::span<const ptx::Module> units,
           unsigned max_registers, const JitOptions& options);
    ~Module();
    Module(const Module&) = delete;
    Module& operator=(const Module&) = delete;

    [[nodiscard]] Context& context() const { return *context_; }
    [[nodiscard]] const ptx::Program& program() const { return program_; }
    [[nodiscard]] unsigned max_registers() const { return max_registers_; }
    [[nodiscard]] std::size_t constant_bytes() const { return constant_bytes_; }
    struct Global {
        CUdeviceptr address;
        std::size_t bytes;
        bool managed;
    };
    /// Throws Failure(CUDA_ERROR_NOT_FOUND).
    [[nodiscard]] Global global(std::string_view name) const;

    /// Its functions so far; the table of handles keeps them alive.
    std::mutex functions_mutex;
    std::map<std::string, std::weak_ptr<Function>, std::less<>> functions;

  private:
    static ptx::Program link_units(std::span<const ptx::Module> units, const JitOptions& options);

    const std::shared_ptr<Context> context_;
    ptx::Program program_;
    const unsigned max_registers_;
    std::size_t constant_bytes_ = 0;
    std::vector<std::uint64_t> addresses_;  // of the program's variables
    std::vector<std::uint64_t> blocks_;     // allocations behind them
};

/// A kernel of a module, with what was set for it.
struct Function {
    Function(std::shared_ptr<Module> owner, const ptx::Kernel& code);

    const std::shared_ptr<Module> module;
    const ptx::Kernel& kernel;
    std::atomic<int> max_dynamic_shared;  // bytes
    std::atomic<int> preferred_carveout{-1};

    [[nodiscard]] unsigned registers() const;
    /// Per block.
    [[nodiscard]] unsigned max_threads() const;
    /// CUDA_ERROR_INVALID_VALUE: no such attribute.
    [[nodiscard]] int attribute(CUfunction_attribute attribute) const;
    void set_attribute(CUfunction_attribute attribute, int value);
};

struct Kernel;

/// Code that belongs to no context.
struct Library {
    std::vector<ptx::Module> units;
    unsigned max_registers = 0;
    std::vector<std::string> kernel_names;
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<Kernel>, std::less<>> kernels;

    /// The library's module in `context`, loaded at the first use.
    [[nodiscard]] std::shared_ptr<Module> module_in(Context& context);
};

/// A kernel of a library: a function in every context.
struct Kernel {
    std::weak_ptr<Library> library;
    std::string name;
    std::mutex mutex;
    std::map<const Module*, std::weak_ptr<Function>> functions;
    std::map<CUfunction_attribute, int> attributes;  // set before a function existed

    /// Throws Failure(CUDA_ERROR_INVALID_HANDLE) when the library is gone.
    [[nodiscard]] std::shared_ptr<Function> function_in(Context& context);
};

/// The function behind a CUfunction, or behind a CUkernel passed as one, in the current context.
[[nodiscard]] std::shared_ptr<Function> find_function(CUfunction handle, Context& context);
/// The one function object (and handle) of a module's kernel.
[[nodiscard]] std::shared_ptr<Function> function_of(const std::shared_ptr<Module>& module,
                                                    std::string_view name);

}  // namespace carrel::softgpu
