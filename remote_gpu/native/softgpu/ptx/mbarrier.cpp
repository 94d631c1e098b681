// Barriers in memory (mbarrier): threads arrive, and ask whether a phase is over. The word's layout
// is ours, as PTX says that it is opaque: arrivals to come (20 bits), arrivals of a whole phase
// (20 bits), number of the phase (24 bits).
#include <bit>

#include "softgpu/ptx/access.hpp"
#include "softgpu/ptx/decoder.hpp"

namespace carrel::softgpu::ptx {
namespace {

constexpr unsigned kCountBits = 20;
constexpr std::uint64_t kCountMask = (std::uint64_t{1} << kCountBits) - 1;

struct State {
    std::uint64_t pending = 0, expected = 0, phase = 0;

    static State of(std::uint64_t word) {
        return {word & kCountMask, word >> kCountBits & kCountMask, word >> 2 * kCountBits};
    }
    [[nodiscard]] std::uint64_t word() const {
        return pending | expected << kCountBits | phase << 2 * kCountBits;
    }
};

// `each(word, lane)` for every lane's barrier, in the order of the lanes.
template <class Each>
void visit(Warp& w, const Inst& in, std::uint32_t mask, Each each) {
    std::uint64_t address[kLanes];
    lane_addresses(w, in, address);
    for (std::uint32_t left = mask; left != 0; left &= left - 1) {
        const auto l = static_cast<unsigned>(std::countr_zero(left));
        each(reinterpret_cast<std::uint64_t*>(
                 place_in(w, static_cast<StateSpace>(in.count), address[l], 8, l, true)),
             l);
    }
}

void init(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t* count = lanes_of<std::uint32_t>(w, in.b);
    visit(w, in, mask, [&](std::uint64_t* word, unsigned l) {
        const std::uint64_t threads = count[l] & kCountMask;
        __atomic_store_n(word, State{threads, threads, 0}.word(), __ATOMIC_SEQ_CST);
    });
}

void invalidate(Warp& w, const Inst& in, std::uint32_t mask) {
    visit(w, in, mask,
          [](std::uint64_t* word, unsigned) { __atomic_store_n(word, 0, __ATOMIC_SEQ_CST); });
}

template <bool Drops>
void arrive(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t* count = lanes_of<std::uint32_t>(w, in.b);
    std::uint64_t* d = in.d == kNoOperand ? nullptr : lanes_of<std::uint64_t>(w, in.d);
    visit(w, in, mask, [&](std::uint64_t* word, unsigned l) {
        std::uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED), next;
        do {
            State state = State::of(old);
            const std::uint64_t arriving = count[l];
            if (Drops) state.expected -= arriving;
            state.pending -= arriving;
            if (state.pending == 0) {
                state.pending = state.expected;
                ++state.phase;
            }
            next = state.word();
        } while (!__atomic_compare_exchange_n(word, &old, next, true, __ATOMIC_SEQ_CST,
                                              __ATOMIC_RELAXED));
        if (d != nullptr) d[l] = old;
    });
    w.spin_hint();
}

// Over is the phase that the arrival's state was of, or the last one of that parity.
template <bool Parity>
void test(Warp& w, const Inst& in, std::uint32_t mask) {
    std::uint32_t over = 0;
    visit(w, in, mask, [&](std::uint64_t* word, unsigned l) {
        const State now = State::of(__atomic_load_n(word, __ATOMIC_SEQ_CST));
        const bool is_over =
            Parity ? (now.phase & 1) != (lanes_of<std::uint32_t>(w, in.b)[l] & 1)
                   : now.phase != State::of(lanes_of<std::uint64_t>(w, in.b)[l]).phase;
        if (is_over) over |= std::uint32_t{1} << l;
    });
    set_predicate(predicate_of(w, in.d), mask, over);
    w.spin_hint();
}

struct PendingCount {
    CARREL_INLINE std::uint32_t apply(std::uint64_t word) {
        return static_cast<std::uint32_t>(word & kCountMask);
    }
};

StateSpace named_space(const Decoder& d) {
    for (const std::string_view modifier : d.in().modifiers)
        if (modifier.starts_with("shared")) return StateSpace::shared;
    return StateSpace::generic;
}

}  // namespace

bool decode_mbarrier(Decoder& d) {
    Inst& inst = d.inst;
    if (d.opcode() == "cp" && d.has("async") && d.has("mbarrier")) {
        // Copies are complete when they have been issued: what is left is the arrival, if counted.
        d.need(1);
        inst.count = static_cast<std::uint8_t>(d.address(d.operand(0), named_space(d)));
        inst.d = kNoOperand;
        inst.b = d.constant(d.has("noinc") ? 1 : 0, 4);
        inst.run = &arrive<false>;
        return true;
    }
    if (d.opcode() != "mbarrier") return false;
    if (d.has("expect_tx") || d.has("complete_tx") || d.has("shared::cluster")) d.unsupported();
    if (d.has("pending_count")) {
        d.need(2);
        inst.a = d.source(1, Type::b64);
        inst.d = d.dest(0, Type::b32);
        inst.run = map1<std::uint32_t, std::uint64_t, PendingCount>();
        return true;
    }
    if (d.has("init")) {
        d.need(2);
        inst.count = static_cast<std::uint8_t>(d.address(d.operand(0), named_space(d)));
        inst.b = d.source(1, Type::b32);
        inst.run = &init;
    } else if (d.has("inval")) {
        d.need(1);
        inst.count = static_cast<std::uint8_t>(d.address(d.operand(0), named_space(d)));
        inst.run = &invalidate;
    } else if (d.has("arrive") || d.has("arrive_drop")) {
        d.need(2, 3);
        inst.d = d.dest(0, Type::b64);
        inst.count = static_cast<std::uint8_t>(d.address(d.operand(1), named_space(d)));
        inst.b = d.operands() == 3 ? d.source(2, Type::b32) : d.constant(1, 4);
        inst.run = d.has("arrive_drop") ? &arrive<true> : &arrive<false>;
    } else if (d.has("test_wait") || d.has("try_wait")) {
        d.need(3, 4);  // for how long to try, at most, may follow
        inst.d = d.predicate_dest(d.operand(0));
        inst.count = static_cast<std::uint8_t>(d.address(d.operand(1), named_space(d)));
        const bool parity = d.has("parity");
        inst.b = d.source(2, parity ? Type::b32 : Type::b64);
        inst.run = parity ? &test<true> : &test<false>;
    } else {
        d.unsupported();
    }
    return true;
}

}  // namespace carrel::softgpu::ptx
