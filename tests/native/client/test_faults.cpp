// Faults: each case runs in a process of its own, because each ruins its session.
#include <fcntl.h>

#include <chrono>
#include <functional>
#include <thread>

#include "check.hpp"
#include "client/worker_process.hpp"

using carrel::test::kPtx;
using carrel::test::worker;
using carrel::test::WorkerProcess;

namespace {

// Runs `body` in a new process (not a fork of one that uses CUDA); true when it returns true.
bool in_process(const std::function<bool()>& body) {
    const pid_t pid = fork();
    if (pid == 0) _exit(body() ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

CUfunction function(const char* name) {
    CUmodule module = nullptr;
    CUfunction f = nullptr;
    cuModuleLoadData(&module, kPtx);
    cuModuleGetFunction(&f, module, name);
    return f;
}

CUresult run(CUfunction f, void* argument) {
    void* params[] = {argument};
    return cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr);
}

}  // namespace

TEST(illegal_address_is_sticky) {
    CHECK(in_process([] {
        worker();
        CUdeviceptr nowhere = 0x10;
        if (run(function("wild"), &nowhere) != CUDA_SUCCESS) return false;
        if (cuCtxSynchronize() != CUDA_ERROR_ILLEGAL_ADDRESS) return false;
        CUdeviceptr d = 0;
        return cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS &&
               cuMemAlloc_v2(&d, 100) == CUDA_ERROR_ILLEGAL_ADDRESS;
    }));
}

TEST(reset_brings_the_device_back) {
    CHECK(in_process([] {
        worker();
        CUdeviceptr nowhere = 0x10;
        run(function("wild"), &nowhere);
        if (cuCtxSynchronize() != CUDA_ERROR_ILLEGAL_ADDRESS) return false;
        if (cuDevicePrimaryCtxReset_v2(0) != CUDA_SUCCESS) return false;
        CUdeviceptr d = 0;
        int value = 7;
        int back = 0;
        return cuMemAlloc_v2(&d, 4) == CUDA_SUCCESS &&
               cuMemcpyHtoD_v2(d, &value, 4) == CUDA_SUCCESS &&
               cuMemcpyDtoH_v2(&back, d, 4) == CUDA_SUCCESS && back == 7;
    }));
}

TEST(a_killed_worker_is_an_error_not_a_hang) {
    CHECK(in_process([] {
        CUdeviceptr d = 0;
        worker();
        if (cuMemAlloc_v2(&d, 100) != CUDA_SUCCESS) return false;
        worker().kill();
        const auto begin = std::chrono::steady_clock::now();
        const bool ended = cuCtxSynchronize() == CUDA_ERROR_DEVICE_UNAVAILABLE &&
                           cuMemAlloc_v2(&d, 100) == CUDA_ERROR_DEVICE_UNAVAILABLE;
        return ended && std::chrono::steady_clock::now() - begin < std::chrono::seconds(5);
    }));
}

TEST(launches_alone_notice_a_killed_worker) {
    CHECK(in_process([] {
        worker();
        const CUfunction spin = function("spin");
        unsigned rounds = 1;
        worker().kill();
        for (int i = 0; i < 5000; ++i) {
            if (run(spin, &rounds) == CUDA_ERROR_DEVICE_UNAVAILABLE) return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }));
}

TEST(the_node_can_end_a_session) {
    CHECK(in_process([] {
        worker();
        if (cuCtxSynchronize() != CUDA_SUCCESS) return false;
        const std::string order = "{\"type\":\"end\",\"reason\":\"the lease expired\"}";
        send(worker().control(), order.data(), order.size(), 0);
        const CUfunction spin = nullptr;
        (void)spin;
        for (int i = 0; i < 2000; ++i) {
            const CUresult result = cuCtxSynchronize();
            if (result == CUDA_ERROR_SYSTEM_NOT_READY) return worker().wait() == 0;
            if (result != CUDA_SUCCESS) return false;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }));
}

TEST(a_worker_leaves_when_its_program_does) {
    CHECK(in_process([] {
        int pipe_ends[2];
        if (pipe(pipe_ends)) return false;
        const pid_t program = fork();
        if (program == 0) {
            WorkerProcess* mine = new WorkerProcess;
            const pid_t id = mine->attached() == CUDA_SUCCESS ? 1 : 0;
            if (write(pipe_ends[1], &id, sizeof id) < 0) _exit(1);
            cuCtxSynchronize();
            shutdown(mine->control(), SHUT_WR);
            _exit(mine->wait());
        }
        pid_t attached = 0;
        if (read(pipe_ends[0], &attached, sizeof attached) < 0) return false;
        int status = 0;
        waitpid(program, &status, 0);
        return attached == 1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }));
}

TEST(a_forked_child_gets_a_clear_error) {
    CHECK(in_process([] {
        worker();
        if (cuCtxSynchronize() != CUDA_SUCCESS) return false;
        const bool child = in_process([] {
            int count = 0;
            CUdeviceptr d = 0;
            return cuInit(0) == CUDA_ERROR_NOT_INITIALIZED &&
                   cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED &&
                   cuMemAlloc_v2(&d, 4) == CUDA_ERROR_NOT_INITIALIZED &&
                   cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED;
        });
        // The parent is as it was.
        return child && cuCtxSynchronize() == CUDA_SUCCESS;
    }));
}

TEST(without_credentials_there_is_no_device) {
    CHECK(in_process([] {
        for (const char* name : {"CARREL_ENDPOINT", "CARREL_LEASE", "CARREL_LEASE_KEY"}) {
            unsetenv(name);
        }
        int count = 0;
        return cuInit(0) == CUDA_ERROR_NO_DEVICE && cuInit(0) == CUDA_ERROR_NO_DEVICE &&
               cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED;
    }));
}

TEST(an_unreachable_door_is_an_error_soon) {
    CHECK(in_process([] {
        setenv("CARREL_ENDPOINT", "127.0.0.1:1", 1);
        setenv("CARREL_LEASE", "lease", 1);
        setenv("CARREL_LEASE_KEY", std::string(64, 'a').c_str(), 1);
        const auto begin = std::chrono::steady_clock::now();
        return cuInit(0) == CUDA_ERROR_SYSTEM_NOT_READY &&
               std::chrono::steady_clock::now() - begin < std::chrono::seconds(6);
    }));
}

TEST(a_bad_pipelined_call_surfaces_once) {
    CHECK(in_process([] {
        worker();
        CUdeviceptr d = 0;
        if (cuMemAlloc_v2(&d, 16) != CUDA_SUCCESS) return false;
        for (int round = 0; round < 3; ++round) {
            if (cuMemsetD8_v2(d + (uint64_t{1} << 38), 0, 16) != CUDA_SUCCESS) return false;
            if (cuCtxSynchronize() == CUDA_SUCCESS) return false;
            if (cuCtxSynchronize() != CUDA_SUCCESS) return false;
        }
        return true;
    }));
}

// A synchronise that follows a copy asks nobody; the failure is then the next one's to tell.
TEST(a_failure_before_a_copy_surfaces_once) {
    CHECK(in_process([] {
        worker();
        CUdeviceptr d = 0;
        if (cuMemAlloc_v2(&d, 16) != CUDA_SUCCESS) return false;
        for (int round = 0; round < 3; ++round) {
            if (cuMemsetD8_v2(d + (uint64_t{1} << 38), 0, 16) != CUDA_SUCCESS) return false;
            if (cuMemcpyHtoDAsync_v2(d, "fifteen letters", 16, nullptr) != CUDA_SUCCESS)
                return false;
            const bool told = cuStreamSynchronize(nullptr) != CUDA_SUCCESS;
            if ((cuCtxSynchronize() != CUDA_SUCCESS) == told) return false;
            if (cuCtxSynchronize() != CUDA_SUCCESS) return false;
        }
        return true;
    }));
}

CARREL_TEST_MAIN
