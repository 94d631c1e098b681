// Branches, calls, barriers, fences, and the end of threads.
#include <algorithm>
#include <atomic>
#include <bit>

#include "softgpu/ptx/decoder.hpp"
#include "softgpu/ptx/lanes.hpp"
#include "softgpu/ptx/program.hpp"

namespace carrel::softgpu::ptx {

using syntax::Operand;

// --- branches ---

void branch_indexed(Warp& w, const Inst& in, std::uint32_t mask) {
    const std::uint32_t* table = w.frame->function->operands.data() + in.aux;
    const std::uint32_t* index = lanes_of<std::uint32_t>(w, in.a);
    Frame* frame = w.frame;
    w.suspend(mask);
    each_lane(mask, [&](unsigned lane) {
        if (index[lane] >= table[0])
            throw Fault(Status::illegal_instruction,
                        "brx.idx with index " + std::to_string(index[lane]) + " of " +
                            std::to_string(table[0]) + " targets",
                        0, lane);
        w.add_fragment(std::uint32_t{1} << lane, table[1 + index[lane]], frame);
    });
}

void return_lanes(Warp& w, const Inst&, std::uint32_t mask) {
    w.leave(mask);
}

namespace {

void exit_threads(Warp& w, const Inst&, std::uint32_t mask) {
    w.exit_lanes(mask);
}

// --- calls ---

void call_direct(Warp& w, const Inst& in, std::uint32_t mask) {
    const CallSite& call = w.frame->function->calls[in.aux];
    w.enter(w.grid->program->functions[call.function], call, mask);
}

// Lanes that call the same function go together; the others stay before the call and come next.
void call_indirect(Warp& w, const Inst& in, std::uint32_t mask) {
    const CallSite& call = w.frame->function->calls[in.aux];
    const std::uint64_t* pointer = lanes_of<std::uint64_t>(w, call.pointer);
    const std::uint64_t target = pointer[std::countr_zero(mask)];
    const std::uint32_t together =
        lanes_where(mask, [=](unsigned l) { return pointer[l] == target; });
    const FunctionCode* callee = w.grid->program->function_at(target);
    if (callee == nullptr)
        throw Fault(Status::illegal_instruction, "call through a pointer to no function", target);
    if ((mask & ~together) != 0) {
        w.add_fragment(mask & ~together, w.pc, w.frame);
        w.mask &= ~(mask & ~together);
    }
    w.enter(*callee, call, together);
}

bool decode_call(Decoder& d) {
    Inst& inst = d.inst;
    std::size_t at = 0;
    CallSite site;
    site.line = inst.line;
    if (d.operands() > 0 && d.operand(0).kind == Operand::Kind::list) {
        for (const Operand& result : d.operand(0).elements)
            site.results.push_back(d.transfer(result, true));
        at = 1;
    }
    const Operand& callee = d.operand(at++);
    if (callee.kind == Operand::Kind::symbol)
        site.callee = std::string(callee.name);
    else
        site.pointer = d.source(callee, Type::u64);
    if (!site.callee.empty() && !d.is_function(site.callee))
        d.fail("Unknown symbol '" + site.callee + "'");
    if (at < d.operands() && d.operand(at).kind == Operand::Kind::list)
        for (const Operand& argument : d.operand(at).elements)
            site.arguments.push_back(d.transfer(argument, false));
    inst.control = Control::flow;
    inst.run = site.callee.empty() ? &call_indirect : &call_direct;
    inst.aux = static_cast<std::uint32_t>(d.code().calls.size());
    d.code().calls.push_back(std::move(site));
    return true;
}

// --- barriers ---

constexpr std::int64_t kNoVote = 0, kVotePopc = 1, kVoteAnd = 2, kVoteOr = 3;

void barrier_arrive(Warp& w, const Inst& in, std::uint32_t mask) {
    const auto first = static_cast<unsigned>(std::countr_zero(mask));
    const std::uint32_t id = lanes_of<std::uint32_t>(w, in.a)[first];
    if (id >= w.block->barriers.size())
        throw Fault(Status::illegal_instruction, "barrier " + std::to_string(id) + " of 16");
    Barrier& barrier = w.block->barriers[id];
    std::uint32_t count = 0;
    if (in.b != kNoOperand) {
        count = lanes_of<std::uint32_t>(w, in.b)[first];
        if (count == 0 || count % kLanes != 0)
            throw Fault(Status::illegal_instruction, "barrier thread count " +
                                                         std::to_string(count) +
                                                         " is not a multiple of the warp size");
    }
    if (!barrier.open) {
        barrier.open = true;
        barrier.expected = count;
        barrier.arrived.assign(w.block->warps.size(), 0);
    }
    barrier.arrived[w.index] |= mask;
    if (in.imm != kNoVote) {
        const std::uint32_t predicate = predicate_of(w, in.c);
        const std::uint32_t votes = (in.flags & kNegateC) != 0 ? ~predicate : predicate;
        barrier.votes += static_cast<unsigned>(std::popcount(votes & mask));
        barrier.voters += static_cast<unsigned>(std::popcount(mask));
    }
    Frame* frame = w.frame;
    const std::uint32_t pc = w.pc;
    w.suspend(mask);
    if ((in.flags & kUserFlag) != 0)  // bar.arrive does not wait
        w.add_fragment(mask, pc + 1, frame);
    else
        w.wait_at_barrier(mask, pc, frame, id);
    w.block->check_barrier(id);
}

bool decode_barrier(Decoder& d) {
    Inst& inst = d.inst;
    if (d.has("cluster")) {  // a cluster is one block; its barrier is a block barrier of its own
        inst.a = d.constant(15, 4);
        if (d.has("wait")) return true;
    } else if (d.has("warp")) {
        inst.control = Control::warp_sync;
        inst.c = d.source(0, Type::u32);
        inst.run = [](Warp&, const Inst&, std::uint32_t) {};
        return true;
    }
    inst.control = Control::flow;
    inst.run = &barrier_arrive;
    if (d.has("arrive") && !d.has("cluster")) inst.flags |= kUserFlag;
    std::size_t at = 0;
    if (d.has("red")) {
        if (d.has("popc")) {
            inst.imm = kVotePopc;
            inst.d = d.dest(at++, Type::u32);
        } else {
            inst.imm = d.has("and") ? kVoteAnd : kVoteOr;
            inst.d = d.predicate_dest(d.operand(at++));
        }
    }
    if (inst.a == kNoOperand) inst.a = d.source(at++, Type::u32);
    if (inst.imm != kNoVote) {
        const std::size_t last = d.operands() - 1;
        inst.c = d.predicate_source(last, kNegateC);
        if (at < last) inst.b = d.source(at, Type::u32);
    } else if (at < d.operands()) {
        inst.b = d.source(at, Type::u32);
    }
    return true;
}

// --- the rest ---

void fence(Warp&, const Inst&, std::uint32_t) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

void trap(Warp&, const Inst&, std::uint32_t) {
    throw Fault(Status::trap, "trap instruction");
}

void sleep_lanes(Warp& w, const Inst&, std::uint32_t) {
    w.yield();
}

void nothing(Warp&, const Inst&, std::uint32_t) {}

}  // namespace

bool decode_control(Decoder& d) {
    Inst& inst = d.inst;
    const std::string_view op = d.opcode();
    if (op == "bra") {
        d.need(1);
        inst.control = Control::branch;
        inst.aux = d.label_target(d.operand(0));
        return true;
    }
    if (op == "brx") {
        d.need(2);
        inst.control = Control::flow;
        inst.run = &branch_indexed;
        inst.a = d.source(0, Type::u32);
        const Operand& list = d.operand(1);
        const syntax::Label* table = d.function().find_label(list.name, list.scope);
        if (table == nullptr || !table->is_table || table->targets.empty())
            d.fail("brx.idx needs a .branchtargets list");
        inst.aux = static_cast<std::uint32_t>(d.code().operands.size());
        d.code().operands.push_back(static_cast<std::uint32_t>(table->targets.size()));
        for (const std::string_view name : table->targets) {
            Operand target;
            target.kind = Operand::Kind::symbol;
            target.name = name;
            target.scope = table->scope;
            d.code().operands.push_back(d.label_target(target));
        }
        return true;
    }
    if (op == "call") return decode_call(d);
    if (op == "ret") {
        inst.control = Control::flow;
        inst.run = &return_lanes;
        return true;
    }
    if (op == "exit") {
        inst.control = Control::flow;
        inst.run = &exit_threads;
        return true;
    }
    if (op == "bar" || op == "barrier") return decode_barrier(d);
    if (op == "membar" || op == "fence") {
        inst.run = &fence;
        return true;
    }
    if (op == "trap") {
        inst.run = &trap;
        return true;
    }
    if (op == "nanosleep") {
        inst.run = &sleep_lanes;
        return true;
    }
    if (op == "brkpt" || op == "pmevent" || op == "setmaxnreg" || op == "griddepcontrol") {
        inst.run = &nothing;
        return true;
    }
    return false;
}

}  // namespace carrel::softgpu::ptx
