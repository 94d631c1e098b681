#include "worker/ledger.hpp"

#include <sys/mman.h>

#include <stdexcept>

namespace carrel::worker {

Ledger::Ledger(int fd, unsigned slot, uint64_t limit) : slot_(slot) {
    const int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    void* at = mmap(nullptr, sizeof(Account), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED) throw std::runtime_error("the lease's memory account cannot be mapped");
    account_ = static_cast<Account*>(at);
    if (fd < 0) account_->limit = limit;
}

Ledger::~Ledger() {
    refund(own());
    munmap(account_, sizeof(Account));
}

bool Ledger::charge(uint64_t bytes) {
    const uint64_t limit = account_->limit;
    uint64_t total = account_->total;
    do {
        if (bytes > limit || total > limit - bytes) return false;
    } while (!account_->total.compare_exchange_weak(total, total + bytes));
    account_->slots[slot_] += bytes;
    return true;
}

void Ledger::refund(uint64_t bytes) {
    account_->slots[slot_] -= bytes;
    account_->total -= bytes;
}

uint64_t Ledger::spare() const {
    const uint64_t limit = account_->limit;
    const uint64_t total = account_->total;
    return total < limit ? limit - total : 0;
}

uint64_t Ledger::own() const {
    return account_->slots[slot_];
}

}  // namespace carrel::worker
