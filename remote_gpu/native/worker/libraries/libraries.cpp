#include "worker/libraries/libraries.hpp"

#include "library_tables.hpp"
#include "wire/log.hpp"
#include "worker/libraries/call.hpp"

namespace carrel::worker {

void Libraries::call(wire::Reader& in, Reply& out) {
    const auto which = in.get<uint16_t>();
    const auto number = in.get<uint16_t>();
    if (which >= library::kLibraryCount) throw wire::Malformed("a call of an unknown library");
    const library::LibraryRow& row = *library::kLibraries[which];
    if (number == library::kOpen) {
        open(row, in, out);
        return;
    }
    const auto loaded = loaded_.find(which);
    if (number >= row.count || loaded == loaded_.end() || !loaded->second->function(number))
        throw wire::Malformed("a call of a library function that is not there");
    auto call = std::make_shared<LibraryCall>(*this, *loaded->second, number);
    try {
        call->decode(in);
    } catch (const BadHandle&) {
        // Its creation failed, or it is gone: the client has heard of that, or will.
        if (out.wanted()) {
            out.result(CUDA_SUCCESS);
            out.writer().put(static_cast<uint64_t>(row.invalid));
            return;
        }
        out.library_failed(which, row.invalid, row.functions[number].name);
        return;
    }
    if (out.wanted() && call->waits_for_gpu()) {
        later_(out, [this, call](Reply& reply) { answer(*call, reply); });
        return;
    }
    answer(*call, out);
}

void Libraries::answer(LibraryCall& call, Reply& out) {
    const uint64_t result = call.run();
    call.remember(out.wanted());
    if (out.wanted()) {
        out.result(CUDA_SUCCESS);
        call.write_outputs(out.writer());
    } else if (!call.succeeded()) {
        out.library_failed(call.library(), static_cast<int32_t>(result), call.row().name);
    }
}

void Libraries::open(const library::LibraryRow& row, wire::Reader& in, Reply& out) {
    auto& loaded = loaded_[row.number];
    if (!loaded) loaded = std::make_unique<LoadedLibrary>(row, in.get<uint32_t>(), folders_);
    out.result(CUDA_SUCCESS);
    out.writer().text(loaded->trouble());
    std::vector<uint8_t> there(row.count);
    for (uint16_t i = 0; i < row.count; ++i) there[i] = loaded->function(i) != nullptr;
    out.writer().bytes(there.data(), there.size());
}

LibraryObject* Libraries::find(uint32_t name) {
    const std::lock_guard lock(mutex_);
    const auto found = handles_.find(name);
    return found == handles_.end() ? nullptr : &found->second;
}

void Libraries::bind(uint32_t name, LibraryObject object) {
    const std::lock_guard lock(mutex_);
    if (handles_.size() >= kMaxObjects)
        throw wire::Malformed("more than 4,194,304 live handles of libraries");
    handles_[name] = std::move(object);
}

void Libraries::erase(uint32_t name) {
    const std::lock_guard lock(mutex_);
    handles_.erase(name);
}

}  // namespace carrel::worker
