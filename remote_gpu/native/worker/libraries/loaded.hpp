// One CUDA library of the GPU host, loaded for the client's CUDA major.
#pragma once
#include <string>
#include <vector>

#include "wire/library.hpp"

namespace carrel::worker {

class LoadedLibrary {
  public:
    // Looks in the folders first, then where the system looks. Check trouble() afterwards.
    LoadedLibrary(const library::LibraryRow& row, uint32_t major,
                  const std::vector<std::string>& folders);

    // Why it cannot be used, for the program's person; empty when it can.
    const std::string& trouble() const { return trouble_; }
    const library::LibraryRow& row() const { return row_; }
    // Null when this library lacks it.
    void* function(uint16_t number) const { return functions_[number]; }

  private:
    const library::LibraryRow& row_;
    std::string trouble_;
    std::vector<void*> functions_;
};

}  // namespace carrel::worker
