// One GPU, several processes: the account of memory that they share through the state directory.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "driver.hpp"

using namespace carrel::test;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// A process of its own that holds `mib` MiB until it is told to go; exit status 0: it got them.
class Holder {
  public:
    Holder(const char* program, unsigned mib) {
        int to_child[2], from_child[2];
        CHECK_EQ(pipe(to_child), 0);
        CHECK_EQ(pipe(from_child), 0);
        pid_ = fork();
        if (pid_ == 0) {
            dup2(to_child[0], 0);
            dup2(from_child[1], 1);
            for (const int each : {to_child[0], to_child[1], from_child[0], from_child[1]})
                close(each);
            execl(program, program, "--hold", std::to_string(mib).c_str(), nullptr);
            _exit(2);
        }
        close(to_child[0]);
        close(from_child[1]);
        let_go_ = to_child[1];
        char ready = 0;
        got_ = read(from_child[0], &ready, 1) == 1 && ready == 'y';
        close(from_child[0]);
    }
    ~Holder() { end(); }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

    [[nodiscard]] bool got() const { return got_; }
    void end() {
        if (pid_ < 0) return;
        close(let_go_);
        waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
    void kill_now() {
        kill(pid_, SIGKILL);
        end();
    }

  private:
    pid_t pid_ = -1;
    int let_go_ = -1;
    bool got_ = false;
};

int hold(unsigned mib) {
    CUcontext context = nullptr;
    CUdeviceptr address = 0;
    const bool got = driver().cuInit(0) == CUDA_SUCCESS &&
                     driver().cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS &&
                     driver().cuMemAlloc_v2(&address, mib * kMiB) == CUDA_SUCCESS;
    char byte = got ? 'y' : 'n';
    if (write(1, &byte, 1) != 1) return 1;
    while (read(0, &byte, 1) > 0) {
    }
    return got ? 0 : 1;
}

const char* program_path = nullptr;

TEST(processes_share_the_memory) {
    WithContext with;
    CHECK_EQ(free_memory(), 64 * kMiB);
    CUdeviceptr address = 0;
    {
        Holder first(program_path, 40);
        CHECK(first.got());
        CHECK_EQ(free_memory(), 24 * kMiB);
        CHECK_EQ(driver().cuMemAlloc_v2(&address, 30 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
        Holder second(program_path, 30);
        CHECK(!second.got());
        Holder third(program_path, 24);
        CHECK(third.got());
        CHECK_EQ(free_memory(), 0u);
    }
    CHECK_EQ(free_memory(), 64 * kMiB);
    CHECK_EQ(driver().cuMemAlloc_v2(&address, 30 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST(the_dead_are_swept) {
    WithContext with;
    Holder holder(program_path, 60);
    CHECK(holder.got());
    holder.kill_now();
    CUdeviceptr address = 0;
    CHECK_EQ(driver().cuMemAlloc_v2(&address, 60 * kMiB), CUDA_SUCCESS);
    CHECK_EQ(free_memory(), 4 * kMiB);
    CHECK_EQ(driver().cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST(devices_are_told_apart) {
    CUuuid first{}, second{};
    CHECK_EQ(driver().cuInit(0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuDeviceGetUuid_v2(&first, 0), CUDA_SUCCESS);
    CHECK_EQ(driver().cuDeviceGetUuid_v2(&second, 1), CUDA_SUCCESS);
    CHECK(std::memcmp(&first, &second, sizeof first) != 0);
    CHECK_EQ(driver().cuDeviceGetUuid_v2(&second, 2), CUDA_ERROR_INVALID_DEVICE);
    char bus[32];
    CUdevice device = -1;
    CHECK_EQ(driver().cuDeviceGetPCIBusId(bus, sizeof bus, 1), CUDA_SUCCESS);
    CHECK_EQ(driver().cuDeviceGetByPCIBusId(&device, bus), CUDA_SUCCESS);
    CHECK_EQ(device, 1);
}

}  // namespace

int main(int argc, char** argv) {
    program_path = "/proc/self/exe";
    if (argc == 3 && std::strcmp(argv[1], "--hold") == 0)
        return hold(static_cast<unsigned>(std::atoi(argv[2])));
    char directory[] = "/tmp/carrel-account-XXXXXX";
    if (!mkdtemp(directory)) return EXIT_FAILURE;
    setenv("CARREL_SOFTGPU", ("count=2,vram=64MiB,state=" + std::string(directory)).c_str(), 1);
    const int result = carrel::test::main(argc, argv);
    for (const char* name : {"/gpu-0.vram", "/gpu-1.vram"})
        unlink((std::string(directory) + name).c_str());
    rmdir(directory);
    return result;
}
