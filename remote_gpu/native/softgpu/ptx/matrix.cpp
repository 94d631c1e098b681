// Matrix products of a warp (mma), loading their fragments (ldmatrix), and copies to shared memory
// (cp.async).
//
// All shapes up to m16n8 share one layout: with g = lane / 4, t = lane % 4 and P elements in a
// register of A and B,
//   A: register i, element j is row g + 8 (i mod 2), column t P + j + 4 P (i / 2)
//   B: register i, element j is row t P + j + 4 P i, column g
//   C, D: element i is row g + 8 (i / 2), column 2 t + i mod 2
#include <cmath>
#include <initializer_list>

#include "softgpu/ptx/access.hpp"
#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/half.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;

namespace {

constexpr unsigned kMaxRows = 16, kColumns = 8, kMaxDepth = 32;

struct Shape {
    unsigned rows = 16;
    unsigned depth = 8;
    Type accumulator_d = Type::f32;
    Type a = Type::f16;
    Type b = Type::f16;
    Type accumulator_c = Type::f32;
    bool saturates = false;
};

std::int64_t encode(const Shape& s) {
    return static_cast<std::int64_t>(s.rows) | static_cast<std::int64_t>(s.depth) << 8 |
           static_cast<std::int64_t>(s.accumulator_d) << 16 | static_cast<std::int64_t>(s.a) << 24 |
           static_cast<std::int64_t>(s.b) << 32 | static_cast<std::int64_t>(s.accumulator_c) << 40 |
           std::int64_t{s.saturates} << 48;
}
Shape decode(std::int64_t imm) {
    const auto byte = [imm](int at) { return static_cast<std::uint8_t>(imm >> at); };
    return {byte(0),
            byte(8),
            static_cast<Type>(byte(16)),
            static_cast<Type>(byte(24)),
            static_cast<Type>(byte(32)),
            static_cast<Type>(byte(40)),
            byte(48) != 0};
}

unsigned elements_per_register(Type type) {
    return type == Type::f64 ? 1 : 4 / size_of(type);
}

// One element out of a register's bits. Integers up to 32 bits and all these floats are exact in
// double.
double element(Type type, std::uint64_t bits, unsigned j) {
    switch (type) {
        case Type::f16:
            return Float16::widen(static_cast<std::uint16_t>(bits >> (16 * j)));
        case Type::bf16:
            return BFloat16::widen(static_cast<std::uint16_t>(bits >> (16 * j)));
        case Type::tf32:
            return std::bit_cast<float>(static_cast<std::uint32_t>(bits) & 0xffffe000U);
        case Type::s8:
            return static_cast<std::int8_t>(bits >> (8 * j));
        case Type::u8:
            return static_cast<std::uint8_t>(bits >> (8 * j));
        case Type::s32:
            return static_cast<std::int32_t>(bits);
        case Type::f64:
            return std::bit_cast<double>(bits);
        default:
            return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    }
}

std::uint64_t register_bits(Warp& w, std::uint32_t place, Type type, unsigned lane) {
    return type == Type::f64 ? lanes_of<std::uint64_t>(w, place)[lane]
                             : lanes_of<std::uint32_t>(w, place)[lane];
}

std::int32_t wrapped(double exact, bool saturates) {
    if (saturates) return static_cast<std::int32_t>(std::min(std::max(exact, -0x1p31), 0x1p31 - 1));
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int64_t>(exact)));
}

void multiply(Warp& w, const Inst& in, std::uint32_t mask) {
    const Shape s = decode(in.imm);
    const std::uint32_t* places = w.frame->function->operands.data() + in.aux;
    const std::uint32_t* d_places = places + 4;
    const std::uint32_t* a_places = d_places + places[0];
    const std::uint32_t* b_places = a_places + places[1];
    const std::uint32_t* c_places = b_places + places[2];
    const unsigned per_a = elements_per_register(s.a);
    double a[kMaxRows][kMaxDepth] = {};
    double b[kMaxDepth][kColumns] = {};
    double c[kMaxRows][kColumns] = {};
    const unsigned per_c = s.accumulator_c == Type::f16 ? 2 : 1;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        const unsigned g = lane / 4;
        const unsigned t = lane % 4;
        for (unsigned i = 0; i < places[1]; ++i)
            for (unsigned j = 0; j < per_a; ++j)
                a[g + 8 * (i % 2)][t * per_a + j + 4 * per_a * (i / 2)] =
                    element(s.a, register_bits(w, a_places[i], s.a, lane), j);
        for (unsigned i = 0; i < places[2]; ++i)
            for (unsigned j = 0; j < per_a; ++j)
                b[t * per_a + j + 4 * per_a * i][g] =
                    element(s.b, register_bits(w, b_places[i], s.b, lane), j);
        for (unsigned i = 0; i < places[3] * per_c; ++i)
            c[g + 8 * (i / 2)][2 * t + i % 2] =
                element(s.accumulator_c,
                        register_bits(w, c_places[i / per_c], s.accumulator_c, lane), i % per_c);
    }
    // Products of the small formats are exact in double, and so nearly are their sums.
    for (unsigned row = 0; row < s.rows; ++row)
        for (unsigned column = 0; column < kColumns; ++column)
            for (unsigned k = 0; k < s.depth; ++k)
                c[row][column] = std::fma(a[row][k], b[k][column], c[row][column]);
    each_lane(mask, [&](unsigned lane) {
        const unsigned g = lane / 4;
        const unsigned t = lane % 4;
        const auto value = [&](unsigned i) { return c[g + 8 * (i / 2)][2 * t + i % 2]; };
        for (unsigned i = 0; i < places[0]; ++i) {
            switch (s.accumulator_d) {
                case Type::f64:
                    lanes_of<double>(w, d_places[i])[lane] = value(i);
                    break;
                case Type::f32:
                    lanes_of<float>(w, d_places[i])[lane] = static_cast<float>(value(i));
                    break;
                case Type::f16:
                    lanes_of<std::uint32_t>(w, d_places[i])[lane] =
                        Float16::narrow(static_cast<float>(value(2 * i))) |
                        std::uint32_t{Float16::narrow(static_cast<float>(value(2 * i + 1)))} << 16;
                    break;
                default:
                    lanes_of<std::int32_t>(w, d_places[i])[lane] = wrapped(value(i), s.saturates);
                    break;
            }
        }
    });
}

bool decode_multiply(Decoder& d) {
    Inst& inst = d.inst;
    d.need(4);
    Shape shape;
    unsigned columns = 0;
    for (const std::string_view modifier : d.in().modifiers) {
        if (modifier.size() < 6 || modifier[0] != 'm' || modifier[1] < '0' || modifier[1] > '9')
            continue;
        unsigned* const parts[] = {&shape.rows, &columns, &shape.depth};
        int part = -1;
        for (const char c : modifier) {
            if (c >= '0' && c <= '9')
                *parts[part] = *parts[part] * 10 + static_cast<unsigned>(c - '0');
            else if (++part < 3)
                *parts[part] = 0;
            else
                d.unsupported();
        }
    }
    shape.accumulator_d = d.type(0);
    shape.a = d.type(1);
    shape.b = d.type(2);
    shape.accumulator_c = d.type(3);
    shape.saturates = d.has("satfinite");
    if (columns != kColumns || (shape.rows != 8 && shape.rows != 16) || shape.depth > kMaxDepth ||
        d.has("sp") || !d.has("row") || !d.has("col") || d.has("xor") || d.has("and"))
        d.unsupported();
    const unsigned per = elements_per_register(shape.a);
    const auto registers = [&](unsigned elements, Type type) {
        return elements / kLanes / elements_per_register(type);
    };
    const bool known_input = shape.a == Type::f16 || shape.a == Type::bf16 ||
                             shape.a == Type::tf32 || shape.a == Type::f64 || shape.a == Type::s8 ||
                             shape.a == Type::u8;
    const bool known_output = shape.accumulator_d == Type::f32 ||
                              shape.accumulator_d == Type::f16 ||
                              shape.accumulator_d == Type::f64 || shape.accumulator_d == Type::s32;
    if (!known_input || !known_output || elements_per_register(shape.b) != per) d.unsupported();
    const unsigned counts[] = {registers(shape.rows * kColumns, shape.accumulator_d),
                               registers(shape.rows * shape.depth, shape.a),
                               registers(kColumns * shape.depth, shape.b),
                               registers(shape.rows * kColumns, shape.accumulator_c)};
    // The older m8n8k4 of f16 has a layout of its own.
    if (shape.rows == 8 && shape.a == Type::f16) d.unsupported();
    std::vector<std::uint32_t> table(std::begin(counts), std::end(counts));
    const Type types[] = {shape.accumulator_d, shape.a, shape.b, shape.accumulator_c};
    for (unsigned which = 0; which < 4; ++which) {
        const Operand& operand = d.operand(which);
        const std::size_t size =
            operand.kind == Operand::Kind::vector ? operand.elements.size() : 1;
        if (size != counts[which])
            d.fail("mma needs " + std::to_string(counts[which]) + " registers as argument " +
                   std::to_string(which) + ", not " + std::to_string(size));
        const Type type = types[which] == Type::f64 ? Type::f64 : Type::b32;
        for (std::size_t i = 0; i < size; ++i) {
            const Operand& each =
                operand.kind == Operand::Kind::vector ? operand.elements[i] : operand;
            table.push_back(which == 0 ? d.dest(each, type) : d.source(each, type));
        }
    }
    inst.control = Control::warp_sync;
    inst.imm = encode(shape);
    inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
    d.code().operands.insert(d.code().operands.end(), table.begin(), table.end());
    inst.run = &multiply;
    return true;
}

// Lanes 8 i … 8 i + 7 give the addresses of the rows of matrix i; each lane gets two neighbouring
// elements of it.
template <bool Transposed>
void load_matrix(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    const std::uint32_t* parts = w.frame->function->operands.data() + in.aux;
    const auto space = static_cast<StateSpace>(in.b);
    for (unsigned i = 0; i < in.count; ++i) {
        std::uint16_t matrix[8][8];
        for (unsigned row = 0; row < 8; ++row) {
            const unsigned lane = 8 * i + row;
            std::memcpy(matrix[row], place_in(w, space, address[lane], 16, lane, false), 16);
        }
        std::uint32_t* d = lanes_of<std::uint32_t>(w, parts[i]);
        each_lane(mask, [&](unsigned l) {
            const unsigned g = l / 4;
            const unsigned t = l % 4 * 2;
            d[l] = Transposed ? matrix[t][g] | std::uint32_t{matrix[t + 1][g]} << 16
                              : matrix[g][t] | std::uint32_t{matrix[g][t + 1]} << 16;
        });
    }
}

bool decode_load_matrix(Decoder& d) {
    Inst& inst = d.inst;
    d.need(2);
    const unsigned count = d.has("x4") ? 4 : d.has("x2") ? 2 : 1;
    const Operand& target = d.operand(0);
    if (!d.has("m8n8") || !d.has("b16")) d.unsupported();
    if ((target.kind == Operand::Kind::vector ? target.elements.size() : 1) != count)
        d.fail("ldmatrix needs " + std::to_string(count) + " destination registers");
    const bool shared = d.has("shared") || d.has("shared::cta");
    const StateSpace space =
        d.address(d.operand(1), shared ? StateSpace::shared : StateSpace::generic);
    std::vector<std::uint32_t> places;
    if (target.kind == Operand::Kind::vector)
        for (const Operand& each : target.elements) places.push_back(d.dest(each, Type::b32));
    else
        places.push_back(d.dest(target, Type::b32));
    inst.control = Control::warp_sync;
    inst.count = static_cast<std::uint8_t>(count);
    inst.b = static_cast<std::uint32_t>(space);
    inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
    d.code().operands.insert(d.code().operands.end(), places.begin(), places.end());
    inst.run = d.has("trans") ? &load_matrix<true> : &load_matrix<false>;
    return true;
}

// Copies at once: waiting for groups then has nothing to wait for.
void copy_to_shared(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint64_t to[kLanes];
    lane_addresses(w, in, to);
    const std::uint64_t* from = lanes_of<std::uint64_t>(w, in.b);
    const std::uint32_t* available =
        in.c == kNoOperand ? nullptr : lanes_of<std::uint32_t>(w, in.c);
    const unsigned bytes = in.count;
    const auto offset = static_cast<std::uint64_t>(std::int64_t{static_cast<std::int32_t>(in.aux)});
    each_lane(mask, [&](unsigned l) {
        std::byte* target = shared_place(w, to[l], bytes, l);
        const unsigned used = available == nullptr ? bytes : std::min(available[l], bytes);
        std::memset(target, 0, bytes);
        if (used != 0)
            std::memcpy(target, generic_place(w, from[l] + offset, bytes, l, false), used);
    });
}

void ignored_source(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    const std::uint32_t p = predicate_of(w, in.a);
    const auto bytes = static_cast<std::uint32_t>(in.imm);
    each_lane(mask, [=](unsigned l) { d[l] = (p >> l & 1) != 0 ? 0 : bytes; });
}

void nothing(Warp&, const Inst&, std::uint32_t) {}

bool decode_async_copy(Decoder& d) {
    Inst& inst = d.inst;
    if (d.has("commit_group") || d.has("wait_group") || d.has("wait_all")) {
        inst.run = &nothing;
        return true;
    }
    if (d.has("bulk") || d.has("mbarrier") || (!d.has("ca") && !d.has("cg"))) d.unsupported();
    d.need(3, 5);
    const std::int64_t bytes = d.operand(2).value;
    if (bytes != 4 && bytes != 8 && bytes != 16) d.unsupported();
    d.address(d.operand(1), StateSpace::global);
    if ((inst.flags & kAddress32) != 0) d.fail("A global address needs a 64-bit register");
    inst.b = inst.a;
    if (inst.imm != static_cast<std::int32_t>(inst.imm)) d.fail("Offset is too large");
    inst.aux = static_cast<std::uint32_t>(inst.imm);
    d.address(d.operand(0), StateSpace::shared);
    inst.count = static_cast<std::uint8_t>(bytes);
    if (d.operands() > 3) {
        if (d.is_predicate(d.operand(3))) {
            Inst choose;
            choose.a = d.predicate_source(3, kNegateA);
            choose.d = d.temporary(4);
            choose.imm = bytes;
            choose.run = &ignored_source;
            d.emit_before(choose);
            inst.c = choose.d;
        } else if (d.register_type(d.operand(3)) != Type::b64 &&
                   d.register_type(d.operand(3)) != Type::u64) {
            inst.c = d.source(3, Type::u32);  // else it is a cache policy
        }
    }
    inst.run = &copy_to_shared;
    return true;
}

}  // namespace

bool decode_matrix(Decoder& d) {
    const std::string_view op = d.opcode();
    if (op == "mma") return decode_multiply(d);
    if (op == "ldmatrix") return decode_load_matrix(d);
    if (op == "cp" && d.has("async")) return decode_async_copy(d);
    return false;
}

}  // namespace carrel::softgpu::ptx
