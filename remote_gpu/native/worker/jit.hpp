// Compiler options of one job, with the log buffers the program's own stand for.
#pragma once
#include <vector>

#include "cuda_abi.hpp"
#include "wire/reader.hpp"
#include "wire/writer.hpp"

namespace carrel::worker {

class JitJob {
  public:
    JitJob() = default;
    explicit JitJob(wire::Reader& in);
    JitJob(const JitJob&) = delete;
    JitJob& operator=(const JitJob&) = delete;

    unsigned int count() const { return static_cast<unsigned int>(options_.size()); }
    CUjit_option* options() { return options_.data(); }
    void** values() { return values_.data(); }
    // Times and logs, as JitOptions::decode of the client reads them.
    void encode(wire::Writer& out) const;

  private:
    std::vector<CUjit_option> options_;
    std::vector<void*> values_;
    std::vector<char> info_;
    std::vector<char> error_;
};

}  // namespace carrel::worker
