#include "client/arena.hpp"

#include <algorithm>

namespace carrel::client {

std::optional<Arena::Allocation> Arena::allocate(uint64_t bytes) {
    const uint64_t need = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (need < bytes || need == 0) return std::nullopt;
    const auto fit = free_.lower_bound({need, 0});
    if (fit == free_.end()) return std::nullopt;
    const auto block = blocks_.find(fit->second);
    free_.erase(fit);
    Block& taken = block->second;
    if (taken.size > need) {
        const auto rest =
            blocks_.emplace_hint(std::next(block), block->first + need,
                                 Block{taken.size - need, taken.extent, taken.stamp, 0, true});
        index(rest);
        taken.size = need;
    }
    taken.free = false;
    taken.asked = bytes;
    used_ += need;
    peak_ = std::max(peak_, used_);
    return Allocation{block->first, taken.stamp};
}

std::optional<uint64_t> Arena::place(uint64_t bytes) const {
    uint64_t at = base_;
    for (const auto& [base, size] : extents_) {
        if (base - at >= bytes) return at;
        at = base + size;
    }
    if (base_ + size_ - at >= bytes) return at;
    return std::nullopt;
}

void Arena::add_extent(uint64_t base, uint64_t bytes) {
    extents_[base] = bytes;
    mapped_ += bytes;
    index(blocks_.emplace(base, Block{bytes, base, 0, 0, true}).first);
}

bool Arena::free(uint64_t address, uint64_t stamp) {
    auto block = blocks_.find(address);
    if (block == blocks_.end() || block->second.free) return false;
    used_ -= block->second.size;
    block->second.free = true;
    block->second.stamp = stamp;
    const auto joins = [&](Blocks::iterator other) {
        return other->second.free && other->second.extent == block->second.extent;
    };
    if (const auto next = std::next(block); next != blocks_.end() && joins(next)) {
        forget(next);
        block->second.size += next->second.size;
        block->second.stamp = std::max(block->second.stamp, next->second.stamp);
        blocks_.erase(next);
    }
    if (block != blocks_.begin()) {
        if (const auto before = std::prev(block); joins(before)) {
            forget(before);
            before->second.size += block->second.size;
            before->second.stamp = std::max(block->second.stamp, before->second.stamp);
            blocks_.erase(block);
            block = before;
        }
    }
    index(block);
    return true;
}

std::optional<Arena::Range> Arena::find(uint64_t address) const {
    auto block = blocks_.upper_bound(address);
    if (block == blocks_.begin()) return std::nullopt;
    --block;
    if (block->second.free || address - block->first >= block->second.asked) return std::nullopt;
    return Range{block->first, block->second.asked};
}

std::vector<Arena::Range> Arena::release(uint64_t keep) {
    std::vector<Range> gone;
    for (auto fit = free_.rbegin(); fit != free_.rend() && idle() > keep;) {
        const auto [size, address] = *fit;
        const auto block = blocks_.find(address);
        if (block->second.extent != address || extents_[address] != size) {
            ++fit;
            continue;
        }
        gone.push_back({address, size});
        blocks_.erase(block);
        extents_.erase(address);
        mapped_ -= size;
        fit = std::make_reverse_iterator(free_.erase(std::prev(fit.base())));
    }
    return gone;
}

void Arena::clear() {
    extents_.clear();
    blocks_.clear();
    free_.clear();
    used_ = mapped_ = 0;
}

}  // namespace carrel::client
