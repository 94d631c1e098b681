// The null libraries: every function of CUDA's libraries succeeds, computes nothing, and takes a
// modelled time in its stream. Exports, arguments and what they mean are those of the client
// libraries; only what becomes of a call is another.
#include "forwarders/forward.hpp"

#include <array>
#include <string_view>

#include "nulllibraries/answers.hpp"
#include "nulllibraries/objects.hpp"
#include "nulllibraries/shapes.hpp"
#include "softgpu/host_work.h"

namespace carrel::forwarders {

namespace {

using library::FunctionRow;
using library::Kind;
using library::LibraryRow;
using library::ParameterRow;
using null::Object;
using null::Objects;

void zero(uint64_t address, int64_t bytes) {
    if (address && bytes > 0)
        std::memset(reinterpret_cast<void*>(address), 0, static_cast<size_t>(bytes));
}

bool computes(const FunctionRow& row, const ParameterRow* parameters) {
    const std::string_view name = row.name;
    for (const char* const other : {"Set", "Get", "Create", "Destroy", "Init", "Query", "uffer"})
        if (name.find(other) != std::string_view::npos) return false;
    if (name == "cudnnBackendExecute") return true;
    for (uint16_t i = 0; i < row.count; ++i)
        if (parameters[i].kind == Kind::device) return true;
    return false;
}

class Call {
  public:
    Call(const LibraryRow& lib, const FunctionRow& row, const uint64_t* a)
        : lib_(lib), row_(row), parameters_(lib.parameters + row.first), a_(a) {}

    uint64_t run() {
        for (uint16_t i = 0; i < row_.count; ++i) look_up(i);
        const int64_t note = row_.flags & library::kNotes ? measure(row_.note) : library::keep;
        for (uint16_t i = 0; i < row_.count; ++i) answer(i, note);
        if (null::counts_algorithms(row_.name) && count_)
            std::memcpy(reinterpret_cast<void*>(count_), &kOne, sizeof kOne);
        uint64_t result = 0;
        if (const null::Answer known = null::find_answer(row_.name)) result = known(a_);
        if (Object* const object = first_; object && !minted_) {
            if (note != library::keep) object->note = static_cast<uint32_t>(note);
            if (row_.flags & library::kSetsStream) object->stream = stream_;
        }
        if (computes(row_, parameters_)) {
            CUstream_st* const stream = has_stream_ || !first_ ? stream_ : first_->stream;
            const CarrelModelledWork work = null::work_of(row_.name, a_, row_.count);
            if (carrel_softgpu_model(stream, &work)) result = static_cast<uint64_t>(lib_.failed);
        }
        for (const uint64_t value : gone_)
            if (value) Objects::instance().erase(value);
        return result;
    }

  private:
    static constexpr int kOne = 1;

    int64_t measure(uint16_t which) const { return lib_.measure(which, a_, notes_.data()); }

    void look_up(uint16_t i) {
        const ParameterRow& p = parameters_[i];
        if (p.kind == Kind::stream) {
            stream_ = reinterpret_cast<CUstream_st*>(a_[i]);
            has_stream_ = true;
        }
        if (p.kind != Kind::handle && p.kind != Kind::gone) return;
        Object* const object = Objects::instance().find(a_[i]);
        if (object) notes_[i] = object->note;
        if (object && !first_) first_ = object;
        if (p.kind == Kind::gone) gone_[i] = a_[i];
    }

    void answer(uint16_t i, int64_t note) {
        const ParameterRow& p = parameters_[i];
        const uint64_t at = a_[i];
        switch (p.kind) {
            case Kind::mint:
            case Kind::box:
                make(p, at, note);
                break;
            case Kind::out:
                if (!count_ && p.size == sizeof kOne) count_ = at;
                zero(at, measure(p.size));
                break;
            case Kind::result:
                zero(at, measure(p.size));
                break;
            case Kind::stream_out:
                if (at && first_)
                    std::memcpy(reinterpret_cast<void*>(at), &first_->stream,
                                sizeof first_->stream);
                break;
            default:
                break;
        }
    }

    void make(const ParameterRow& p, uint64_t at, int64_t note) {
        if (!at) return;
        uint64_t value = at;
        minted_ = true;
        if (p.kind == Kind::box) {
            Objects::instance().adopt(at, p.handle);
        } else {
            const bool integer = lib_.handles[p.handle].integer;
            value = Objects::instance().mint(p.handle, integer);
            std::memcpy(reinterpret_cast<void*>(at), &value,
                        integer ? sizeof(uint32_t) : sizeof value);
        }
        if (note != library::keep)
            Objects::instance().find(value)->note = static_cast<uint32_t>(note);
    }

    const LibraryRow& lib_;
    const FunctionRow& row_;
    const ParameterRow* parameters_;
    const uint64_t* a_;
    std::array<uint32_t, library::kMaxArguments> notes_{};
    std::array<uint64_t, library::kMaxArguments> gone_{};
    Object* first_ = nullptr;
    CUstream_st* stream_ = nullptr;
    bool has_stream_ = false;
    bool minted_ = false;
    uint64_t count_ = 0;  // address of the first output that is an int
};

}  // namespace

uint64_t forward(const LibraryRow& library, uint16_t function, const uint64_t* arguments) {
    return Call(library, library.functions[function], arguments).run();
}

uint64_t unsupported(const char*, std::atomic<bool>&, int64_t result) {
    return static_cast<uint64_t>(result);
}

}  // namespace carrel::forwarders
