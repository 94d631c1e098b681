// Calls of CUDA's libraries: the arguments are taken apart by the rows of wire/library.hpp, the
// real library runs them in the session's context.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "wire/library.hpp"
#include "wire/reader.hpp"
#include "worker/libraries/loaded.hpp"
#include "worker/objects.hpp"
#include "worker/outbox.hpp"

namespace carrel::worker {

// A handle of a library, by the name that the client gave it.
struct LibraryObject {
    uint32_t kind = 0;
    uint32_t note = 0;    // see FunctionRow::note
    uint64_t value = 0;   // the library's handle, or where its struct is
    uint64_t stream = 0;  // the name of the stream that its work goes to
    std::unique_ptr<std::byte[]> box;
    std::vector<std::unique_ptr<std::byte[]>> kept;  // host memory that it points to
};

class LibraryCall;

class Libraries {
  public:
    // `later(reply, function)` runs what may wait for the GPU in another thread.
    using Later = std::function<void(Reply&, std::function<void(Reply&)>)>;

    Libraries(Objects& objects, std::vector<std::string> folders, Later later)
        : objects_(objects), folders_(std::move(folders)), later_(std::move(later)) {}

    // Throws wire::Malformed and BadHandle.
    void call(wire::Reader& in, Reply& out);

  private:
    friend class LibraryCall;

    void open(const library::LibraryRow& row, wire::Reader& in, Reply& out);
    void answer(LibraryCall& call, Reply& out);

    LibraryObject* find(uint32_t name);
    void bind(uint32_t name, LibraryObject object);
    void erase(uint32_t name);

    static constexpr size_t kMaxObjects = size_t{1} << 22;

    Objects& objects_;
    std::vector<std::string> folders_;
    Later later_;
    std::unordered_map<uint16_t, std::unique_ptr<LoadedLibrary>> loaded_;
    std::mutex mutex_;  // of the handles: calls that wait end in other threads
    std::unordered_map<uint32_t, LibraryObject> handles_;
};

}  // namespace carrel::worker
