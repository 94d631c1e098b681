// Whole programs as compilers write them: PTX of small kernels of ours, from numba and from CUDA
// C++, in programs/.
#include <chrono>
#include <cmath>
#include <complex>
#include <fstream>
#include <sstream>

#include "check.hpp"
#include "device.hpp"

using namespace carrel::softgpu::ptx;
using namespace carrel::softgpu::ptx::test;
using U64 = std::uint64_t;

namespace {

std::string program(const std::string& name) {
    std::ifstream file(CARREL_PTX_PROGRAMS "/" + name + ".ptx");
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

// numba passes an array as parent, meminfo, items, item size, data, shape and strides.
void array(std::vector<U64>& arguments, U64 data, U64 item, const std::vector<U64>& shape) {
    U64 items = 1;
    for (const U64 extent : shape) items *= extent;
    arguments.insert(arguments.end(), {0, 0, items, item, data});
    arguments.insert(arguments.end(), shape.begin(), shape.end());
    for (std::size_t i = 0; i < shape.size(); ++i) {
        U64 stride = item;
        for (std::size_t j = i + 1; j < shape.size(); ++j) stride *= shape[j];
        arguments.push_back(stride);
    }
}

}  // namespace

TEST(numba_vector_add) {
    Device device;
    constexpr std::size_t kCount = 1000;
    std::vector<float> a(kCount);
    std::vector<float> b(kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
        a[i] = static_cast<float>(i) * 0.5F;
        b[i] = 1000.0F - static_cast<float>(i);
    }
    const U64 out = device.put(std::vector<float>(kCount));
    std::vector<U64> arguments;
    array(arguments, device.put(a), 4, {kCount});
    array(arguments, device.put(b), 4, {kCount});
    array(arguments, out, 4, {kCount});
    device.run(program("vector_add"), threads(128, 8), arguments);
    const auto got = device.get<float>(out, kCount);
    for (std::size_t i = 0; i < kCount; ++i) CHECK_EQ(got[i], a[i] + b[i]);
}

TEST(numba_block_sum) {
    Device device;
    device.host_threads = 2;
    constexpr std::size_t kCount = 5000;
    std::vector<double> a(kCount);
    double want = 0;
    for (std::size_t i = 0; i < kCount; ++i) want += a[i] = static_cast<double>(i % 17);
    const U64 out = device.put(std::vector<double>(1));
    std::vector<U64> arguments;
    array(arguments, device.put(a), 8, {kCount});
    array(arguments, out, 8, {1});
    device.run(program("block_sum"), threads(128, 40), arguments);
    CHECK_EQ(device.get<double>(out, 1)[0], want);
}

TEST(numba_mandelbrot) {
    Device device;
    constexpr std::size_t kSide = 70;
    const U64 out = device.put(std::vector<int>(kSide * kSide));
    std::vector<U64> arguments;
    array(arguments, out, 4, {kSide, kSide});
    arguments.push_back(kSide);
    LaunchConfig launch;
    launch.block = {16, 8, 1};
    launch.grid = {5, 9, 1};
    device.run(program("mandelbrot"), launch, arguments);
    const auto got = device.get<int>(out, kSide * kSide);
    unsigned different = 0;
    for (std::size_t y = 0; y < kSide; ++y) {
        for (std::size_t x = 0; x < kSide; ++x) {
            const double n = kSide;
            const std::complex<double> c(-2 + 3 * static_cast<double>(x) / n,
                                         -1.5 + 3 * static_cast<double>(y) / n);
            std::complex<double> z = 0;
            int rounds = 0;
            for (; rounds < 100 && std::norm(z) < 4; ++rounds)
                z = {z.real() * z.real() - z.imag() * z.imag() + c.real(),
                     2 * z.real() * z.imag() + c.imag()};
            different += got[y * kSide + x] != rounds;
        }
    }
    CHECK(different <
          kSide * kSide / 200);  // the compiler's fused multiply-adds differ at the edge
}

TEST(numba_debug_build) {
    Device device;
    constexpr std::size_t kCount = 100;
    std::vector<double> a(kCount);
    for (std::size_t i = 0; i < kCount; ++i) a[i] = static_cast<double>(i) * 0.37 + 0.01;
    const U64 out = device.put(std::vector<double>(kCount));
    std::vector<U64> arguments;
    array(arguments, device.put(a), 8, {kCount});
    array(arguments, out, 8, {kCount});
    device.run(program("sinc_debug"), threads(128), arguments);
    const auto got = device.get<double>(out, kCount);
    for (std::size_t i = 0; i < kCount; ++i)
        CHECK(std::fabs(got[i] - std::sin(a[i]) / a[i]) < 1e-15);
}

TEST(numba_print) {
    Device device;
    std::vector<U64> arguments;
    array(arguments, device.put(std::vector<double>{1.5, -2}), 8, {2});
    device.run(program("print"), threads(2), arguments);
    CHECK_EQ(device.printed, "thread 0 has 1.500000\nthread 1 has -2.000000\n");
}

TEST(cuda_tiled_matrix_product) {
    Device device;
    constexpr unsigned kSide = 96;
    std::vector<float> a(kSide * kSide);
    std::vector<float> b(kSide * kSide);
    for (unsigned i = 0; i < kSide * kSide; ++i) {
        a[i] = static_cast<float>(i % 13) - 6;
        b[i] = static_cast<float>(i % 7) - 3;
    }
    const U64 out = device.put(std::vector<float>(kSide * kSide));
    LaunchConfig launch;
    launch.block = {16, 16, 1};
    launch.grid = {kSide / 16, kSide / 16, 1};
    const std::vector<U64> arguments{device.put(a), device.put(b), out, kSide};
    const Program matmul = device.load(program("matmul"));
    const auto start = std::chrono::steady_clock::now();
    const RunResult result = device.run(matmul, launch, arguments);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    CHECK(result.status == Status::ok);
    std::cerr << "    " << static_cast<double>(result.instructions) / seconds.count() / 1e6
              << " million thread instructions a second\n";
    const auto got = device.get<float>(out, kSide * kSide);
    for (unsigned y = 0; y < kSide; ++y) {
        for (unsigned x = 0; x < kSide; ++x) {
            float want = 0;
            for (unsigned k = 0; k < kSide; ++k) want += a[y * kSide + k] * b[k * kSide + x];
            CHECK_EQ(got[y * kSide + x], want);
        }
    }
}

CARREL_TEST_MAIN
