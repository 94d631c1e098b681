#include "forwarders/forward.hpp"

#include <array>
#include <bitset>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "forwarders/descriptors.hpp"
#include "forwarders/memo.hpp"
#include "wire/log.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::forwarders {

namespace {

using library::FunctionRow;
using library::Kind;
using library::LibraryRow;
using library::ParameterRow;
using library::Place;

constexpr size_t kMaxFunctions = 2048;

// A call that cannot be sent; the function returns this.
struct Refused {
    int status;
};

// Of one shared object, which is one library.
struct State {
    std::once_flag opened;
    int open_status = 0;  // what every function returns when the library cannot be had
    std::bitset<kMaxFunctions> there;
    std::array<std::atomic<bool>, kMaxFunctions> told{};
    Memo memo;
    Descriptors descriptors;
    std::mutex mutex;
    std::map<uint32_t, uint64_t> streams;  // of handles, as the program gave them
    std::map<uint64_t, uint32_t> boxes;    // names by the address of the program's memory
};

State& state() {
    static State* const it = new State;  // outlives every user
    return *it;
}

// The message of the calling thread's call: its memory serves the next one, too.
wire::Writer& message() {
    static thread_local wire::Writer writer;
    writer.clear();
    writer.shrink(size_t{64} << 10);
    return writer;
}

// Asks once which functions the GPU host's library has.
void open(const LibraryRow& lib, const carrel_bridge& b) {
    State& s = state();
    wire::Writer w;
    w.put(lib.number);
    w.put(library::kOpen);
    w.put(kCudaMajor);
    s.open_status = lib.unavailable;
    struct Answer {
        const LibraryRow& lib;
        State& state;
    } answer{lib, s};
    const int result = b.ask(
        w.data(), w.size(),
        [](void* user, const void* data, size_t size) {
            auto& [lib, state] = *static_cast<Answer*>(user);
            wire::Reader in({static_cast<const std::byte*>(data), size});
            const std::string trouble = in.text();
            if (!trouble.empty()) {
                CARREL_WARNING("%s", trouble.c_str());
                return;
            }
            const auto there = in.bytes();
            for (size_t i = 0; i < there.size() && i < kMaxFunctions; ++i)
                state.there[i] = there[i] != std::byte{0};
            state.open_status = 0;
        },
        &answer);
    if (result) CARREL_DEBUG("%s: no session (%d)", lib.name, result);
}

// For answers that are remembered, addresses of device memory count by their alignment only: more
// than 256 bytes of it make no difference.
uint64_t meaning_of_address(uint64_t address) {
    const uint64_t low = address | 256;
    return address ? 0xA11600000000 + (low & (~low + 1)) : 0;
}

// A call that makes, sets or destroys a descriptor that need not be in the worker for it.
class Keeping {
  public:
    static bool concerns(const LibraryRow& lib, const FunctionRow& row, const uint64_t* a) {
        const ParameterRow& first = lib.parameters[row.first];
        if (!row.count || !lib.handles[first.handle].kept) return false;
        if (first.kind == Kind::mint) return true;
        const bool sets = first.kind == Kind::handle && (row.flags & library::kTells);
        return (sets || first.kind == Kind::gone) && Descriptors::owns(a[0]);
    }

    Keeping(const LibraryRow& lib, const FunctionRow& row, const carrel_bridge& b,
            const uint64_t* a)
        : lib_(lib), row_(row), parameters_(lib.parameters + row.first), bridge_(b), a_(a) {}

    uint64_t run(uint16_t number) {
        bridge_.trace(row_.name, 0);
        Descriptors& descriptors = state().descriptors;
        const ParameterRow& first = parameters_[0];
        const uint32_t type = lib_.kind(first.handle);
        uint32_t notes[library::kMaxArguments];  // measures of these calls need the first one's
        notes[0] = 0;
        if (first.kind != Kind::mint && (row_.flags & library::kNotes) &&
            !descriptors.look(a_[0], type, notes))
            return static_cast<uint64_t>(lib_.invalid);
        if (!a_[0]) return static_cast<uint64_t>(lib_.invalid);
        encode(number, notes);
        const Telling telling{kind(), text_, name_at_, meaning_};
        int64_t note = library::keep;
        if (row_.flags & library::kNotes) note = lib_.measure(row_.note, a_, notes);
        bool known = true;
        if (first.kind == Kind::mint) {
            const uint64_t handle = descriptors.make(
                type, note == library::keep ? 0 : static_cast<uint32_t>(note), telling);
            if (!handle) return static_cast<uint64_t>(lib_.failed);
            std::memcpy(reinterpret_cast<void*>(a_[0]), &handle, sizeof handle);
        } else if (first.kind == Kind::gone) {
            known = descriptors.destroy(a_[0], type, telling, bridge_);
        } else {
            known = descriptors.tell(a_[0], type, telling);
            if (note != library::keep) descriptors.note(a_[0], static_cast<uint32_t>(note));
        }
        return known ? 0 : static_cast<uint64_t>(lib_.invalid);
    }

  private:
    // An attribute replaces what was said of the same attribute: it is the second argument.
    uint64_t kind() const {
        uint64_t kind = reinterpret_cast<uint64_t>(&row_);
        if (row_.count > 1 && std::strstr(row_.name, "Attribute")) kind ^= (a_[1] + 1) << 48;
        return kind;
    }

    // As Call does; there are values and data only.
    void encode(uint16_t number, const uint32_t* notes) {
        text_.clear();
        put(&lib_.number, sizeof lib_.number);
        put(&number, sizeof number);
        meaning_.add({reinterpret_cast<const char*>(&number), sizeof number});
        for (uint16_t i = 0; i < row_.count; ++i) {
            const ParameterRow& p = parameters_[i];
            if (p.kind == Kind::value) {
                say(p.width > 8 ? reinterpret_cast<const void*>(a_[i]) : &a_[i], p.width);
            } else if (i == 0) {
                constexpr uint32_t name = 0;
                name_at_ = text_.size();
                put(&name, sizeof name);
            }
        }
        for (uint16_t i = row_.count; i-- > 0;) {
            const ParameterRow& p = parameters_[i];
            if (!library::in_memory(p.kind)) continue;
            const auto size =
                static_cast<uint32_t>(std::max<int64_t>(0, lib_.measure(p.size, a_, notes)));
            const Place place = a_[i] ? Place::host : Place::none;
            put(&place, sizeof place);
            if (!a_[i]) continue;
            put(&size, sizeof size);
            put_data(a_[i], size);
        }
    }
    void put(const void* data, size_t size) { text_.append(static_cast<const char*>(data), size); }
    void say(const void* data, size_t size) {
        put(data, size);
        meaning_.add({static_cast<const char*>(data), size});
    }
    void put_data(uint64_t address, size_t size) {
        const auto* const data = reinterpret_cast<const char*>(address);
        uint64_t value = 0;
        if (size == sizeof value) std::memcpy(&value, data, sizeof value);
        if (!value || !bridge_.device(reinterpret_cast<const void*>(value))) {
            say(data, size);
            return;
        }
        put(data, size);
        value = meaning_of_address(value);
        meaning_.add({reinterpret_cast<const char*>(&value), sizeof value});
    }

    static std::string& text() {
        static thread_local std::string all;
        return all;
    }

    const LibraryRow& lib_;
    const FunctionRow& row_;
    const ParameterRow* parameters_;
    const carrel_bridge& bridge_;
    const uint64_t* a_;
    std::string& text_ = text();
    size_t name_at_ = 0;
    Hash meaning_;
};

// One call on its way: encodes the arguments, and takes the answer apart.
class Call {
  public:
    Call(const LibraryRow& lib, const FunctionRow& row, const carrel_bridge& b, const uint64_t* a)
        : lib_(lib), row_(row), parameters_(lib.parameters + row.first), bridge_(b), a_(a) {}

    uint64_t run(uint16_t number) {
        gather_notes();
        if ((row_.flags & library::kRequires) && !measure(row_.require))
            throw Refused{lib_.not_supported};
        w_.put(lib_.number);
        w_.put(number);
        for (uint16_t i = 0; i < row_.count; ++i) put_word(i);
        for (uint16_t i = row_.count; i-- > 0;) put_memory(i);
        waits_ = waits_ || measure(row_.wait) != 0;
        if (row_.flags & library::kMemo) {
            Answer known;
            question_ = question(number);
            if (state().memo.find(question_, &known)) {
                bridge_.trace(row_.name, 0);
                return repeat(known);
            }
        }
        bridge_.trace(row_.name, waits_);
        uint64_t result = 0;
        int trouble = 0;
        if (waits_) {
            trouble = bridge_.ask(
                w_.data(), w_.size(),
                [](void* user, const void* data, size_t size) {
                    static_cast<Call*>(user)->take(data, size);
                },
                this);
            result = result_;
        } else {
            trouble = bridge_.post(w_.data(), w_.size());
        }
        const bool status = row_.flags & library::kStatus;
        if (trouble) {
            undo();
            if (status) return static_cast<uint64_t>(lib_.failed);
            return 0;
        }
        const bool good = !status || static_cast<uint32_t>(result) == 0;
        if (good) {
            finish();
        } else {
            undo();
        }
        if (waits_ && status && good && bridge_.failure(lib_.number))
            return static_cast<uint64_t>(lib_.failed);
        return result;
    }

    // Whether the call could not be sent, and names minted for it are to be given back.
    void undo() {
        for (const auto& [name, at] : minted_) {
            bridge_.retire(name);
            const std::lock_guard lock(state().mutex);
            if (at.box) state().boxes.erase(at.address);
        }
        minted_.clear();
    }

  private:
    struct Target {
        uint64_t address;
        bool box;
        bool integer;
    };
    struct Output {
        uint64_t address;
        size_t size;
    };

    bool describes() const { return row_.flags & (library::kTells | library::kMemo); }

    std::string question(uint16_t number) const {
        std::string all(reinterpret_cast<const char*>(&number), sizeof number);
        return all.append(said_);
    }

    uint64_t repeat(const Answer& known) {
        for (size_t i = 0; i < outputs_.size() && i < known.outputs.size(); ++i) {
            const std::string& bytes = known.outputs[i];
            std::memcpy(reinterpret_cast<void*>(outputs_[i].address), bytes.data(),
                        std::min(bytes.size(), outputs_[i].size));
        }
        return known.result;
    }

    // For the memo: what the call says, whatever its objects are called.
    void say(const void* data, size_t size) {
        if (describes()) said_.append(static_cast<const char*>(data), size);
    }
    void say_data(uint64_t address, size_t size) {
        if (!describes()) return;
        uint64_t value = 0;
        if (size == sizeof value) {
            std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
            if (value && bridge_.device(reinterpret_cast<const void*>(value))) {
                say_address(value);
                return;
            }
        }
        say(reinterpret_cast<const void*>(address), size);
    }
    void say_address(uint64_t address) {
        const uint64_t token = meaning_of_address(address);
        say(&token, sizeof token);
    }
    void say_state(uint32_t name) {
        if (!describes() || !name) return;
        const std::string told = state().memo.state(name);
        const uint64_t size = told.size();
        say(&size, sizeof size);
        say(told.data(), told.size());
    }

    int64_t measure(uint16_t which) const { return lib_.measure(which, a_, notes_); }

    // The name behind a handle of this kind. With `tolerant`, 0 is returned for none.
    uint32_t name_of(const ParameterRow& p, uint64_t value, uint32_t* note) const {
        const library::HandleRow& type = lib_.handles[p.handle];
        if (!value && !type.integer) throw Refused{lib_.invalid};
        uint64_t held = value;
        if (type.integer) {
            held = static_cast<uint32_t>(value) | CARREL_HANDLE_BASE;
        } else if ((value >> 32) != (CARREL_HANDLE_BASE >> 32)) {
            // The program's memory holds the handle: it must be memory that was initialized.
            const std::lock_guard lock(state().mutex);
            const auto known = state().boxes.find(value);
            if (known != state().boxes.end()) {
                held = CARREL_HANDLE_BASE | known->second;
            } else if (type.box) {
                std::memcpy(&held, reinterpret_cast<const void*>(value), sizeof held);
            }
        }
        const auto name = static_cast<uint32_t>(held);
        if ((held >> 32) != (CARREL_HANDLE_BASE >> 32) || !accepts(p, bridge_.look(name, note)))
            throw Refused{lib_.invalid};
        return name;
    }

    // A cuBLAS handle serves as a cuBLASLt handle.
    bool accepts(const ParameterRow& p, uint32_t kind) const {
        if (kind == lib_.kind(p.handle)) return true;
        return p.handle == 1 && kind == 0x101 && std::strcmp(lib_.name, "cublasLt") == 0;
    }

    void gather_notes() {
        for (uint16_t i = 0; i < row_.count; ++i) {
            const ParameterRow& p = parameters_[i];
            if (p.kind != Kind::handle && p.kind != Kind::gone) continue;
            if (Descriptors::owns(a_[i])) {
                if (!state().descriptors.look(a_[i], lib_.kind(p.handle), &notes_[i]))
                    throw Refused{lib_.invalid};
                continue;
            }
            // Descriptors may be left out, the library's own handle never.
            if (a_[i] || p.handle == 1 || p.kind == Kind::gone)
                names_[i] = name_of(p, a_[i], &notes_[i]);
        }
    }
    bool integer(const ParameterRow& p) const { return lib_.handles[p.handle].integer; }

    void put_word(uint16_t i) {
        const ParameterRow& p = parameters_[i];
        switch (p.kind) {
            case Kind::value:
                w_.raw(p.width > 8 ? reinterpret_cast<const void*>(a_[i]) : &a_[i], p.width);
                say(p.width > 8 ? reinterpret_cast<const void*>(a_[i]) : &a_[i], p.width);
                break;
            case Kind::handle:
            case Kind::gone:
                if (Descriptors::owns(a_[i])) {
                    w_.put(state().descriptors.in_worker(a_[i], bridge_));
                    const Hash told = state().descriptors.meaning(a_[i]);
                    say(&told, sizeof told);
                    break;
                }
                w_.put(names_[i]);
                // A setter's own object is what it changes, not what it depends on.
                if (row_.flags & library::kMemo || i > 0) say_state(names_[i]);
                break;
            case Kind::mint:
            case Kind::box:
                mint(i, p);
                break;
            case Kind::stream: {
                uint64_t name = 0;
                if (bridge_.stream(reinterpret_cast<void*>(a_[i]), &name))
                    throw Refused{lib_.invalid};
                w_.put(name);
                break;
            }
            case Kind::device:
                w_.put(a_[i]);
                say_address(a_[i]);
                break;
            case Kind::null:
                if (a_[i]) throw Refused{lib_.not_supported};
                break;
            default:
                break;
        }
    }

    void mint(uint16_t i, const ParameterRow& p) {
        if (!a_[i]) throw Refused{lib_.invalid};
        uint32_t note = 0;
        if (row_.flags & library::kNotes) {
            const int64_t wanted = measure(row_.note);
            if (wanted != library::keep) note = static_cast<uint32_t>(wanted);
        }
        uint32_t name = 0;
        const bool box = p.kind == Kind::box;
        if (box) {  // initialized again, it is the same object
            const std::lock_guard lock(state().mutex);
            const auto known = state().boxes.find(a_[i]);
            uint32_t old = 0;
            if (known != state().boxes.end() &&
                bridge_.look(known->second, &old) == lib_.kind(p.handle)) {
                name = known->second;
                bridge_.note(name, note);
            }
        }
        if (!name) {
            name = bridge_.mint(lib_.kind(p.handle), note);
            if (!name) throw Refused{lib_.failed};
            minted_.push_back({name, {a_[i], box, integer(p)}});
            if (box) {
                const std::lock_guard lock(state().mutex);
                state().boxes[a_[i]] = name;
            }
        }
        w_.put(name);
    }

    // Where a scalar or result is: by the handle's pointer mode, or by its address.
    bool on_device(uint64_t address) const {
        const bool device = bridge_.device(reinterpret_cast<const void*>(address)) != 0;
        if (!lib_.pointer_mode) return device;
        for (uint16_t i = 0; i < row_.count; ++i) {
            if (parameters_[i].kind != Kind::handle) continue;
            if (!notes_[i] && device) throw Refused{lib_.invalid};  // would crash natively
            return notes_[i] != 0;
        }
        return device;
    }

    void put_memory(uint16_t i) {
        const ParameterRow& p = parameters_[i];
        const uint64_t address = a_[i];
        if (p.kind == Kind::stream_out) {
            stream_out_ = address;
            return;
        }
        if (!library::in_memory(p.kind)) return;
        int64_t bytes = 0;
        if (p.kind == Kind::string) {
            bytes =
                address
                    ? static_cast<int64_t>(std::strlen(reinterpret_cast<const char*>(address)) + 1)
                    : 0;
        } else {
            bytes = std::max<int64_t>(0, measure(p.size));
        }
        say(&bytes, sizeof bytes);
        if (!address && !(p.kind == Kind::scratch && bytes)) {
            w_.put(Place::none);
            say("-", 1);
            return;
        }
        if (library::either_place(p.kind) && on_device(address)) {
            w_.put(Place::device);
            w_.put(address);
            say_address(address);
            return;
        }
        if (static_cast<uint64_t>(bytes) > library::most(p.kind)) throw Refused{lib_.not_supported};
        w_.put(Place::host);
        w_.put(static_cast<uint32_t>(bytes));
        const auto size = static_cast<size_t>(bytes);
        const auto holds = static_cast<library::Holds>(p.holds ? measure(p.holds) : 0);
        if (holds == library::Holds::handles) {
            put_handles(address, size);
            return;
        }
        if (holds == library::Holds::pointers) {
            put_pointers(address, size);
            return;
        }
        if (holds == library::Holds::streams) {
            put_streams(address, size);
            return;
        }
        if (library::reads(p.kind)) {
            w_.raw(reinterpret_cast<const void*>(address), size);
            say_data(address, size);
        }
        if (library::writes(p.kind)) {
            outputs_.push_back({address, size});
            waits_ = true;
        }
    }

    // Handles of any kind of this library, as names.
    void put_handles(uint64_t address, size_t size) {
        for (size_t at = 0; at + 8 <= size; at += 8) {
            uint64_t value = 0;
            std::memcpy(&value, reinterpret_cast<const void*>(address + at), sizeof value);
            uint32_t note = 0;
            auto name = static_cast<uint32_t>(value);
            if (Descriptors::owns(value)) {
                name = state().descriptors.in_worker(value, bridge_);
                if (!name) throw Refused{lib_.invalid};
            } else if (value && ((value >> 32) != (CARREL_HANDLE_BASE >> 32) ||
                                 bridge_.look(name, &note) >> 8 != uint32_t{lib_.number} + 1))
                throw Refused{lib_.invalid};
            w_.put(uint64_t{value ? name : 0});
        }
    }

    void put_streams(uint64_t address, size_t size) {
        for (size_t at = 0; at + 8 <= size; at += 8) {
            void* stream = nullptr;
            uint64_t name = 0;
            std::memcpy(&stream, reinterpret_cast<const void*>(address + at), sizeof stream);
            if (bridge_.stream(stream, &name)) throw Refused{lib_.invalid};
            w_.put(name);
        }
    }

    // Addresses of device memory, or of single values on the host.
    void put_pointers(uint64_t address, size_t size) {
        for (size_t at = 0; at + 8 <= size; at += 8) {
            uint64_t value = 0;
            std::memcpy(&value, reinterpret_cast<const void*>(address + at), sizeof value);
            const bool host = value && !bridge_.device(reinterpret_cast<const void*>(value));
            w_.put(value);
            w_.put(static_cast<uint8_t>(host));
            if (host) w_.raw(reinterpret_cast<const void*>(value), library::kValue);
        }
    }

    void take(const void* data, size_t size) {
        wire::Reader in({static_cast<const std::byte*>(data), size});
        result_ = in.get<uint64_t>();
        for (const Output& output : outputs_) {
            const auto bytes = in.bytes();
            if (row_.flags & library::kMemo)
                answer_.outputs.emplace_back(reinterpret_cast<const char*>(bytes.data()),
                                             bytes.size());
            std::memcpy(reinterpret_cast<void*>(output.address), bytes.data(),
                        std::min(bytes.size(), output.size));
        }
    }

    // What changes here once the call is out, or has succeeded.
    void finish() {
        if (row_.flags & library::kMemo && waits_) {
            answer_.result = result_;
            state().memo.keep(std::move(question_), std::move(answer_));
        }
        for (const auto& [name, at] : minted_) {
            if (row_.flags & library::kTells) tell(name);
            const uint64_t handle = CARREL_HANDLE_BASE | name;
            if (at.integer) {
                std::memcpy(reinterpret_cast<void*>(at.address), &name, sizeof name);
            } else {
                std::memcpy(reinterpret_cast<void*>(at.address), &handle, sizeof handle);
            }
        }
        uint32_t first = 0;
        for (uint16_t i = 0; i < row_.count; ++i) {
            const Kind kind = parameters_[i].kind;
            if (kind == Kind::gone && names_[i]) {
                bridge_.retire(names_[i]);
                state().memo.forget(names_[i]);
                const std::lock_guard lock(state().mutex);
                state().streams.erase(names_[i]);
                state().boxes.erase(a_[i]);
            }
            if (kind == Kind::handle && !first) first = names_[i];
            if (kind == Kind::stream && (row_.flags & library::kSetsStream)) {
                const std::lock_guard lock(state().mutex);
                state().streams[first] = a_[i];
            }
        }
        if ((row_.flags & library::kTells) && first && minted_.empty()) tell(first);
        if ((row_.flags & library::kNotes) && first) {
            const int64_t note = measure(row_.note);
            if (note != library::keep) bridge_.note(first, static_cast<uint32_t>(note));
        }
        if (stream_out_) {
            const std::lock_guard lock(state().mutex);
            const auto known = state().streams.find(first);
            const uint64_t stream = known == state().streams.end() ? 0 : known->second;
            std::memcpy(reinterpret_cast<void*>(stream_out_), &stream, sizeof stream);
        }
    }

    // An attribute replaces what was said of the same attribute: it is the second argument.
    void tell(uint32_t name) {
        uint64_t kind = reinterpret_cast<uint64_t>(&row_);
        if (row_.count > 1 && parameters_[1].kind == Kind::value &&
            std::strstr(row_.name, "Attribute"))
            kind ^= (a_[1] + 1) << 48;
        state().memo.tell(name, kind, said_);
    }

    const LibraryRow& lib_;
    const FunctionRow& row_;
    const ParameterRow* parameters_;
    const carrel_bridge& bridge_;
    const uint64_t* a_;
    uint32_t notes_[library::kMaxArguments] = {};
    uint32_t names_[library::kMaxArguments] = {};
    std::vector<std::pair<uint32_t, Target>> minted_;
    std::vector<Output> outputs_;
    uint64_t stream_out_ = 0;
    uint64_t result_ = 0;
    bool waits_ = false;
    std::string said_;      // for the memo
    std::string question_;  // what an answer is kept under
    Answer answer_;
    wire::Writer& w_ = message();
};

uint64_t status(const FunctionRow& row, int value) {
    return row.flags & library::kStatus ? static_cast<uint64_t>(value) : 0;
}

}  // namespace

uint64_t forward(const LibraryRow& lib, uint16_t number, const uint64_t* arguments) {
    const FunctionRow& row = lib.functions[number];
    const carrel_bridge* const b = bridge();
    if (!b || b->attach()) return status(row, lib.unavailable);
    State& s = state();
    std::call_once(s.opened, [&] { open(lib, *b); });
    if (s.open_status) return status(row, s.open_status);
    if (!s.there[number]) {
        if (!s.told[number].exchange(true))
            CARREL_WARNING("%s is not in the GPU host's %s", row.name, lib.soname(kCudaMajor));
        return status(row, lib.not_supported);
    }
    if (Keeping::concerns(lib, row, arguments)) return Keeping(lib, row, *b, arguments).run(number);
    Call call(lib, row, *b, arguments);
    try {
        return call.run(number);
    } catch (const Refused& refused) {
        call.undo();
        return status(row, refused.status);
    } catch (const wire::Malformed& error) {
        CARREL_WARNING("%s: %s", row.name, error.what());
        return status(row, lib.failed);
    }
}

}  // namespace carrel::forwarders
