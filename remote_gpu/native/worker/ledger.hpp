// The account of a lease's memory, shared by all its workers: nobody maps beyond the limit.
#pragma once
#include <atomic>
#include <cstdint>

namespace carrel::worker {

class Ledger {
  public:
    // Maps the account from a descriptor; with -1, keeps one of its own with that limit (bytes).
    Ledger(int fd, unsigned slot, uint64_t limit);
    ~Ledger();
    Ledger(const Ledger&) = delete;
    Ledger& operator=(const Ledger&) = delete;

    // False when the lease has not that much left; then nothing is charged.
    bool charge(uint64_t bytes);
    void refund(uint64_t bytes);
    uint64_t spare() const;  // bytes of the lease that nobody has mapped
    uint64_t own() const;    // bytes of this worker

  private:
    struct Account {
        std::atomic<uint64_t> limit;
        std::atomic<uint64_t> total;
        std::atomic<uint64_t> slots[256];
    };
    static_assert(sizeof(Account) == 258 * 8);

    Account* account_ = nullptr;
    unsigned slot_;
};

}  // namespace carrel::worker
