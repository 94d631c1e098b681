#include "softgpu/ptx/registers.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <queue>
#include <utility>

namespace carrel::softgpu::ptx {
namespace {

using Bits = std::vector<std::uint64_t>;

struct Block {
    std::uint32_t first = 0;
    std::uint32_t end = 0;
    std::vector<std::uint32_t> next;
    Bits live_in;
    Bits live_out;
};

bool ends_path(const syntax::Instruction& instruction) {
    return instruction.opcode == "ret" || instruction.opcode == "exit" ||
           instruction.opcode == "trap";
}

// Where control may go from an instruction, besides the next one.
std::vector<std::uint32_t> targets_of(const syntax::Function& function,
                                      const syntax::Instruction& instruction) {
    std::vector<std::uint32_t> targets;
    const auto add = [&](std::string_view name, std::uint32_t scope) {
        if (const syntax::Label* label = function.find_label(name, scope))
            targets.push_back(label->target);
    };
    if (instruction.opcode == "bra" && !instruction.operands.empty())
        add(instruction.operands[0].name, instruction.operands[0].scope);
    if (instruction.opcode == "brx" && instruction.operands.size() > 1) {
        const syntax::Operand& list = instruction.operands[1];
        if (const syntax::Label* table = function.find_label(list.name, list.scope))
            for (const std::string_view name : table->targets) add(name, table->scope);
    }
    return targets;
}

class Liveness {
  public:
    Liveness(const syntax::Function& function, const std::vector<std::vector<Touch>>& touches)
        : function_(function),
          touches_(touches),
          words_((function.registers.size() + 63) / 64),
          first_(function.registers.size(), UINT32_MAX),
          last_(function.registers.size(), 0) {
        split();
        solve();
        measure();
    }

    // The stretch of instructions, in the order of the text, that covers all places where a
    // register is alive.
    [[nodiscard]] std::uint32_t first(std::uint32_t reg) const { return first_[reg]; }
    [[nodiscard]] std::uint32_t last(std::uint32_t reg) const { return last_[reg]; }

  private:
    void split() {
        const auto count = static_cast<std::uint32_t>(function_.instructions.size());
        std::vector<bool> starts(count + 1, false);
        starts[0] = true;
        for (std::uint32_t i = 0; i < count; ++i) {
            const auto targets = targets_of(function_, function_.instructions[i]);
            for (const std::uint32_t target : targets) starts[target] = true;
            if (!targets.empty() || ends_path(function_.instructions[i])) starts[i + 1] = true;
        }
        std::vector<std::uint32_t> block_at(count + 1, 0);
        for (std::uint32_t i = 0; i < count; ++i) {
            if (starts[i]) {
                blocks_.emplace_back();
                blocks_.back().first = i;
            }
            blocks_.back().end = i + 1;
            block_at[i] = static_cast<std::uint32_t>(blocks_.size() - 1);
        }
        block_at[count] = static_cast<std::uint32_t>(blocks_.size());
        for (Block& block : blocks_) {
            block.live_in.resize(words_);
            block.live_out.resize(words_);
            const syntax::Instruction& last = function_.instructions[block.end - 1];
            for (const std::uint32_t target : targets_of(function_, last))
                block.next.push_back(block_at[target]);
            const bool jumps = last.opcode == "bra" || last.opcode == "brx" || ends_path(last);
            if (!jumps || last.guard != syntax::kNoIndex) block.next.push_back(block_at[block.end]);
        }
    }

    // Walks a block backwards from what is alive at its end.
    template <class Visit>
    void walk(const Block& block, Bits& live, Visit visit) const {
        for (std::uint32_t i = block.end; i-- > block.first;) {
            const bool guarded = function_.instructions[i].guard != syntax::kNoIndex;
            visit(i);
            if (ends_path(function_.instructions[i]))
                for (const std::uint32_t reg : function_.result_registers)
                    if (reg != syntax::kNoIndex) live[reg / 64] |= bit(reg);
            for (const Touch& touch : touches_[i])
                if (touch.write && !guarded) live[touch.reg / 64] &= ~bit(touch.reg);
            for (const Touch& touch : touches_[i])
                if (!touch.write || guarded) live[touch.reg / 64] |= bit(touch.reg);
        }
    }

    void solve() {
        for (bool changed = true; changed;) {
            changed = false;
            for (std::size_t b = blocks_.size(); b-- > 0;) {
                Block& block = blocks_[b];
                for (const std::uint32_t next : block.next) {
                    if (next >= blocks_.size()) {  // falls off the end: returns
                        for (const std::uint32_t reg : function_.result_registers)
                            if (reg != syntax::kNoIndex) block.live_out[reg / 64] |= bit(reg);
                        continue;
                    }
                    for (std::size_t word = 0; word < words_; ++word)
                        block.live_out[word] |= blocks_[next].live_in[word];
                }
                Bits live = block.live_out;
                walk(block, live, [](std::uint32_t) {});
                if (live != block.live_in) {
                    block.live_in = std::move(live);
                    changed = true;
                }
            }
        }
    }

    void cover(std::uint32_t reg, std::uint32_t at) {
        first_[reg] = std::min(first_[reg], at);
        last_[reg] = std::max(last_[reg], at);
    }

    void measure() {
        for (const Block& block : blocks_) {
            for (std::size_t word = 0; word < words_; ++word) {
                const auto each = [&](std::uint64_t bits, std::uint32_t at) {
                    for (; bits != 0; bits &= bits - 1)
                        cover(static_cast<std::uint32_t>(word * 64) +
                                  static_cast<std::uint32_t>(std::countr_zero(bits)),
                              at);
                };
                each(block.live_in[word], block.first);
                each(block.live_out[word], block.end - 1);
            }
            for (std::uint32_t i = block.first; i < block.end; ++i)
                for (const Touch& touch : touches_[i]) cover(touch.reg, i);
        }
        for (const auto* formals : {&function_.parameter_registers, &function_.result_registers})
            for (const std::uint32_t reg : *formals)
                if (reg != syntax::kNoIndex) cover(reg, 0);  // the caller fills them
    }

    static std::uint64_t bit(std::uint32_t reg) { return std::uint64_t{1} << (reg % 64); }

    const syntax::Function& function_;
    const std::vector<std::vector<Touch>>& touches_;
    std::size_t words_;
    std::vector<Block> blocks_;
    std::vector<std::uint32_t> first_;
    std::vector<std::uint32_t> last_;
};

}  // namespace

RegisterPlan plan_registers(const syntax::Function& function,
                            const std::vector<std::vector<Touch>>& touches) {
    RegisterPlan plan;
    plan.places.assign(function.registers.size(), UINT32_MAX);
    if (function.instructions.empty()) {
        for (std::uint32_t reg = 0; reg < plan.places.size(); ++reg) plan.places[reg] = reg;
        return plan;
    }
    const Liveness liveness(function, touches);
    std::vector<std::uint32_t> order;
    for (std::uint32_t reg = 0; reg < function.registers.size(); ++reg)
        if (liveness.first(reg) != UINT32_MAX) order.push_back(reg);
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return std::pair(liveness.first(a), a) < std::pair(liveness.first(b), b);
    });

    // A place is free again behind the last instruction that touches its register. An instruction's
    // sources and destinations never share one, since some handlers write before they have read
    // all.
    struct Width {
        std::uint32_t used = 0;
        std::vector<std::uint32_t> free;
        std::priority_queue<std::pair<std::uint32_t, std::uint32_t>,
                            std::vector<std::pair<std::uint32_t, std::uint32_t>>, std::greater<>>
            busy;  // (last use, place)
    };
    std::map<unsigned, Width> widths;
    for (const std::uint32_t reg : order) {
        Width& width = widths[width_of(function.registers[reg].type)];
        while (!width.busy.empty() && width.busy.top().first < liveness.first(reg)) {
            width.free.push_back(width.busy.top().second);
            width.busy.pop();
        }
        if (width.free.empty()) {
            plan.places[reg] = width.used++;
        } else {
            plan.places[reg] = width.free.back();
            width.free.pop_back();
        }
        width.busy.emplace(liveness.last(reg), plan.places[reg]);
    }
    for (const auto& [bytes, width] : widths)
        if (bytes != 0)
            plan.pressure += width.used * std::max(bytes / 4, 1U);  // predicates are apart
    return plan;
}

}  // namespace carrel::softgpu::ptx
