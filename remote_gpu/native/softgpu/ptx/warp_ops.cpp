// Operations between the lanes of a warp: shuffles, votes, matches, reductions.
#include <algorithm>
#include <cstring>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;

namespace {

// Lanes that stand at one instruction may belong to several groups, each with its own membermask.
template <class Body>
void each_group(Warp& w, const Inst& in, std::uint32_t mask, Body body) {
    if (in.c == kNoOperand || in.control != Control::warp_sync) return body(mask);
    const std::uint32_t* members = lanes_of<std::uint32_t>(w, in.c);
    for (std::uint32_t left = mask; left != 0;) {
        const std::uint32_t named = members[std::countr_zero(left)];
        const std::uint32_t group =
            lanes_where(left, [=](unsigned l) { return members[l] == named; });
        body(group);
        left &= ~group;
    }
}

// --- shfl ---

enum class ShuffleMode : std::uint8_t { up, down, bfly, idx };

template <ShuffleMode M>
void shuffle(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t* a = lanes_of<std::uint32_t>(w, in.a);
    const std::uint32_t* b = lanes_of<std::uint32_t>(w, in.b);
    const std::uint32_t* c = lanes_of<std::uint32_t>(w, w.frame->function->operands[in.aux]);
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    std::uint32_t result[kLanes];
    std::uint32_t in_range = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) {
        const std::uint32_t segment = c[lane] >> 8 & 31;
        const std::uint32_t clamp = c[lane] & 31;
        const std::uint32_t by = b[lane] & 31;
        const auto lowest = static_cast<int>(lane & segment);
        const auto highest = static_cast<int>((lane & segment) | (clamp & ~segment & 31));
        const auto self = static_cast<int>(lane);
        int from = 0;
        bool inside = false;
        switch (M) {
            case ShuffleMode::up:
                from = self - static_cast<int>(by);
                inside = from >= highest;
                break;
            case ShuffleMode::down:
                from = self + static_cast<int>(by);
                inside = from <= highest;
                break;
            case ShuffleMode::bfly:
                from = self ^ static_cast<int>(by);
                inside = from <= highest;
                break;
            case ShuffleMode::idx:
                from = lowest | static_cast<int>(by & ~segment & 31);
                inside = from <= highest;
                break;
        }
        result[lane] = a[inside ? from & 31 : self];
        in_range |= std::uint32_t{inside} << lane;
    }
    each_lane(mask, [&](unsigned l) { d[l] = result[l]; });
    const std::uint32_t p = w.frame->function->operands[in.aux + 1];
    if (p != kNoOperand) set_predicate(predicate_of(w, p), mask, in_range);
}

bool decode_shuffle(Decoder& d) {
    Inst& inst = d.inst;
    const bool sync = d.has("sync");
    d.need(sync ? 5 : 4);
    const Operand& target = d.operand(0);
    const bool pair = target.kind == Operand::Kind::pair;
    inst.a = d.source(1, Type::b32);
    inst.b = d.source(2, Type::b32);
    const std::uint32_t c = d.source(3, Type::b32);
    if (sync) {
        inst.control = Control::warp_sync;
        inst.c = d.source(4, Type::b32);
    }
    inst.d = d.dest(pair ? target.elements[0] : target, Type::b32);
    const std::uint32_t p = pair ? d.predicate_dest(target.elements[1]) : kNoOperand;
    inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
    d.code().operands.push_back(c);
    d.code().operands.push_back(p);
    if (d.has("up"))
        inst.run = &shuffle<ShuffleMode::up>;
    else if (d.has("down"))
        inst.run = &shuffle<ShuffleMode::down>;
    else if (d.has("bfly"))
        inst.run = &shuffle<ShuffleMode::bfly>;
    else if (d.has("idx"))
        inst.run = &shuffle<ShuffleMode::idx>;
    else
        d.unsupported();
    return true;
}

// --- vote ---

enum class Vote : std::uint8_t { all, any, uni, ballot };

template <Vote V>
void vote(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint32_t votes = predicate_of(w, in.a);
    if ((in.flags & kNegateA) != 0) votes = ~votes;
    each_group(w, in, mask, [&](std::uint32_t group) {
        const std::uint32_t yes = votes & group;
        if constexpr (V == Vote::ballot) {
            std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
            each_lane(group, [=](unsigned l) { d[l] = yes; });
        } else {
            const bool result = V == Vote::all   ? yes == group
                                : V == Vote::any ? yes != 0
                                                 : yes == 0 || yes == group;
            set_predicate(predicate_of(w, in.d), group, result ? kAllLanes : 0);
        }
    });
}

bool decode_vote(Decoder& d) {
    Inst& inst = d.inst;
    const bool sync = d.has("sync");
    d.need(sync ? 3 : 2);
    inst.a = d.predicate_source(1, kNegateA);
    if (sync) {
        inst.control = Control::warp_sync;
        inst.c = d.source(2, Type::b32);
    }
    if (d.has("ballot")) {
        inst.d = d.dest(0, Type::b32);
        inst.run = &vote<Vote::ballot>;
        return true;
    }
    inst.d = d.predicate_dest(d.operand(0));
    inst.run = d.has("all") ? &vote<Vote::all> : d.has("any") ? &vote<Vote::any> : &vote<Vote::uni>;
    return true;
}

// --- match ---

template <class T, bool All>
void match(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    std::uint32_t result[kLanes];
    each_group(w, in, mask, [&](std::uint32_t group) {
        for (std::uint32_t left = group; left != 0;) {
            const T value = a[std::countr_zero(left)];
            const std::uint32_t same =
                lanes_where(group, [=](unsigned l) { return a[l] == value; });
            const std::uint32_t found = All ? (same == group ? group : 0) : same;
            each_lane(same, [&](unsigned l) { result[l] = found; });
            if (All && in.aux != 0)
                set_predicate(predicate_of(w, in.aux - 1), same, found != 0 ? kAllLanes : 0);
            left &= ~same;
        }
    });
    each_lane(mask, [&](unsigned l) { d[l] = result[l]; });
}

bool decode_match(Decoder& d) {
    Inst& inst = d.inst;
    d.need(3);
    const Type type = d.type();
    const Operand& target = d.operand(0);
    const bool pair = target.kind == Operand::Kind::pair;
    inst.a = d.source(1, type);
    inst.control = Control::warp_sync;
    inst.c = d.source(2, Type::b32);
    inst.d = d.dest(pair ? target.elements[0] : target, Type::b32);
    if (pair) inst.aux = d.predicate_dest(target.elements[1]) + 1;
    const bool all = d.has("all");
    if (width_of(type) == 4)
        inst.run = all ? &match<std::uint32_t, true> : &match<std::uint32_t, false>;
    else if (width_of(type) == 8)
        inst.run = all ? &match<std::uint64_t, true> : &match<std::uint64_t, false>;
    else
        d.unsupported();
    return true;
}

// --- redux, elect, activemask ---

template <class T>
void reduce(Warp& w, const Inst& in, std::uint32_t mask) {
    const T* a = lanes_of<T>(w, in.a);
    T* d = lanes_of<T>(w, in.d);
    each_group(w, in, mask, [&](std::uint32_t group) {
        T result = a[std::countr_zero(group)];
        for (std::uint32_t left = group & (group - 1); left != 0; left &= left - 1) {
            const T value = a[std::countr_zero(left)];
            switch (in.imm) {
                case '+': {
                    const auto sum =
                        static_cast<std::uint32_t>(result) + static_cast<std::uint32_t>(value);
                    result = static_cast<T>(sum);
                    break;
                }
                case '<':
                    result = std::min(result, value);
                    break;
                case '>':
                    result = std::max(result, value);
                    break;
                case '&':
                    result = static_cast<T>(result & value);
                    break;
                case '|':
                    result = static_cast<T>(result | value);
                    break;
                default:
                    result = static_cast<T>(result ^ value);
                    break;
            }
        }
        each_lane(group, [=](unsigned l) { d[l] = result; });
    });
}

bool decode_reduce(Decoder& d) {
    Inst& inst = d.inst;
    d.need(3);
    const Type type = d.type();
    if (width_of(type) != 4 || !is_integer(type)) d.unsupported();
    inst.a = d.source(1, type);
    inst.control = Control::warp_sync;
    inst.c = d.source(2, Type::b32);
    inst.d = d.dest(0, type);
    inst.imm = d.has("add")   ? '+'
               : d.has("min") ? '<'
               : d.has("max") ? '>'
               : d.has("and") ? '&'
               : d.has("or")  ? '|'
               : d.has("xor") ? '^'
                              : 0;
    if (inst.imm == 0) d.unsupported();
    inst.run = is_signed(type) ? &reduce<std::int32_t> : &reduce<std::uint32_t>;
    return true;
}

void elect(Warp& w, const Inst& in, std::uint32_t mask) {
    each_group(w, in, mask, [&](std::uint32_t group) {
        const auto leader = static_cast<std::uint32_t>(std::countr_zero(group));
        if (in.d != kNoOperand) {
            std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
            each_lane(group, [=](unsigned l) { d[l] = leader; });
        }
        set_predicate(predicate_of(w, in.aux), group, std::uint32_t{1} << leader);
    });
}

void active_mask(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint32_t* d = lanes_of<std::uint32_t>(w, in.d);
    each_lane(mask, [=](unsigned l) { d[l] = mask; });
}

}  // namespace

bool decode_warp(Decoder& d) {
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (op == "shfl") return decode_shuffle(d);
    if (op == "vote") return decode_vote(d);
    if (op == "match") return decode_match(d);
    if (op == "redux") return decode_reduce(d);
    if (op == "activemask") {
        d.need(1);
        inst.d = d.dest(0, Type::b32);
        inst.run = &active_mask;
        return true;
    }
    if (op == "elect") {
        d.need(2);
        const Operand& target = d.operand(0);
        if (target.kind != Operand::Kind::pair) d.unsupported();
        inst.control = Control::warp_sync;
        inst.c = d.source(1, Type::b32);
        if (target.elements[0].kind != Operand::Kind::sink)
            inst.d = d.dest(target.elements[0], Type::b32);
        inst.aux = d.predicate_dest(target.elements[1]);
        inst.run = &elect;
        return true;
    }
    return false;
}

}  // namespace carrel::softgpu::ptx
