// One call of a library on its way through the worker.
#pragma once
#include <memory>
#include <vector>

#include "wire/library.hpp"
#include "wire/reader.hpp"
#include "worker/libraries/libraries.hpp"

namespace carrel::worker {

class LibraryCall {
  public:
    LibraryCall(Libraries& libraries, const LoadedLibrary& library, uint16_t number)
        : libraries_(libraries),
          library_(library),
          lib_(library.row()),
          number_(number),
          row_(lib_.functions[number]),
          parameters_(lib_.parameters + row_.first) {}

    // Takes the arguments apart. Throws wire::Malformed and BadHandle.
    void decode(wire::Reader& in);
    // Runs it; the status, or what the function returns.
    uint64_t run();
    // After run(): remembers new handles and notes. `answered`: the client waits for the result.
    void remember(bool answered);
    void write_outputs(wire::Writer& w) const;

    const library::FunctionRow& row() const { return row_; }
    uint16_t library() const { return lib_.number; }
    bool succeeded() const {
        return !(row_.flags & library::kStatus) || static_cast<uint32_t>(result_) == 0;
    }
    bool waits_for_gpu() const { return row_.flags & library::kBlocks; }

  private:
    // Memory of the library's arguments. Longer than what was announced, so that an estimate that
    // is off by a little does no harm.
    static constexpr size_t kSlack = 256;

    // At least so many bytes for a struct: this library may be older, and its structs larger.
    static constexpr size_t kBox = size_t{16} << 10;

    struct Output {
        const std::byte* data;
        size_t size;
    };
    struct New {
        uint32_t name;
        uint16_t argument;
        uint32_t kind;
    };

    int64_t measure(uint16_t which) const { return lib_.measure(which, a_, notes_); }
    void touch();
    void bind_new(int64_t note);
    void take_word(uint16_t i, wire::Reader& in);
    void take_handle(uint16_t i, uint32_t name);
    void take_new(uint16_t i, uint32_t name);
    void take_memory(uint16_t i, wire::Reader& in);
    void take_handles(std::byte* at, size_t size);
    void take_pointers(std::byte* at, size_t size, wire::Reader& in);
    bool scalars_on_device(bool* known) const;
    std::byte* allocate(size_t size);

    Libraries& libraries_;
    const LoadedLibrary& library_;
    const library::LibraryRow& lib_;
    uint16_t number_;
    const library::FunctionRow& row_;
    const library::ParameterRow* parameters_;
    uint64_t a_[library::kMaxArguments] = {};
    uint32_t notes_[library::kMaxArguments] = {};
    uint32_t first_ = 0;   // name of the first handle
    uint32_t owner_ = 0;   // name of the first that is the library's own, which has the stream
    uint64_t stream_ = 0;  // name of the stream argument
    std::vector<uint32_t> gone_;
    std::vector<New> new_;
    uint64_t new_values_[library::kMaxArguments] = {};
    std::vector<std::unique_ptr<std::byte[]>> memory_;
    std::vector<std::unique_ptr<std::byte[]>>
        kept_;  // what outlives the call, with the first handle
    std::vector<Output> outputs_;
    uint64_t result_ = 0;
};

}  // namespace carrel::worker
