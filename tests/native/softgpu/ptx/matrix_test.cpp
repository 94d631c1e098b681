// mma, ldmatrix and cp.async against products computed element by element. Values are small
// integers, so that every format and order of summation gives the same sums.
#include <functional>

#include "check.hpp"
#include "device.hpp"
#include "softgpu/ptx/half.hpp"

using namespace carrel::softgpu::ptx;
using namespace carrel::softgpu::ptx::test;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

namespace {

int value_a(unsigned row, unsigned k) {
    return static_cast<int>((row * 5 + k * 3) % 7) - 3;
}
int value_b(unsigned k, unsigned column) {
    return static_cast<int>((k * 2 + column * 11) % 5) - 2;
}
int value_c(unsigned row, unsigned column) {
    return static_cast<int>(row * 8 + column) - 60;
}

int product(unsigned row, unsigned column, unsigned depth) {
    int sum = value_c(row, column);
    for (unsigned k = 0; k < depth; ++k) sum += value_a(row, k) * value_b(k, column);
    return sum;
}

U32 bits_of(const std::string& type, int value) {
    const auto real = static_cast<float>(value);
    if (type == "f16") return Float16::narrow(real);
    if (type == "bf16") return BFloat16::narrow(real);
    if (type == "s8" || type == "u8") return static_cast<U32>(value) & 0xff;
    if (type == "s32") return static_cast<U32>(value);
    return std::bit_cast<U32>(real);  // f32, tf32
}

unsigned bits_in(const std::string& type) {
    return type == "s8" ? 8 : type == "f16" || type == "bf16" ? 16 : 32;
}

// Registers [register][lane] as the manual's figures lay them out, element by element.
using Fill = std::function<U32(unsigned lane, unsigned element)>;
void fill(std::vector<U32>& memory, unsigned registers, unsigned bits, const Fill& element) {
    const unsigned per = 32 / bits;
    for (unsigned i = 0; i < registers; ++i)
        for (unsigned lane = 0; lane < 32; ++lane) {
            U32 word = 0;
            for (unsigned j = 0; j < per; ++j) word |= element(lane, i * per + j) << (bits * j);
            memory.push_back(word);
        }
}

void check_product(unsigned depth, const std::string& d, const std::string& in,
                   unsigned a_registers, unsigned b_registers) {
    const unsigned per = 32 / bits_in(in);
    const unsigned acc_registers = d == "f16" ? 2 : 4;
    std::vector<U32> memory;
    // Rows alternate between g and g + 8 by register; columns advance by 4 × per every second
    // register.
    fill(memory, a_registers, bits_in(in), [&](unsigned lane, unsigned e) {
        const unsigned i = e / per;
        return bits_of(
            in, value_a(lane / 4 + 8 * (i & 1), lane % 4 * per + e % per + 4 * per * (i >> 1)));
    });
    fill(memory, b_registers, bits_in(in), [&](unsigned lane, unsigned e) {
        return bits_of(in, value_b(lane % 4 * per + e % per + 4 * per * (e / per), lane / 4));
    });
    fill(memory, acc_registers, bits_in(d), [&](unsigned lane, unsigned e) {
        return bits_of(d, value_c(lane / 4 + 8 * (e / 2), lane % 4 * 2 + e % 2));
    });
    const auto list = [](const std::string& prefix, unsigned count) {
        std::string text = "{";
        for (unsigned i = 0; i < count; ++i)
            text += (i == 0 ? "" : ", ") + prefix + std::to_string(i);
        return text + "}";
    };
    std::string body =
        "{ .reg .b32 %a<4>, %w<4>, %c<4>, %o<4>; mul.wide.u32 %x1, %i, 4; add.u64 %x2, %p0, %x1; "
        "add.u64 %x3, %p1, %x1;\n";
    unsigned at = 0;
    const auto load = [&](const std::string& prefix, unsigned count) {
        for (unsigned i = 0; i < count; ++i, at += 128)
            body += "ld.global.b32 " + prefix + std::to_string(i) + ", [%x2+" + std::to_string(at) +
                    "];\n";
    };
    load("%a", a_registers);
    load("%w", b_registers);
    load("%c", acc_registers);
    body += "mma.sync.aligned.m16n8k" + std::to_string(depth) + ".row.col." + d + "." + in + "." +
            in + "." + d + " " + list("%o", acc_registers) + ", " + list("%a", a_registers) + ", " +
            list("%w", b_registers) + ", " + list("%c", acc_registers) + ";\n";
    for (unsigned i = 0; i < acc_registers; ++i)
        body +=
            "st.global.b32 [%x3+" + std::to_string(i * 128) + "], %o" + std::to_string(i) + ";\n";
    Device device;
    const U64 out = device.put(std::vector<U32>(4 * 32));
    device.run(kernel(2, body + "}"), threads(32), {device.put(memory), out});
    const auto got = device.get<U32>(out, 4 * 32);
    std::vector<U32> want;
    fill(want, acc_registers, bits_in(d), [&](unsigned lane, unsigned e) {
        return bits_of(d, product(lane / 4 + 8 * (e / 2), lane % 4 * 2 + e % 2, depth));
    });
    for (std::size_t i = 0; i < want.size(); ++i) {
        if (got[i] == want[i]) continue;
        carrel::test::fail(__FILE__, __LINE__,
                           (d + " " + in + " k" + std::to_string(depth)).c_str());
        CHECK_EQ(got[i], want[i]);
        return;
    }
}

}  // namespace

TEST(products_of_all_formats) {
    check_product(8, "f32", "f16", 2, 1);
    check_product(16, "f32", "f16", 4, 2);
    check_product(16, "f16", "f16", 4, 2);
    check_product(8, "f32", "bf16", 2, 1);
    check_product(16, "f32", "bf16", 4, 2);
    check_product(4, "f32", "tf32", 2, 1);
    check_product(8, "f32", "tf32", 4, 2);
    check_product(16, "s32", "s8", 2, 1);
    check_product(32, "s32", "s8", 4, 2);
}

TEST(product_of_doubles) {
    Device device;
    std::vector<double> memory;
    for (unsigned l = 0; l < 32; ++l) memory.push_back(value_a(l / 4, l % 4));
    for (unsigned l = 0; l < 32; ++l) memory.push_back(value_b(l % 4, l / 4));
    for (unsigned l = 0; l < 32; ++l) memory.push_back(value_c(l / 4, l % 4 * 2));
    for (unsigned l = 0; l < 32; ++l) memory.push_back(value_c(l / 4, l % 4 * 2 + 1));
    const U64 data = device.put(memory);
    device.run(
        kernel(1,
               "mul.wide.u32 %x1, %i, 8; add.u64 %x1, %p0, %x1; ld.global.f64 %d1, [%x1]; "
               "ld.global.f64 %d2, [%x1+256]; ld.global.f64 %d3, [%x1+512];"
               "ld.global.f64 %d4, [%x1+768]; mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 "
               "{%d5, %d6}, {%d1}, {%d2}, {%d3, %d4};"
               "st.global.f64 [%x1+512], %d5; st.global.f64 [%x1+768], %d6;"),
        threads(32), {data});
    const auto got = device.get<double>(data, 128);
    for (unsigned l = 0; l < 32; ++l) {
        CHECK_EQ(got[64 + l], product(l / 4, l % 4 * 2, 4));
        CHECK_EQ(got[96 + l], product(l / 4, l % 4 * 2 + 1, 4));
    }
}

TEST(matrices_from_shared_memory) {
    Device device;
    std::vector<std::uint16_t> numbers(256);
    for (unsigned i = 0; i < 256; ++i) numbers[i] = static_cast<std::uint16_t>(i);
    const U64 data = device.put(numbers);
    const U64 out = device.put(std::vector<U32>(8 * 32));
    // Four 8 × 8 matrices of 16-bit numbers, copied asynchronously, then loaded plain and
    // transposed.
    device.run(
        kernel(2,
               ".shared .align 16 .b8 tile[512];\nmov.u32 %r1, tile; shl.b32 %r2, %i, 4; add.u32 "
               "%r3, %r1, %r2; cvt.u64.u32 %x1, %r2; add.u64 %x2, %p0, %x1;\n"
               "cp.async.cg.shared.global [%r3], [%x2], 16; cp.async.commit_group; "
               "cp.async.wait_group 0; bar.sync 0;\n"
               "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r3]; "
               "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r8, %r9, %r10, %r11}, [%r3];\n"
               "mul.wide.u32 %x3, %i, 4; add.u64 %x3, %p1, %x3; st.global.u32 [%x3], %r4; "
               "st.global.u32 [%x3+128], %r5; st.global.u32 [%x3+256], %r6;\n"
               "st.global.u32 [%x3+384], %r7; st.global.u32 [%x3+512], %r8; st.global.u32 "
               "[%x3+640], %r9; st.global.u32 [%x3+768], %r10; st.global.u32 [%x3+896], %r11;"),
        threads(32), {data, out});
    const auto got = device.get<U32>(out, 8 * 32);
    for (unsigned m = 0; m < 4; ++m) {
        for (unsigned l = 0; l < 32; ++l) {
            const unsigned row = l / 4;
            const unsigned column = l % 4 * 2;
            const unsigned first = 64 * m + row * 8 + column;
            CHECK_EQ(got[m * 32 + l], first | (first + 1) << 16);
            const unsigned turned = 64 * m + column * 8 + row;
            CHECK_EQ(got[(m + 4) * 32 + l], turned | (turned + 8) << 16);
        }
    }
}

TEST(async_copies_fill_with_zeros) {
    Device device;
    const U64 data = device.put(std::vector<U32>{1, 2, 3, 4});
    const U64 out = device.put(std::vector<U32>(8));
    device.run(kernel(2,
                      ".shared .align 16 .b8 tile[32];\nmov.u32 %r1, tile; mov.u32 %r2, 8; "
                      "setp.eq.u32 %q1, %r2, 8;\n"
                      "cp.async.ca.shared.global [%r1], [%p0], 16, %r2; cp.async.ca.shared.global "
                      "[%r1+16], [%p0+8], 8, %q1; cp.async.wait_all;\n"
                      "ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [tile]; st.global.v4.u32 [%p1], "
                      "{%r3, %r4, %r5, %r6}; ld.shared.v2.u32 {%r3, %r4}, [tile+16]; "
                      "st.global.v2.u32 [%p1+16], {%r3, %r4};"),
               threads(1), {data, out});
    const auto got = device.get<U32>(out, 6);
    const std::vector<U32> want{1, 2, 0, 0, 0, 0};
    for (std::size_t i = 0; i < want.size(); ++i) CHECK_EQ(got[i], want[i]);
}

CARREL_TEST_MAIN
