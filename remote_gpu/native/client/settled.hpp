// Streams that this thread has just waited for, or handed bytes to: a synchronise that follows at
// once has nothing to add, and is answered without the worker.
//
// After a copy to the host there is nothing left to wait for. After a copy from the host a program
// synchronises because its memory must not change before it has been read, and it has been: what
// is left is work on the device, of which the program will ask when it reads a result. Whether that
// work has failed is said then.
#pragma once
#include "client/handles.hpp"
#include "client/session.hpp"

namespace carrel::client {

class Settled {
  public:
    // `stream` is settled when the copy was the session's only call since it had made `before`.
    void note(CUstream stream, uint32_t context, uint64_t before) {
        calls_ = before + 1;
        stream_ = stream;
        context_ = context;
    }
    bool covers(CUstream stream, uint32_t context) const {
        return stream == stream_ && context == context_ && session().calls() == calls_;
    }

  private:
    uint64_t calls_ = 0;  // calls of the session by then; 0: none
    CUstream stream_ = nullptr;
    uint32_t context_ = 0;
};

inline thread_local Settled settled;

}  // namespace carrel::client
