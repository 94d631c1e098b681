// A real worker on the software GPU, as the node's door would start it, and this process attached.
#pragma once
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "client/session.hpp"
#include "cuda_functions.hpp"

namespace carrel::test {

class WorkerProcess {
  public:
    explicit WorkerProcess(const std::string& vram = "1073741824") {
        int client[2];
        int control[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, client) ||
            socketpair(AF_UNIX, SOCK_SEQPACKET, 0, control)) {
            std::abort();
        }
        pid_ = fork();
        if (pid_ == 0) {
            dup2(client[1], 20);
            dup2(control[1], 21);
            for (const int fd : {client[0], client[1], control[0], control[1]}) close(fd);
            setenv("CARREL_SOFTGPU", "vram=4GiB,sms=2", 1);
            execl(CARREL_WORKER, CARREL_WORKER, "--client-fd", "20", "--control-fd", "21",
                  "--driver", CARREL_SOFTGPU_LIBRARY, "--vram-bytes", vram.c_str(), "--session",
                  "test", nullptr);
            _exit(127);
        }
        close(client[1]);
        close(control[1]);
        control_ = control[0];
        attached_ = client::session().adopt(client[0], "test");
    }

    CUresult attached() const { return attached_; }
    int control() const { return control_; }
    void kill() { ::kill(pid_, SIGKILL); }
    // The exit status, or 128 + the signal.
    int wait() {
        int status = 0;
        waitpid(pid_, &status, 0);
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }

  private:
    pid_t pid_;
    int control_;
    CUresult attached_;
};

// One worker per test program, with the primary context current in the calling thread.
inline WorkerProcess& worker() {
    static WorkerProcess process;
    static thread_local bool current = [] {
        CUcontext context = nullptr;
        cuDevicePrimaryCtxRetain(&context, 0);
        cuCtxSetCurrent(context);
        return true;
    }();
    (void)current;
    return process;
}

// y[i] = a * x[i] + y[i] for i < n; and a kernel that writes where it must not.
inline constexpr const char* kPtx = R"(
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 counter[4];
.visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y)
{
    .reg .pred %p<2>;
    .reg .f32 %f<5>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<8>;
    ld.param.u32 %r2, [n];
    ld.param.f32 %f1, [a];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r1, %r3, %r4, %r5;
    setp.ge.s32 %p1, %r1, %r2;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1;
    mul.wide.s32 %rd4, %r1, 4;
    add.s64 %rd5, %rd3, %rd4;
    ld.global.f32 %f2, [%rd5];
    cvta.to.global.u64 %rd6, %rd2;
    add.s64 %rd7, %rd6, %rd4;
    ld.global.f32 %f3, [%rd7];
    fma.rn.f32 %f4, %f2, %f1, %f3;
    st.global.f32 [%rd7], %f4;
DONE:
    ret;
}
.visible .entry spin(.param .u32 rounds)
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, 0;
LOOP:
    add.s32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra LOOP;
    ret;
}
.visible .entry wild(.param .u64 at)
{
    .reg .b64 %rd<2>;
    .reg .b32 %r<2>;
    ld.param.u64 %rd1, [at];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
)";

}  // namespace carrel::test
