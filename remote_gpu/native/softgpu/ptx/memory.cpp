// Loads and stores in every state space.
#include <cstdio>

#include "softgpu/ptx/access.hpp"
#include "softgpu/ptx/decoder.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;
using u128 = unsigned __int128;

void misaligned(std::uint64_t address, unsigned bytes, unsigned lane) {
    char text[96];
    std::snprintf(text, sizeof text, "misaligned access of %u bytes at 0x%llx", bytes,
                  static_cast<unsigned long long>(address));
    throw Fault(Status::misaligned_address, text, address, lane);
}

void illegal(const char* space, std::uint64_t address, unsigned bytes, unsigned lane) {
    char text[96];
    std::snprintf(text, sizeof text, "illegal %s memory access of %u bytes at 0x%llx", space, bytes,
                  static_cast<unsigned long long>(address));
    throw Fault(Status::illegal_address, text, address, lane);
}

std::byte* generic_place_elsewhere(Warp& w, std::uint64_t address, unsigned bytes, unsigned lane,
                                   bool write) {
    const std::uint64_t offset = address & kWindowMask;
    if (address % bytes != 0) misaligned(address, bytes, lane);
    switch (address & ~kWindowMask) {
        case kSharedWindow:
            return shared_place(w, offset, bytes, lane);
        case kLocalWindow:
            return local_place(w, offset, bytes, lane);
        case kParamWindow:
            if (!write && offset <= w.grid->params.size() &&
                w.grid->params.size() - offset >= bytes)
                return w.grid->params.data() + offset;
            break;
        case kFrameParamWindow: {
            const std::uint32_t size = w.frame->function->param_bytes;
            if (offset <= size && size - offset >= bytes)
                return w.frame->parameters + std::size_t{lane} * size + offset;
            break;
        }
        default:
            break;
    }
    illegal("generic", address, bytes, lane);
}

namespace {

// Whether equal addresses of this space mean the same memory in all lanes.
template <StateSpace S>
bool lanes_share(std::uint64_t address) {
    if (S == StateSpace::local) return false;
    return S != StateSpace::generic || address < kLocalWindow;
}

// M: type in memory; R: type of the register, to which M is extended.
template <class M, class R, StateSpace S>
void load(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    if (in.count == 1) {
        R* d = lanes_of<R>(w, in.d);
        if (mask == kAllLanes && lanes_share<S>(address[0])) {
            std::uint64_t gaps = 0;
            for (unsigned l = 0; l < kLanes; ++l) gaps |= address[l] - address[0] - l * sizeof(M);
            // Neighbouring lanes read neighbouring words: one check for the first and one for the
            // last.
            if (gaps == 0) {
                const std::byte* from = place<S>(w, address[0], sizeof(M), 0, false);
                place<S>(w, address[31], sizeof(M), 31, false);
                for (unsigned l = 0; l < kLanes; ++l) {
                    M value;
                    std::memcpy(&value, from + l * sizeof(M), sizeof(M));
                    d[l] = static_cast<R>(value);
                }
                return;
            }
        }
        each_lane(mask, [&](unsigned l) {
            M value;
            std::memcpy(&value, place<S>(w, address[l], sizeof(M), l, false), sizeof(M));
            d[l] = static_cast<R>(value);
        });
        return;
    }
    const std::uint32_t* parts = w.frame->function->operands.data() + in.aux;
    const unsigned bytes = static_cast<unsigned>(sizeof(M)) * in.count;
    std::byte* from[kLanes];
    each_lane(mask, [&](unsigned l) { from[l] = place<S>(w, address[l], bytes, l, false); });
    for (unsigned i = 0; i < in.count; ++i) {
        R* d = lanes_of<R>(w, parts[i]);
        each_lane(mask, [&](unsigned l) {
            M value;
            std::memcpy(&value, from[l] + i * sizeof(M), sizeof(M));
            d[l] = static_cast<R>(value);
        });
    }
}

template <class M, class R, StateSpace S>
void store(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    if (in.count == 1) {
        const R* b = lanes_of<R>(w, in.b);
        if (mask == kAllLanes && lanes_share<S>(address[0])) {
            std::uint64_t gaps = 0;
            for (unsigned l = 0; l < kLanes; ++l) gaps |= address[l] - address[0] - l * sizeof(M);
            if (gaps == 0) {
                std::byte* to = place<S>(w, address[0], sizeof(M), 0, true);
                place<S>(w, address[31], sizeof(M), 31, true);
                for (unsigned l = 0; l < kLanes; ++l) {
                    const auto value = static_cast<M>(b[l]);
                    std::memcpy(to + l * sizeof(M), &value, sizeof(M));
                }
                return;
            }
        }
        each_lane(mask, [&](unsigned l) {
            const auto value = static_cast<M>(b[l]);
            std::memcpy(place<S>(w, address[l], sizeof(M), l, true), &value, sizeof(M));
        });
        return;
    }
    const std::uint32_t* parts = w.frame->function->operands.data() + in.aux;
    const unsigned bytes = static_cast<unsigned>(sizeof(M)) * in.count;
    std::byte* to[kLanes];
    each_lane(mask, [&](unsigned l) { to[l] = place<S>(w, address[l], bytes, l, true); });
    for (unsigned i = 0; i < in.count; ++i) {
        const R* b = lanes_of<R>(w, parts[i]);
        each_lane(mask, [&](unsigned l) {
            const auto value = static_cast<M>(b[l]);
            std::memcpy(to[l] + i * sizeof(M), &value, sizeof(M));
        });
    }
}

// A kernel's parameters are the same for all lanes; imm was checked against the buffer when
// decoded.
template <class M, class R>
void load_parameter(Warp& w, const Inst& in, std::uint32_t mask) {
    for (unsigned i = 0; i < in.count; ++i) {
        M value;
        std::memcpy(&value,
                    w.grid->params.data() + static_cast<std::uint64_t>(in.imm) + i * sizeof(M),
                    sizeof(M));
        R* d = lanes_of<R>(w, in.count == 1 ? in.d : w.frame->function->operands[in.aux + i]);
        each_lane(mask, [=](unsigned l) { d[l] = static_cast<R>(value); });
    }
}

// Parameters and results of calls live in the frame; imm was checked when decoded.
template <class M, class R>
void load_frame(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::size_t stride = w.frame->function->param_bytes;
    for (unsigned i = 0; i < in.count; ++i) {
        const std::byte* from =
            w.frame->parameters + static_cast<std::uint64_t>(in.imm) + i * sizeof(M);
        R* d = lanes_of<R>(w, in.count == 1 ? in.d : w.frame->function->operands[in.aux + i]);
        each_lane(mask, [=](unsigned l) {
            M value;
            std::memcpy(&value, from + l * stride, sizeof(M));
            d[l] = static_cast<R>(value);
        });
    }
}

template <class M, class R>
void store_frame(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::size_t stride = w.frame->function->param_bytes;
    for (unsigned i = 0; i < in.count; ++i) {
        std::byte* to = w.frame->parameters + static_cast<std::uint64_t>(in.imm) + i * sizeof(M);
        const R* b = lanes_of<R>(w, in.count == 1 ? in.b : w.frame->function->operands[in.aux + i]);
        each_lane(mask, [=](unsigned l) {
            const auto value = static_cast<M>(b[l]);
            std::memcpy(to + l * stride, &value, sizeof(M));
        });
    }
}

enum class Route : std::uint8_t { global, shared, local, generic, kernel_parameter, frame };

template <class M, class R>
Handler load_handler(Route route) {
    switch (route) {
        case Route::global:
            return &load<M, R, StateSpace::global>;
        case Route::shared:
            return &load<M, R, StateSpace::shared>;
        case Route::local:
            return &load<M, R, StateSpace::local>;
        case Route::generic:
            return &load<M, R, StateSpace::generic>;
        case Route::kernel_parameter:
            return &load_parameter<M, R>;
        default:
            return &load_frame<M, R>;
    }
}

template <class M, class R>
Handler store_handler(Route route) {
    switch (route) {
        case Route::global:
            return &store<M, R, StateSpace::global>;
        case Route::shared:
            return &store<M, R, StateSpace::shared>;
        case Route::local:
            return &store<M, R, StateSpace::local>;
        case Route::frame:
            return &store_frame<M, R>;
        default:
            return &store<M, R, StateSpace::generic>;
    }
}

template <class R>
Handler load_extending(unsigned bytes, bool sign, Route route) {
    using S = std::make_signed_t<R>;
    if (bytes == 1)
        return sign ? load_handler<std::int8_t, S>(route) : load_handler<std::uint8_t, R>(route);
    if (bytes == 2)
        return sign ? load_handler<std::int16_t, S>(route) : load_handler<std::uint16_t, R>(route);
    if constexpr (sizeof(R) >= 4)
        if (bytes == 4)
            return sign ? load_handler<std::int32_t, S>(route)
                        : load_handler<std::uint32_t, R>(route);
    if constexpr (sizeof(R) == 8)
        if (bytes == 8) return load_handler<std::uint64_t, R>(route);
    return nullptr;
}

template <class R>
Handler store_cutting(unsigned bytes, Route route) {
    if (bytes == 1) return store_handler<std::uint8_t, R>(route);
    if (bytes == 2) return store_handler<std::uint16_t, R>(route);
    if constexpr (sizeof(R) >= 4)
        if (bytes == 4) return store_handler<std::uint32_t, R>(route);
    if constexpr (sizeof(R) == 8)
        if (bytes == 8) return store_handler<std::uint64_t, R>(route);
    return nullptr;
}

Handler choose(bool is_load, Type type, unsigned width, Route route) {
    const unsigned bytes = size_of(type);
    if (width == 16)
        return is_load ? load_handler<u128, u128>(route) : store_handler<u128, u128>(route);
    if (is_load) {
        if (width == 2) return load_extending<std::uint16_t>(bytes, is_signed(type), route);
        if (width == 4) return load_extending<std::uint32_t>(bytes, is_signed(type), route);
        return load_extending<std::uint64_t>(bytes, is_signed(type), route);
    }
    if (width == 2) return store_cutting<std::uint16_t>(bytes, route);
    if (width == 4) return store_cutting<std::uint32_t>(bytes, route);
    return store_cutting<std::uint64_t>(bytes, route);
}

StateSpace named_space(const Decoder& d) {
    for (const std::string_view modifier : d.in().modifiers) {
        if (modifier == "global") return StateSpace::global;
        if (modifier == "const") return StateSpace::constant;
        if (modifier.starts_with("shared")) return StateSpace::shared;
        if (modifier == "local") return StateSpace::local;
        if (modifier.starts_with("param")) return StateSpace::param;
    }
    return StateSpace::generic;
}

// Where a .param operand lies; sets imm to its whole offset there.
Route parameter_route(Decoder& d, const Operand& memory, unsigned bytes) {
    const Operand& base = memory.elements[0];
    if (base.kind == Operand::Kind::reg || base.kind == Operand::Kind::integer) {
        d.address(memory, StateSpace::param);
        return Route::generic;  // parameter addresses in registers carry their window
    }
    const bool is_kernel = d.function().is_entry && base.kind == Operand::Kind::parameter;
    const std::int64_t offset = memory.value + d.param_place(base);
    const syntax::Variable& variable =
        base.kind == Operand::Kind::parameter ? d.function().parameters[base.index]
        : base.kind == Operand::Kind::result  ? d.function().results[base.index]
                                              : d.function().variables[base.index];
    if (variable.space != StateSpace::param) d.fail("Argument must be a .param variable");
    if (memory.value < 0 || static_cast<std::uint64_t>(memory.value) + bytes > variable.size)
        d.fail("Access beyond the end of parameter '" + variable.name + "'");
    d.inst.imm = offset;
    return is_kernel ? Route::kernel_parameter : Route::frame;
}

unsigned vector_count(const Decoder& d) {
    if (d.has("v2")) return 2;
    if (d.has("v4")) return 4;
    if (d.has("v8")) return 8;
    return 1;
}

bool decode_access(Decoder& d, bool is_load) {
    Inst& inst = d.inst;
    d.need(2, 3);  // a cache policy may follow
    const Type type = d.type(d.types() - 1);
    const unsigned count = vector_count(d);
    const Operand& given = d.operand(is_load ? 0 : 1);
    const Operand& memory = d.operand(is_load ? 1 : 0);
    // Triton writes one value as a vector of one.
    const bool braced =
        count == 1 && given.kind == Operand::Kind::vector && given.elements.size() == 1;
    const Operand& value = braced ? given.elements[0] : given;
    if ((value.kind == Operand::Kind::vector ? value.elements.size() : 1) != count)
        d.fail("Vector size of the argument does not match the instruction");
    if (size_of(type) == 0) d.unsupported();
    const unsigned bytes = size_of(type) * count;
    if (bytes > 32) d.unsupported();
    const StateSpace space = named_space(d);
    Route route = Route::generic;
    if (memory.kind != Operand::Kind::memory) d.fail("Argument must be an address in brackets");
    if (space == StateSpace::param) {
        route = parameter_route(d, memory, bytes);
        if (!is_load && route == Route::kernel_parameter) d.fail("Kernel parameters are read-only");
    } else {
        switch (d.address(memory, space)) {
            case StateSpace::global:
            case StateSpace::constant:
                route = Route::global;
                break;
            case StateSpace::shared:
                route = Route::shared;
                break;
            case StateSpace::local:
                route = Route::local;
                break;
            default:
                route = Route::generic;
                break;
        }
    }
    // All elements have registers of one width, in which narrow values are extended.
    unsigned width = width_of(type);
    const auto register_width = [&](const Operand& each) {
        const Type own = d.register_type(each);
        return own == Type::none || own == Type::pred ? 0U : width_of(own);
    };
    const Operand& first = count == 1 ? value : value.elements[0];
    if (register_width(first) > width && register_width(first) <= 8) width = register_width(first);
    const Type as = width == 2   ? (is_signed(type) ? Type::s16 : Type::b16)
                    : width == 4 ? (is_signed(type) ? Type::s32 : Type::b32)
                    : width == 8 ? (is_signed(type) ? Type::s64 : Type::b64)
                                 : Type::b128;
    const Type exact = width == width_of(type) ? type : as;
    const auto resolve = [&](const Operand& each) {
        return is_load ? d.dest(each, exact) : d.source(each, exact);
    };
    if (count == 1) {
        (is_load ? inst.d : inst.b) = resolve(value);
    } else {
        std::vector<std::uint32_t> places;
        for (const Operand& each : value.elements) places.push_back(resolve(each));
        inst.count = static_cast<std::uint8_t>(count);
        inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
        d.code().operands.insert(d.code().operands.end(), places.begin(), places.end());
    }
    inst.run = choose(is_load, type, width, route);
    if (inst.run == nullptr) d.unsupported();
    return true;
}

void hint_spin(Warp& w, const Inst&, std::uint32_t) {
    w.spin_hint();
}
void nothing(Warp&, const Inst&, std::uint32_t) {}

}  // namespace

bool decode_memory(Decoder& d) {
    const std::string_view op = d.opcode();
    if (op == "ld" || op == "ldu") {
        decode_access(d, true);
        if (d.has("volatile") || d.has("acquire") || d.has("relaxed") || d.has("mmio")) {
            Inst hint;
            hint.run = &hint_spin;
            d.emit_after(hint);
        }
        return true;
    }
    if (op == "st") return decode_access(d, false);
    if (op == "prefetch" || op == "prefetchu" || op == "applypriority" || op == "discard" ||
        op == "createpolicy") {
        if (op == "createpolicy") d.dest(0, Type::b64);
        d.inst.run = &nothing;
        return true;
    }
    return false;
}

}  // namespace carrel::softgpu::ptx
