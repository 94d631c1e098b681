// A device for the PTX engine's tests: 64 MiB of mapped memory and one call that parses, links,
// binds and runs.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "softgpu/ptx/ptx.hpp"

namespace carrel::softgpu::ptx::test {

class Device {
  public:
    Device() {
        void* space = ::mmap(nullptr, kBytes + PageTable::kGranuleBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == MAP_FAILED) throw std::bad_alloc();
        start_ = (reinterpret_cast<std::uint64_t>(space) + PageTable::kGranuleBytes - 1) /
                 PageTable::kGranuleBytes * PageTable::kGranuleBytes;
        table_.map(start_, kBytes);
    }

    /// Memory that stays until `reset`.
    std::uint64_t allocate(std::size_t bytes) {
        used_ = (used_ + 255) / 256 * 256;
        const std::uint64_t address = start_ + used_;
        used_ += bytes;
        if (used_ > kBytes) throw std::bad_alloc();
        return address;
    }
    void reset() { used_ = 0; }

    template <class T>
    std::uint64_t put(const std::vector<T>& values) {
        const std::uint64_t address = allocate(values.size() * sizeof(T));
        std::memcpy(reinterpret_cast<void*>(address), values.data(), values.size() * sizeof(T));
        return address;
    }
    template <class T>
    std::vector<T> get(std::uint64_t address, std::size_t count) {
        std::vector<T> values(count);
        std::memcpy(values.data(), reinterpret_cast<void*>(address), count * sizeof(T));
        return values;
    }

    Program load(std::span<const std::string> texts) {
        std::vector<Module> modules;
        for (const std::string& text : texts) {
            Result<Module> module = parse(text);
            if (!module) throw std::runtime_error(format_log(module.log));
            modules.push_back(*module);
        }
        Result<Program> program = link(modules);
        if (!program) throw std::runtime_error(format_log(program.log));
        std::vector<std::uint64_t> places;
        for (std::size_t i = 0; i < program->variables().size(); ++i) {
            places.push_back(allocate(program->variables()[i].size));
            program->bind(i, places.back());
        }
        for (std::size_t i = 0; i < places.size(); ++i) {
            const std::vector<std::byte> image = program->image(i);
            std::memcpy(reinterpret_cast<void*>(places[i]), image.data(), image.size());
        }
        return *program;
    }
    Program load(const std::string& text) { return load(std::vector<std::string>{text}); }

    RunResult run(const Program& program, const LaunchConfig& launch,
                  const std::vector<std::uint64_t>& arguments, std::string_view kernel = {}) {
        const Kernel* found = kernel.empty() ? &program.kernels()[0] : program.find_kernel(kernel);
        if (found == nullptr) throw std::runtime_error("no such kernel");
        std::vector<std::byte> params(found->param_bytes);
        for (std::size_t i = 0; i < arguments.size() && i < found->parameters.size(); ++i)
            std::memcpy(params.data() + found->parameters[i].offset, &arguments[i],
                        std::min<std::size_t>(found->parameters[i].size, 8));
        Environment environment{table_};
        environment.host_threads = host_threads;
        environment.instruction_budget = budget;
        environment.abort = abort;
        environment.print = [this](std::string_view text) { printed += text; };
        environment.allocate = [this](std::uint64_t bytes) { return allocate(bytes); };
        environment.release = [this](std::uint64_t) { ++released; };
        environment.cooperative_workspace = allocate(256);
        std::memset(reinterpret_cast<void*>(environment.cooperative_workspace), 0, 256);
        return program.run(*found, launch, params, environment);
    }

    /// Parses and runs a text with one kernel; throws where that does not end well.
    RunResult run(const std::string& text, const LaunchConfig& launch,
                  const std::vector<std::uint64_t>& arguments) {
        const RunResult result = run(load(text), launch, arguments);
        if (result.status != Status::ok) throw std::runtime_error(result.message);
        return result;
    }

    PageTable& table() { return table_; }

    unsigned host_threads = 1;
    std::uint64_t budget = UINT64_MAX;
    const std::atomic<bool>* abort = nullptr;
    std::string printed;
    unsigned released = 0;

  private:
    static constexpr std::size_t kBytes = std::size_t{64} << 20;
    PageTable table_;
    std::uint64_t start_ = 0;
    std::size_t used_ = 0;
};

inline const std::string kHeader = ".version 8.3\n.target sm_80\n.address_size 64\n";

inline LaunchConfig threads(unsigned block, unsigned grid = 1) {
    LaunchConfig launch;
    launch.block.x = block;
    launch.grid.x = grid;
    return launch;
}

/// A kernel `k(u64 p0, u64 p1, …)` whose pointers stand in %p0, %p1, … and the global thread number
/// in %i (%i64).
inline std::string kernel(unsigned parameters, const std::string& body,
                          const std::string& before = {}) {
    std::string text = kHeader + before + "\n.visible .entry k(";
    for (unsigned i = 0; i < parameters; ++i)
        text += std::string(i == 0 ? "" : ", ") + ".param .u64 k_" + std::to_string(i);
    text +=
        ")\n{\n.reg .b64 %p<9>, %i64, %x<20>;\n.reg .b32 %i, %n, %b, %r<20>;\n"
        ".reg .b16 %h<20>;\n.reg .pred %q<10>;\n.reg .f32 %f<20>;\n.reg .f64 %d<20>;\n";
    for (unsigned i = 0; i < parameters; ++i)
        text += "ld.param.u64 %p" + std::to_string(i) + ", [k_" + std::to_string(i) + "];\n";
    text +=
        "mov.u32 %i, %tid.x;\nmov.u32 %n, %ntid.x;\nmov.u32 %b, %ctaid.x;\n"
        "mad.lo.u32 %i, %b, %n, %i;\ncvt.u64.u32 %i64, %i;\n";
    return text + body + "\nret;\n}\n";
}

}  // namespace carrel::softgpu::ptx::test
