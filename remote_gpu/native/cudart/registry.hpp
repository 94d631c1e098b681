// What compiled objects register when they are loaded: fatbins, and the host symbols that stand for
// kernels and variables in them. Nothing is loaded before a kernel or variable of a fatbin is used.
#pragma once
#include <deque>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "cudart/runtime.hpp"

namespace carrel::cudart {

class Registry {
  public:
    // One registered fatbin. Its address is the handle that compiled objects keep.
    struct Module {
        const void* image = nullptr;
        std::mutex mutex;
        CUlibrary library = nullptr;
    };

    Module* add(const void* wrapper);
    void remove(Module* module);
    void add_kernel(Module* module, const void* host, const char* name);
    void add_variable(Module* module, const void* host, const char* name, size_t size);
    // A __managed__ one: the program reads it through the pointer at `host`.
    void add_managed(Module* module, void** host, const char* name, size_t size);
    // Sets those pointers.
    CUresult bind_managed(Module* module);

    // The kernel behind a host symbol, loaded on first use. What is no known symbol is taken for a
    // kernel's handle, which the driver then checks.
    CUresult kernel(const void* host, CUkernel* out);
    CUresult variable(const void* host, CUdeviceptr* address, size_t* size);
    // The host symbol of a kernel that was loaded for one; the kernel's handle if there is none.
    const void* symbol(CUkernel kernel);
    // The device's name of a kernel's symbol; null for anything else.
    const char* name(const void* host);

  private:
    struct Kernel {
        Module* module;
        const char* name;
        CUkernel handle = nullptr;
    };
    struct Variable {
        Module* module;
        const char* name;
        size_t size;
        bool managed = false;
    };
    CUresult load(Module* module, CUlibrary* out);

    std::shared_mutex mutex_;
    std::unordered_map<Module*, std::unique_ptr<Module>> modules_;
    std::unordered_map<const void*, Kernel> kernels_;
    std::unordered_map<const void*, Variable> variables_;
};

Registry& registry();

}  // namespace carrel::cudart
