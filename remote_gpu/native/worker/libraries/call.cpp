#include "worker/libraries/call.hpp"

#include "worker/libraries/invoke.hpp"

namespace carrel::worker {

using library::Kind;
using library::ParameterRow;
using library::Place;

void LibraryCall::decode(wire::Reader& in) {
    for (uint16_t i = 0; i < row_.count; ++i) take_word(i, in);
    for (uint16_t i = row_.count; i-- > 0;) take_memory(i, in);
    if (in.left()) throw wire::Malformed("a library call is longer than its arguments");
    touch();
}

// Names the stream that its handle's work goes to: the server marks it busy once the call is done.
void LibraryCall::touch() {
    if (stream_) {
        libraries_.objects_.get<CUstream>(stream_);
        return;
    }
    const LibraryObject* const object = owner_ ? libraries_.find(owner_) : nullptr;
    const uint64_t name = object ? object->stream : wire::kDefaultStream;
    if (name <= wire::kPerThreadStream || libraries_.objects_.find(name, Tag::stream))
        libraries_.objects_.get<CUstream>(name);
}

std::byte* LibraryCall::allocate(size_t size) {
    memory_.push_back(std::make_unique<std::byte[]>(size + kSlack));  // zeroed
    return memory_.back().get();
}

void LibraryCall::take_word(uint16_t i, wire::Reader& in) {
    const ParameterRow& p = parameters_[i];
    switch (p.kind) {
        case Kind::value: {
            const auto bytes = in.raw(p.width);
            if (p.width > sizeof(uint64_t)) {
                std::byte* const copy = allocate(p.width);
                std::memcpy(copy, bytes.data(), bytes.size());
                a_[i] = reinterpret_cast<uint64_t>(copy);
            } else {
                std::memcpy(&a_[i], bytes.data(), bytes.size());
            }
            break;
        }
        case Kind::handle:
        case Kind::gone:
            take_handle(i, in.get<uint32_t>());
            break;
        case Kind::mint:
        case Kind::box:
            take_new(i, in.get<uint32_t>());
            break;
        case Kind::stream:
            stream_ = in.get<uint64_t>();
            a_[i] = reinterpret_cast<uint64_t>(libraries_.objects_.get<CUstream>(stream_));
            break;
        case Kind::device:
            a_[i] = in.get<uint64_t>();
            break;
        case Kind::stream_out:
            a_[i] = reinterpret_cast<uint64_t>(allocate(sizeof(CUstream)));
            break;
        default:
            break;
    }
}

void LibraryCall::take_handle(uint16_t i, uint32_t name) {
    if (!name) return;
    const ParameterRow& p = parameters_[i];
    const LibraryObject* const object = libraries_.find(name);
    if (!object) throw BadHandle{};
    const uint16_t owner = static_cast<uint16_t>((object->kind >> 8) - 1);
    // Of another library only where that library allows it: a cuBLAS handle for cuBLASLt.
    if (object->kind != lib_.kind(p.handle) && !(p.handle == 1 && owner == 0 && lib_.number == 1))
        throw BadHandle{};
    a_[i] = object->value;
    notes_[i] = object->note;
    if (p.kind == Kind::gone) gone_.push_back(name);
    if (!first_) first_ = name;
    if (!owner_ && p.handle == 1) owner_ = name;
}

void LibraryCall::take_new(uint16_t i, uint32_t name) {
    const ParameterRow& p = parameters_[i];
    if (!name) throw wire::Malformed("a new handle without a name");
    new_.push_back({name, i, lib_.kind(p.handle)});
    if (p.kind == Kind::box) {
        const size_t size = std::max<size_t>(lib_.handles[p.handle].box, kBox);
        a_[i] = reinterpret_cast<uint64_t>(allocate(size));
        new_values_[i] = a_[i];
    } else {
        a_[i] = reinterpret_cast<uint64_t>(&new_values_[i]);
    }
}

// Whether the handle says that scalars are in device memory.
bool LibraryCall::scalars_on_device(bool* known) const {
    *known = false;
    if (!lib_.pointer_mode) return false;
    for (uint16_t i = 0; i < row_.count; ++i) {
        if (parameters_[i].kind != Kind::handle) continue;
        *known = true;
        return notes_[i] != 0;
    }
    return false;
}

void LibraryCall::take_memory(uint16_t i, wire::Reader& in) {
    const ParameterRow& p = parameters_[i];
    if (!library::in_memory(p.kind)) return;
    const auto place = in.get<Place>();
    if (place == Place::none) return;
    if (place == Place::device) {
        bool known = false;
        if (!library::either_place(p.kind) || (!scalars_on_device(&known) && known))
            throw wire::Malformed("a library call names device memory where there is none");
        a_[i] = in.get<uint64_t>();
        return;
    }
    if (place != Place::host) throw wire::Malformed("memory is in no known place");
    const auto size = size_t{in.get<uint32_t>()};
    // The library writes as much as its other arguments say, whatever the client announced.
    if (size > library::most(p.kind) ||
        (p.kind != Kind::string && p.size &&
         size != static_cast<size_t>(std::max<int64_t>(0, measure(p.size)))))
        throw wire::Malformed("a library call announces the wrong size");
    std::byte* const memory = allocate(size);
    a_[i] = reinterpret_cast<uint64_t>(memory);
    const auto holds = static_cast<library::Holds>(p.holds ? measure(p.holds) : 0);
    if (holds == library::Holds::pointers) {
        take_pointers(memory, size, in);
        return;
    }
    if (holds == library::Holds::streams) {
        for (size_t offset = 0; offset + sizeof(uint64_t) <= size; offset += sizeof(uint64_t)) {
            stream_ = in.get<uint64_t>();
            CUstream const stream = libraries_.objects_.get<CUstream>(stream_);
            std::memcpy(memory + offset, &stream, sizeof stream);
        }
        return;
    }
    if (library::reads(p.kind) || holds == library::Holds::handles) {
        const auto data = in.raw(size);
        if (size) std::memcpy(memory, data.data(), size);
    }
    if (holds == library::Holds::handles) {
        take_handles(memory, size);
        return;
    }
    if (library::writes(p.kind)) outputs_.push_back({memory, size});
}

void LibraryCall::take_handles(std::byte* at, size_t size) {
    for (; size >= sizeof(uint64_t); at += sizeof(uint64_t), size -= sizeof(uint64_t)) {
        uint64_t name = 0;
        std::memcpy(&name, at, sizeof name);
        if (!name) continue;
        const LibraryObject* const object = libraries_.find(static_cast<uint32_t>(name));
        if (!object || object->kind >> 8 != uint32_t{lib_.number} + 1) throw BadHandle{};
        std::memcpy(at, &object->value, sizeof object->value);
    }
}

// Values on the host live as long as the object that is told where they are.
void LibraryCall::take_pointers(std::byte* at, size_t size, wire::Reader& in) {
    for (; size >= sizeof(uint64_t); at += sizeof(uint64_t), size -= sizeof(uint64_t)) {
        auto address = in.get<uint64_t>();
        if (in.get<uint8_t>()) {
            const auto value = in.raw(library::kValue);
            kept_.push_back(std::make_unique<std::byte[]>(2 * library::kValue));
            std::memcpy(kept_.back().get(), value.data(), value.size());
            address = reinterpret_cast<uint64_t>(kept_.back().get());
        }
        std::memcpy(at, &address, sizeof address);
    }
}

uint64_t LibraryCall::run() {
    result_ = invoke_shape(row_.shape, library_.function(number_), a_);
    return result_;
}

void LibraryCall::remember(bool answered) {
    // The client, where it does not wait, goes on as if the call had succeeded.
    if (!succeeded() && answered) return;
    const bool notes = row_.flags & library::kNotes;
    const int64_t note = notes ? measure(row_.note) : library::keep;
    if (succeeded()) bind_new(note);
    if (LibraryObject* const object = first_ ? libraries_.find(first_) : nullptr) {
        if (note != library::keep && new_.empty()) object->note = static_cast<uint32_t>(note);
        if (row_.flags & library::kSetsStream) object->stream = stream_;
        for (auto& value : kept_) object->kept.push_back(std::move(value));
    }
    for (const uint32_t name : gone_) libraries_.erase(name);
}

void LibraryCall::bind_new(int64_t note) {
    for (const New& made : new_) {
        LibraryObject object;
        object.kind = made.kind;
        object.value = new_values_[made.argument];
        if (note != library::keep) object.note = static_cast<uint32_t>(note);
        for (auto& memory : memory_) {
            if (reinterpret_cast<uint64_t>(memory.get()) == object.value)
                object.box = std::move(memory);
        }
        libraries_.bind(made.name, std::move(object));
    }
}

void LibraryCall::write_outputs(wire::Writer& w) const {
    w.put(result_);
    for (const Output& output : outputs_) w.bytes(output.data, output.size);
}

}  // namespace carrel::worker
