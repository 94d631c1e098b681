// mov in all its forms, and conversions between address spaces.
#include <cstring>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"
#include "softgpu/ptx/program.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;

namespace {

template <class T>
struct Copy {
    CARREL_INLINE T apply(T a) { return a; }
};

Handler copy_handler(unsigned width) {
    switch (width) {
        case 2:
            return map1<std::uint16_t, std::uint16_t, Copy<std::uint16_t>>();
        case 4:
            return map1<std::uint32_t, std::uint32_t, Copy<std::uint32_t>>();
        case 8:
            return map1<std::uint64_t, std::uint64_t, Copy<std::uint64_t>>();
        default:
            return map1<unsigned __int128, unsigned __int128, Copy<unsigned __int128>>();
    }
}

void copy_predicate(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t value = predicate_of(w, in.a);
    set_predicate(predicate_of(w, in.d), mask, (in.flags & kNegateA) != 0 ? ~value : value);
}

// Elements of E bytes (in registers of R bytes) to and from one value of count × E bytes.
template <unsigned E, unsigned R>
void pack(Warp& w, const Inst& in, std::uint32_t mask) {
    std::byte* d = lanes_of<std::byte>(w, in.d);
    const std::uint32_t* parts = w.frame->function->operands.data() + in.aux;
    const unsigned whole = E * in.count;
    for (unsigned i = 0; i < in.count; ++i) {
        const std::byte* part = lanes_of<std::byte>(w, parts[i]);
        each_lane(mask, [=](unsigned l) { std::memcpy(d + l * whole + i * E, part + l * R, E); });
    }
}

template <unsigned E, unsigned R>
void unpack(Warp& w, const Inst& in, std::uint32_t mask) {
    const unsigned whole = E * in.count;
    const std::byte* source = lanes_of<std::byte>(w, in.a);
    alignas(64) std::byte copy[16 * kLanes];  // a part may be the whole's own register
    std::memcpy(copy, source, std::size_t{whole} * kLanes);
    const std::uint32_t* parts = w.frame->function->operands.data() + in.aux;
    for (unsigned i = 0; i < in.count; ++i) {
        std::byte* part = lanes_of<std::byte>(w, parts[i]);
        each_lane(mask, [&](unsigned l) {
            std::memset(part + l * R, 0, R);
            std::memcpy(part + l * R, copy + l * whole + i * E, E);
        });
    }
}

bool decode_vector_move(Decoder& d) {
    Inst& inst = d.inst;
    const unsigned whole = width_of(d.type());
    const bool packs = d.operand(1).kind == Operand::Kind::vector;
    const Operand& vector = d.operand(packs ? 1 : 0);
    const auto count = static_cast<unsigned>(vector.elements.size());
    if (count == 0 || count > 8 || whole % count != 0) d.unsupported();
    const unsigned element = whole / count;
    const Type type = element == 1   ? Type::b8
                      : element == 2 ? Type::b16
                      : element == 4 ? Type::b32
                                     : Type::b64;
    std::vector<std::uint32_t> places;
    for (const Operand& each : vector.elements)
        places.push_back(packs ? d.source(each, type) : d.dest(each, type));
    inst.count = static_cast<std::uint8_t>(count);
    inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
    d.code().operands.insert(d.code().operands.end(), places.begin(), places.end());
    if (packs)
        inst.d = d.dest(0, d.type());
    else
        inst.a = d.source(1, d.type());
    switch (element) {
        case 1:
            inst.run = packs ? &pack<1, 2> : &unpack<1, 2>;
            break;
        case 2:
            inst.run = packs ? &pack<2, 2> : &unpack<2, 2>;
            break;
        case 4:
            inst.run = packs ? &pack<4, 4> : &unpack<4, 4>;
            break;
        case 8:
            inst.run = packs ? &pack<8, 8> : &unpack<8, 8>;
            break;
        default:
            d.unsupported();
    }
    return true;
}

template <std::uint64_t Window>
struct ToGeneric {
    CARREL_INLINE std::uint64_t apply(std::uint64_t a) { return a + Window; }
};
struct FromWindow {
    CARREL_INLINE std::uint64_t apply(std::uint64_t a) { return a & kWindowMask; }
};

bool decode_cvta(Decoder& d) {
    Inst& inst = d.inst;
    d.need(2);
    if (width_of(d.type()) != 8) d.fail("Only 64-bit generic addresses are supported");
    // A variable's name stands for its address in its own space.
    inst.a = d.source(1, Type::u64);
    inst.d = d.dest(0, Type::u64);
    const bool to = d.has("to");
    const bool shared = d.has("shared") || d.has("shared::cta") || d.has("shared::cluster");
    if (shared)
        inst.run = to ? map1<std::uint64_t, std::uint64_t, FromWindow>()
                      : map1<std::uint64_t, std::uint64_t, ToGeneric<kSharedWindow>>();
    else if (d.has("local"))
        inst.run = to ? map1<std::uint64_t, std::uint64_t, FromWindow>()
                      : map1<std::uint64_t, std::uint64_t, ToGeneric<kLocalWindow>>();
    else
        inst.run = copy_handler(8);  // global, const and param addresses are generic ones
    return true;
}

bool in_constant(const ProgramImpl& program, std::uint64_t address) {
    for (std::size_t i = 0; i < program.variables.size(); ++i) {
        const std::uint64_t start = program.linked_variables[i].address;
        if (program.variables[i].space == Space::constant && address >= start &&
            address - start < program.variables[i].size)
            return true;
    }
    return false;
}

void is_space(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint64_t* a = lanes_of<std::uint64_t>(w, in.a);
    const auto window = static_cast<std::uint64_t>(in.imm);
    const bool constant = (in.flags & kUserFlag) != 0;
    const ProgramImpl& program = *w.grid->program;
    set_predicate(predicate_of(w, in.d), mask, lanes_where(mask, [&](unsigned l) {
                      if (constant) return in_constant(program, a[l]);
                      return a[l] >> kWindowShift == window;
                  }));
}

bool decode_isspacep(Decoder& d) {
    Inst& inst = d.inst;
    d.need(2);
    inst.d = d.predicate_dest(d.operand(0));
    inst.a = d.source(1, Type::u64);
    inst.run = &is_space;
    if (d.has("shared") || d.has("shared::cta") || d.has("shared::cluster"))
        inst.imm = kSharedWindow >> kWindowShift;
    else if (d.has("local"))
        inst.imm = kLocalWindow >> kWindowShift;
    else if (d.has("param") || d.has("param::entry"))
        inst.imm = kParamWindow >> kWindowShift;
    else if (d.has("const"))
        inst.flags |= kUserFlag;
    else if (!d.has("global"))
        d.unsupported();
    return true;
}

}  // namespace

bool decode_move(Decoder& d) {
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (op == "mov") {
        d.need(2);
        if (d.type() == Type::pred) {
            inst.a = d.predicate_source(1, kNegateA);
            inst.d = d.predicate_dest(d.operand(0));
            inst.run = &copy_predicate;
            return true;
        }
        if (d.operand(0).kind == Operand::Kind::vector ||
            d.operand(1).kind == Operand::Kind::vector)
            return decode_vector_move(d);
        inst.a = d.source(1, d.type());
        inst.d = d.dest(0, d.type());
        inst.run = copy_handler(width_of(d.type()));
        return true;
    }
    if (op == "cvta") return decode_cvta(d);
    if (op == "isspacep") return decode_isspacep(d);
    if (op == "mapa") {  // the only block of a cluster is this one
        d.need(3);
        inst.a = d.source(1, d.type());
        inst.d = d.dest(0, d.type());
        inst.run = copy_handler(width_of(d.type()));
        return true;
    }
    return false;
}

}  // namespace carrel::softgpu::ptx
