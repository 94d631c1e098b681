// Loads, stores and atomics in every state space, what they refuse, and the table's own ability to
// notice a mistake.
#include "table.hpp"

using namespace carrel::softgpu::ptx;
using namespace carrel::softgpu::ptx::test;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

namespace {

template <class T>
std::vector<T> run(const std::string& body, std::size_t count, const LaunchConfig& launch,
                   const std::string& before = {}, std::vector<T> initial = {},
                   unsigned host_threads = 1) {
    Device device;
    device.host_threads = host_threads;
    initial.resize(count);
    const U64 out = device.put(initial);
    try {
        device.run(kernel(1, body, before), launch, {out});
    } catch (const std::exception& error) {
        carrel::test::fail(__FILE__, __LINE__, error.what());
    }
    return device.get<T>(out, count);
}

RunResult fault(const std::string& body, U64 argument = 0, const std::string& before = {}) {
    Device device;
    const U64 out = device.put(std::vector<U64>(64));
    return device.run(device.load(kernel(2, body, before)), threads(32), {out, argument});
}

}  // namespace

TEST(table_notices_a_wrong_reference) {
    const int before = carrel::test::failures();
    check2<U32, U32, U32>("add.u32 %d, %a, %b;",
                          [](U32 a, U32 b) { return a + b + (a == 7 && b == 33); });
    const bool noticed = carrel::test::failures() > before;
    carrel::test::failures() = before;
    CHECK(noticed);
}

TEST(loads_extend_and_stores_cut) {
    // -2 in every width, read back into wide registers with and without sign
    const auto got = run<U64>(
        "mov.b64 %x1, -2; st.global.b64 [%p0+64], %x1;"
        "ld.global.s8 %x2, [%p0+64]; st.global.b64 [%p0], %x2; ld.global.u8 %x2, [%p0+64]; "
        "st.global.b64 [%p0+8], %x2;"
        "ld.global.s16 %x2, [%p0+64]; st.global.b64 [%p0+16], %x2; ld.global.u16 %r2, [%p0+64]; "
        "cvt.u64.u32 %x2, %r2;"
        "st.global.b64 [%p0+24], %x2; ld.global.s32 %x2, [%p0+64]; st.global.b64 [%p0+32], %x2;"
        "ld.global.u8 %h1, [%p0+64]; cvt.u64.u16 %x2, %h1; st.global.b64 [%p0+40], %x2;"
        "st.global.u8 [%p0+48], %x1; st.global.u16 [%p0+56], %r2;",
        9, threads(1));
    const std::vector<U64> want{~1ULL, 254, ~1ULL, 65534, ~1ULL, 254, 254, 65534, ~1ULL};
    for (std::size_t i = 0; i < want.size(); ++i) CHECK_EQ(got[i], want[i]);
}

// Triton writes one register in braces.
TEST(vectors_of_one_are_their_element) {
    const auto got = run<U32>(
        "shl.b64 %x1, %i64, 2; add.u64 %x1, %p0, %x1; add.u32 %r1, %i, 5; "
        "st.global.b32 [%x1+0], {%r1}; ld.global.b32 {%r2}, [%x1+0]; add.u32 %r2, %r2, %r2; "
        "st.global.b32 [%x1], {%r2};",
        32, threads(32));
    for (U32 i = 0; i < 32; ++i) CHECK_EQ(got[i], 2 * (i + 5));
}

TEST(vectors) {
    const auto got = run<U32>(
        "shl.b64 %x1, %i64, 4; add.u64 %x1, %p0, %x1; add.u32 %r1, %i, 100; add.u32 %r2, %i, 200; "
        "add.u32 %r3, %i, 300;"
        "st.global.v4.u32 [%x1], {%i, %r1, %r2, %r3}; ld.global.v2.u64 {%x2, %x3}, [%x1];"
        "st.global.v2.b64 [%x1], {%x3, %x2};",
        256, threads(64));
    for (U32 i = 0; i < 64; ++i) {
        CHECK_EQ(got[i * 4], i + 200);
        CHECK_EQ(got[i * 4 + 1], i + 300);
        CHECK_EQ(got[i * 4 + 2], i);
        CHECK_EQ(got[i * 4 + 3], i + 100);
    }
}

TEST(shared_static_dynamic_and_generic) {
    LaunchConfig launch = threads(64);
    launch.dynamic_shared_bytes = 256;
    const auto got = run<U32>(
        ".shared .align 4 .b8 fixed[256];\n"
        "mov.u32 %r1, fixed; shl.b32 %r2, %i, 2; add.u32 %r3, %r1, %r2; mul.lo.u32 %r4, %i, 3; "
        "st.shared.u32 [%r3], %r4;"
        "mov.u64 %x1, dyn; cvta.shared.u64 %x2, %x1; cvt.u64.u32 %x3, %r2; add.u64 %x4, %x2, %x3; "
        "st.u32 [%x4], %i;"
        "bar.sync 0; sub.u32 %r5, 252, %r2; add.u32 %r6, %r1, %r5; ld.shared.u32 %r7, [%r6];"
        "mov.u32 %r8, dyn; add.u32 %r8, %r8, %r5; ld.shared.u32 %r9, [%r8]; add.u32 %r7, %r7, %r9;"
        "add.u64 %x5, %p0, %x3; st.global.u32 [%x5], %r7; isspacep.shared %q1, %x2; @!%q1 trap; "
        "isspacep.global %q1, %p0; @!%q1 trap;"
        "cvta.to.shared.u64 %x6, %x2; setp.ne.u64 %q1, %x6, %x1; @%q1 trap;",
        64, launch, ".extern .shared .align 16 .b8 dyn[];");
    for (U32 i = 0; i < 64; ++i) CHECK_EQ(got[i], (63 - i) * 4);
}

TEST(local_memory_is_private) {
    const auto got = run<U32>(
        ".local .align 8 .b8 depot[64];\n"
        "mov.u64 %x1, depot; cvta.local.u64 %x2, %x1; mul.lo.u32 %r1, %i, 7; st.local.u32 "
        "[%x1+12], %r1; st.u32 [%x2+16], %i;"
        "and.b32 %r9, %i, 3; mul.wide.u32 %x4, %r9, 4; add.u64 %x5, %x2, %x4; st.u32 [%x5+32], "
        "%r1; ld.u32 %r8, [%x5+32];"
        "ld.u32 %r2, [%x2+12]; ld.local.u32 %r3, [depot+16]; add.u32 %r2, %r2, %r3; add.u32 %r2, "
        "%r2, %r8;"
        "shl.b64 %x3, %i64, 2; add.u64 %x3, %p0, %x3; st.global.u32 [%x3], %r2;",
        70, threads(70));
    for (U32 i = 0; i < 70; ++i) CHECK_EQ(got[i], i * 15);
}

TEST(constants_and_initialisers) {
    const std::string before =
        ".const .align 4 .f32 weights[3] = {1.5, 0f40000000, -3.25};\n"
        ".global .align 8 .b8 bytes[12] = {1, 2, 0xff, 4};\n"
        ".global .align 8 .u64 pointer = generic(bytes)+2;\n"
        ".global .align 8 .u64 pointers[2] = {bytes, pointer};\n"
        ".global .align 4 .u32 matrix[2][3] = {{1}, {2, 3}};\n"
        ".global .align 1 .b8 split[8] = {0xff(bytes), 0xff00(bytes), 0xff0000(bytes), "
        "0xff000000(bytes), 0xff00000000(bytes),"
        " 0xff0000000000(bytes), 0xff000000000000(bytes), 0xff00000000000000(bytes)};\n";
    const auto got = run<U32>(
        "ld.const.f32 %f1, [weights+8]; st.global.f32 [%p0], %f1; ld.global.u64 %x1, [pointer]; "
        "ld.u8 %r1, [%x1];"
        "st.global.u32 [%p0+4], %r1; ld.global.u64 %x1, [pointers+8]; ld.global.u64 %x1, [%x1]; "
        "ld.u8 %r1, [%x1+1];"
        "st.global.u32 [%p0+8], %r1; ld.global.u32 %r1, [matrix+12]; st.global.u32 [%p0+12], %r1;"
        "mov.u64 %x2, split; mov.u64 %x4, 0; mov.u32 %r5, 56;"
        "ld.global.u64 %x3, [split]; mov.u64 %x5, bytes; setp.ne.u64 %q1, %x3, %x5; @%q1 trap;",
        4, threads(1), before);
    CHECK_EQ(std::bit_cast<float>(got[0]), -3.25F);
    CHECK_EQ(got[1], 0xffU);
    CHECK_EQ(got[2], 4U);
    CHECK_EQ(got[3], 2U);
}

TEST(faults_are_caught) {
    RunResult r = fault("ld.global.u32 %r1, [%p1];", 0x1000);
    CHECK(r.status == Status::illegal_address);
    CHECK_EQ(r.address, 0x1000U);
    CHECK(r.message.find("thread (0,0,0)") != std::string::npos);
    CHECK(fault("setp.eq.u32 %q1, %i, 5; @%q1 st.global.u32 [%p1], %r1;", ~0ULL - 3)
              .message.find("thread (5,0,0)") != std::string::npos);
    CHECK(fault("ld.global.u32 %r1, [%p0+2];").status == Status::misaligned_address);
    CHECK(fault("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%p0+8];").status ==
          Status::misaligned_address);
    CHECK(fault("st.u32 [0], %r1;").status == Status::illegal_address);
    CHECK(fault("atom.global.add.u32 %r1, [%p1], 1;", 64).status == Status::illegal_address);
    CHECK(fault("atom.global.add.u64 %x1, [%p0+4], 1;").status == Status::misaligned_address);
    CHECK(fault("ld.shared.u32 %r1, [s+64];", 0, ".shared .align 4 .b8 s[64];").status ==
          Status::illegal_address);
    CHECK(fault("mov.u64 %x1, s; cvta.shared.u64 %x1, %x1; ld.u32 %r1, [%x1+4096];", 0,
                ".shared .b32 s;")
              .status == Status::illegal_address);
    CHECK(fault(".local .b32 l;\nld.local.u32 %r1, [l+1000000];").status ==
          Status::illegal_address);
    CHECK(fault("ld.local.u32 %r1, [%p1];", 0xffffffffffffff00ULL).status ==
          Status::illegal_address);
    CHECK(fault("ld.u64 %x1, [%p1];", 0x0003000000000100ULL).status == Status::illegal_address);
    CHECK(fault("st.u64 [%p1], %x1;", 0x0003000000000000ULL).status == Status::illegal_address);
    CHECK(fault("ld.u64 %x1, [%p1];", 0x00ff000000000000ULL).status == Status::illegal_address);
    for (const U64 wild :
         {0x7fffffffffffULL, 0x8000000000000ULL, 0xffff800000000000ULL, 0x0000400000000000ULL})
        CHECK(fault("st.global.u8 [%p1], %r1;", wild).status == Status::illegal_address);
}

TEST(atomics) {
    struct Case {
        const char* type;
        const char* op;
        U64 start;
        U64 want;  // after 96 threads have applied their number + 1
    };
    const auto f = [](float v) { return static_cast<U64>(std::bit_cast<U32>(v)); };
    const Case cases[] = {
        {"u32", "add", 5, 5 + 4656},
        {"s32", "max", 0xfffffff0, 96},
        {"u32", "max", 50, 96},
        {"s32", "min", 7, 1},
        {"u32", "min", 0xffffffff, 1},
        {"b32", "and", 0xffffff80, 0},
        {"b32", "or", 0x100, 0x17f},
        {"b32", "xor", 0x300, 0x360},
        {"u64", "add", 1ULL << 40, (1ULL << 40) + 4656},
        {"s64", "min", 3, 1},
        {"u64", "max", 3, 96},
        {"b64", "or", 1ULL << 33, (1ULL << 33) | 0x7f},
        {"f32", "add", f(0.5F), f(4656.5F)},
        {"f64", "add", std::bit_cast<U64>(0.25), std::bit_cast<U64>(4656.25)},
        {"u32", "inc", 1000, 0},
    };
    for (const Case& c : cases) {
        const std::string t = c.type;
        const bool wide = t.ends_with("64");
        const std::string reg = t[0] == 'f' ? (wide ? "%d1" : "%f1") : wide ? "%x1" : "%r1";
        const std::string old = t[0] == 'f' ? (wide ? "%d2" : "%f2") : wide ? "%x2" : "%r2";
        std::string make = "add.u32 %r1, %i, 1;";
        if (t == "f32") make += "cvt.rn.f32.u32 %f1, %r1;";
        if (t == "f64") make += "cvt.rn.f64.u32 %d1, %r1;";
        if (t[0] != 'f' && wide) make += "cvt.u64.u32 %x1, %r1;";
        for (const std::string form :
             {"atom.global.", "red.global.", "atom.", "atom.acq_rel.gpu.global.", "shared"}) {
            std::string body = make;
            const std::string op = std::string(c.op) + "." + t;
            if (form == "shared") {
                const std::string w = wide ? "u64" : "u32";
                body += "setp.ne.u32 %q1, %i, 0; ld.global." + w + (wide ? " %x5" : " %r5") +
                        ", [%p0]; @!%q1 st.shared." + w + " [cell], " + (wide ? "%x5" : "%r5") +
                        "; bar.sync 0; atom.shared." + op + " " + old + ", [cell], " + reg +
                        "; bar.sync 0; ld.shared." + w + (wide ? " %x5" : " %r5") +
                        ", [cell]; st.global." + w + " [%p0], " + (wide ? "%x5;" : "%r5;");
            } else {
                body +=
                    form + op + (form[0] == 'r' ? " " : " " + old + ", ") + "[%p0], " + reg + ";";
            }
            const auto got =
                run<U64>(body, 1, threads(96), ".shared .align 8 .b8 cell[8];", {c.start});
            const bool random_order =
                std::string(c.op) == "inc";  // the order decides; only the bound is sure
            if (random_order)
                CHECK(got[0] <= 96);
            else if (got[0] != c.want) {
                carrel::test::fail(__FILE__, __LINE__, (form + op).c_str());
                CHECK_EQ(got[0], c.want);
            }
        }
    }
}

TEST(atomics_return_the_old_value) {
    // Every thread draws a different ticket, on several host threads too.
    const auto tickets = run<U32>(
        "atom.global.add.u32 %r1, [%p0], 1; mul.wide.u32 %x1, %r1, 4; add.u64 %x1, %p0, %x1; "
        "red.global.add.u32 [%x1+4], 1;",
        1025, threads(128, 8), {}, {}, 3);
    CHECK_EQ(tickets[0], 1024U);
    for (std::size_t i = 1; i < tickets.size(); ++i) CHECK_EQ(tickets[i], 1U);
    const auto swapped = run<U32>(
        "atom.global.cas.b32 %r1, [%p0], 9, 10; @!%q1 atom.global.exch.b32 %r2, [%p0+4], %r1; "
        "st.global.u32 [%p0+8], %r2;",
        3, threads(1), {}, {9, 77});
    CHECK_EQ(swapped[0], 10U);
    CHECK_EQ(swapped[1], 9U);
    CHECK_EQ(swapped[2], 77U);
    const auto dec = run<U32>("atom.global.dec.u32 %r1, [%p0], 5;", 1, threads(1), {}, {0});
    CHECK_EQ(dec[0], 5U);
    const auto wide = run<U64>(
        "{ .reg .b128 %w<3>; mov.b128 %w1, {%x1, %x2}; mov.u64 %x3, 7; mov.b128 %w2, {%x3, %x3};"
        "atom.global.cas.b128 %w1, [%p0], %w1, %w2; }",
        2, threads(1), {}, {0, 0});
    CHECK_EQ(wide[0], 7U);
    CHECK_EQ(wide[1], 7U);
}

TEST(half_atomics) {
    const auto got = run<U32>(
        "mov.b32 %r1, 0x3c003c00; red.global.add.noftz.f16x2 [%p0], %r1; mov.b16 %h1, 0x3f80; "
        "atom.global.add.noftz.bf16 %h2, [%p0+4], %h1;",
        2, threads(64), {}, {0, 0});
    CHECK_EQ(got[0], 0x54005400U);  // 64.0 twice
    CHECK_EQ(got[1], 0x4280U);      // 64.0
}

CARREL_TEST_MAIN
