// Branches, calls, barriers, warp operations, and how runs end.
#include <numeric>
#include <thread>

#include "check.hpp"
#include "device.hpp"

using namespace carrel::softgpu::ptx;
using namespace carrel::softgpu::ptx::test;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

namespace {

// Thread i leaves %r1 at out[i].
const std::string kStore =
    "\nmul.wide.u32 %x9, %i, 4; add.u64 %x9, %p0, %x9; st.global.u32 [%x9], %r1;";

std::vector<U32> run(const std::string& body, const LaunchConfig& launch,
                     const std::string& before = {}, unsigned host_threads = 1) {
    Device device;
    device.host_threads = host_threads;
    const std::size_t count =
        std::size_t{launch.block.x} * launch.block.y * launch.block.z * launch.grid.x;
    const U64 out = device.put(std::vector<U32>(count));
    try {
        device.run(kernel(1, body + kStore, before), launch, {out});
    } catch (const std::exception& error) {
        carrel::test::fail(__FILE__, __LINE__, error.what());
    }
    return device.get<U32>(out, count);
}

void check_lanes(const std::vector<U32>& got, U32 (*want)(U32)) {
    for (U32 i = 0; i < got.size(); ++i) {
        if (got[i] == want(i)) continue;
        CHECK_EQ(got[i], want(i));
        std::cerr << "    lane " << i << '\n';
        return;
    }
}

Status ends(const std::string& body, const LaunchConfig& launch = threads(32),
            std::string* message = nullptr) {
    Device device;
    device.budget = 50'000'000;
    const RunResult result =
        device.run(device.load(kernel(1, body)), launch, {device.allocate(4096)});
    if (message != nullptr) *message = result.message;
    return result.status;
}

}  // namespace

TEST(loops_diverge_and_join) {
    // Collatz steps: every lane loops for its own number of rounds, with a branch inside.
    const auto got =
        run("add.u32 %r2, %i, 1; mov.u32 %r1, 0;\n"
            "LOOP: setp.eq.u32 %q1, %r2, 1; @%q1 bra DONE; and.b32 %r3, %r2, 1; setp.eq.u32 %q2, "
            "%r3, 0; @%q2 bra EVEN;\n"
            "mad.lo.u32 %r2, %r2, 3, 1; bra NEXT;\nEVEN: shr.u32 %r2, %r2, 1;\nNEXT: add.u32 %r1, "
            "%r1, 1; bra.uni LOOP;\nDONE:",
            threads(128, 2));
    check_lanes(got, [](U32 i) {
        U64 n = i + 1;
        U32 steps = 0;
        for (; n != 1; ++steps) n = n % 2 == 0 ? n / 2 : 3 * n + 1;
        return steps;
    });
}

TEST(lanes_join_before_shuffles_even_out_of_line) {
    // The odd lanes' path lies behind the shuffle, so that the even ones come there first and must
    // wait.
    const auto got =
        run("and.b32 %r2, %i, 1; setp.eq.u32 %q1, %r2, 1; mov.u32 %r3, 100; @%q1 bra FAR;\n"
            "JOIN: shfl.sync.bfly.b32 %r1, %r3, 1, 31, -1; bra END;\nFAR: mov.u32 %r3, 200; bra "
            "JOIN;\nEND:",
            threads(64));
    check_lanes(got, [](U32 i) { return i % 2 == 0 ? 200U : 100U; });
}

TEST(branch_tables) {
    const auto got =
        run("and.b32 %r2, %i, 3; mov.u32 %r1, 9;\nTABLE: .branchtargets A, B, C, D;\nbrx.idx %r2, "
            "TABLE;\n"
            "A: mov.u32 %r1, 10; bra END;\nB: mov.u32 %r1, 11; bra END;\nC: mov.u32 %r1, 12; bra "
            "END;\nD: mov.u32 %r1, 13;\nEND:",
            threads(40));
    check_lanes(got, [](U32 i) { return 10 + i % 4; });
    CHECK(ends("mov.u32 %r2, 7;\nT: .branchtargets E;\nbrx.idx %r2, T;\nE:") ==
          Status::illegal_instruction);
}

TEST(calls_recursion_and_pointers) {
    const std::string functions =
        ".func (.param .b32 r) twice(.param .b32 a) { .reg .b32 %v; ld.param.b32 %v, [a]; add.u32 "
        "%v, %v, %v; st.param.b32 [r], %v; ret; }\n"
        ".func (.reg .b32 r) plus1(.reg .b32 a) { add.u32 r, a, 1; ret; }\n"
        ".func (.param .b32 r) fib(.param .b32 a) { .reg .b32 %v<4>; .reg .pred %p; ld.param.b32 "
        "%v0, [a]; setp.lt.u32 %p, %v0, 2;\n"
        "@!%p bra MORE; st.param.b32 [r], %v0; ret;\nMORE: { .param .b32 x; .param .b32 y; sub.u32 "
        "%v1, %v0, 1; st.param.b32 [x], %v1;\n"
        "call (y), fib, (x); ld.param.b32 %v2, [y]; sub.u32 %v1, %v0, 2; st.param.b32 [x], %v1; "
        "call (y), fib, (x); ld.param.b32 %v3, [y]; }\n"
        "add.u32 %v2, %v2, %v3; st.param.b32 [r], %v2; ret; }\n"
        ".func (.param .b32 r) thrice(.param .b32 a) { .reg .b32 %v; ld.param.b32 %v, [a]; "
        "mul.lo.u32 %v, %v, 3; st.param.b32 [r], %v; ret; }\n"
        ".global .align 8 .u64 table[2] = {twice, thrice};\n"
        ".func (.param .align 8 .b8 r[16]) swap(.param .align 8 .b8 a[16]) { .reg .b64 %v<3>; "
        "ld.param.v2.b64 {%v1, %v2}, [a]; st.param.v2.b64 [r], {%v2, %v1}; ret; }\n";
    check_lanes(run("and.b32 %r2, %i, 7; { .param .b32 x; .param .b32 y; st.param.b32 [x], %r2; "
                    "call (y), fib, (x); ld.param.b32 %r1, [y]; }",
                    threads(64), functions),
                [](U32 i) { return std::vector<U32>{0, 1, 1, 2, 3, 5, 8, 13}[i % 8]; });
    check_lanes(run("and.b32 %r2, %i, 1; mul.wide.u32 %x1, %r2, 8; mov.u64 %x2, table; add.u64 "
                    "%x2, %x2, %x1; ld.global.u64 %x3, [%x2];\n"
                    "{ .param .b32 x; .param .b32 y; st.param.b32 [x], %i; P: .callprototype "
                    "(.param .b32 _) _ (.param .b32 _);\n"
                    "call (y), %x3, (x), P; ld.param.b32 %r1, [y]; } call (%r1), plus1, (%r1);",
                    threads(64), functions),
                [](U32 i) { return i * (2 + i % 2) + 1; });
    check_lanes(run("{ .param .align 8 .b8 s[16]; .param .align 8 .b8 t[16]; mov.u64 %x1, 5; "
                    "st.param.b64 [s], %i64; st.param.b64 [s+8], %x1;\n"
                    "call (t), swap, (s); ld.param.b64 %x2, [t]; ld.param.b64 %x3, [t+8]; "
                    "mad.lo.u64 %x2, %x2, 1000, %x3; cvt.u32.u64 %r1, %x2; }",
                    threads(40), functions),
                [](U32 i) { return 5000 + i; });
    CHECK(ends("mov.u64 %x1, 12345; P: .callprototype _ (); call %x1, P;") ==
          Status::illegal_instruction);
    Device device;
    const std::string endless = ".func deep() { call deep; ret; }\n";
    CHECK(device.run(device.load(kernel(1, "call deep;", endless)), threads(1), {0}).status ==
          Status::stack_overflow);
}

TEST(barriers) {
    // Four warps pass a sum round through shared memory.
    check_lanes(run(".shared .b32 cells[128];\nmov.u32 %r2, cells; shl.b32 %r3, %i, 2; add.u32 "
                    "%r4, %r2, %r3; mov.u32 %r1, %i; mov.u32 %r5, 0;\n"
                    "LOOP: st.shared.u32 [%r4], %r1; bar.sync 0; add.u32 %r6, %i, 33; and.b32 %r6, "
                    "%r6, 127; shl.b32 %r6, %r6, 2; add.u32 %r6, %r2, %r6;\n"
                    "ld.shared.u32 %r1, [%r6]; bar.sync 0; add.u32 %r5, %r5, 1; setp.lt.u32 %q1, "
                    "%r5, 4; @%q1 bra LOOP;",
                    threads(128)),
                [](U32 i) { return (i + 4 * 33) % 128; });
    check_lanes(run("and.b32 %r2, %i, 3; setp.eq.u32 %q1, %r2, 0; bar.red.popc.u32 %r1, 0, %q1; "
                    "bar.red.and.pred %q2, 0, %q1; @%q2 add.u32 %r1, %r1, 1000;\n"
                    "bar.red.or.pred %q2, 0, !%q1; @%q2 add.u32 %r1, %r1, 500;",
                    threads(100)),
                [](U32) { return 525U; });
    // Producers arrive without waiting; consumers of barrier 1 wait for all 64.
    check_lanes(
        run(".shared .b32 cell;\nmov.u32 %r1, 0; setp.lt.u32 %q1, %i, 32; @%q1 bra "
            "CONSUME;\nmov.u32 %r3, 42; st.shared.u32 [cell], %r3; bar.arrive 1, 64; bra END;\n"
            "CONSUME: bar.sync 1, 64; ld.shared.u32 %r1, [cell];\nEND:",
            threads(64)),
        [](U32 i) { return i < 32 ? 42U : 0U; });
    // Threads that have exited are not waited for.
    check_lanes(run("mov.u32 %r1, 1; setp.gt.u32 %q1, %i, 40; @%q1 exit; bar.sync 0;", threads(96)),
                [](U32 i) { return i > 40 ? 0U : 1U; });
    std::string message;
    CHECK(ends("setp.lt.u32 %q1, %i, 32; @%q1 bra A; bar.sync 0; bra B;\nA: bar.sync 1;\nB:",
               threads(64), &message) == Status::trap);
    CHECK(message.find("deadlock") != std::string::npos);
}

TEST(shuffles) {
    const auto shuffle = [](const std::string& mode, int b, int c, U32 (*want)(U32)) {
        check_lanes(run("add.u32 %r2, %i, 1000; shfl.sync." + mode + ".b32 %r1|%q1, %r2, " +
                            std::to_string(b) + ", " + std::to_string(c) +
                            ", -1; @!%q1 add.u32 %r1, %r1, 5000;",
                        threads(32)),
                    want);
    };
    shuffle("up", 3, 0, [](U32 i) { return i < 3 ? 6000 + i : 1000 + i - 3; });
    shuffle("down", 5, 31, [](U32 i) { return i + 5 > 31 ? 6000 + i : 1000 + i + 5; });
    shuffle("bfly", 16, 31, [](U32 i) { return 1000 + (i ^ 16); });
    shuffle("idx", 7, 31, [](U32) { return 1007U; });
    shuffle("idx", 2, 0x181f, [](U32 i) { return 1000 + (i & 24) + 2; });  // groups of eight
    shuffle("down", 2, 0x181f, [](U32 i) { return (i & 7) > 5 ? 6000 + i : 1000 + i + 2; });
    shuffle("up", 1, 0x1800, [](U32 i) { return (i & 7) == 0 ? 6000 + i : 1000 + i - 1; });
}

TEST(votes_and_matches) {
    check_lanes(run("setp.gt.u32 %q1, %i, 9; vote.sync.ballot.b32 %r1, %q1, -1; vote.sync.all.pred "
                    "%q2, %q1, -1; @%q2 mov.u32 %r1, 1;\n"
                    "vote.sync.any.pred %q2, !%q1, -1; @!%q2 mov.u32 %r1, 2; vote.sync.uni.pred "
                    "%q3, %q1, -1; @%q3 mov.u32 %r1, 3;",
                    threads(32)),
                [](U32) { return 0xfffffc00U; });
    check_lanes(run("setp.gt.u32 %q1, %i, 15; @%q1 bra HIGH; activemask.b32 %r1; bra END;\nHIGH: "
                    "mov.u32 %r1, 5;\nEND:",
                    threads(32)),
                [](U32 i) { return i > 15 ? 5U : 0xffffU; });
    check_lanes(run("and.b32 %r2, %i, 3; match.any.sync.b32 %r1, %r2, -1; match.all.sync.b32 "
                    "%r3|%q1, %r2, -1; @%q1 trap;"
                    "mov.u64 %x1, 7; match.all.sync.b64 %r3|%q1, %x1, -1; @!%q1 trap; setp.ne.u32 "
                    "%q2, %r3, -1; @%q2 trap;",
                    threads(32)),
                [](U32 i) { return 0x11111111U << i % 4; });
    check_lanes(run("redux.sync.add.s32 %r1, %i, -1; redux.sync.max.u32 %r2, %i, -1; add.u32 %r1, "
                    "%r1, %r2; redux.sync.xor.b32 %r2, %i, -1; add.u32 %r1, %r1, %r2;",
                    threads(32)),
                [](U32) { return 496U + 31U; });
    // Two halves with masks of their own in one instruction.
    check_lanes(
        run("setp.lt.u32 %q1, %i, 16; selp.b32 %r2, 0xffff, 0xffff0000, %q1; redux.sync.min.u32 "
            "%r1, %i, %r2; elect.sync %r3|%q2, %r2; @%q2 add.u32 %r1, %r1, 100;",
            threads(32)),
        [](U32 i) { return (i < 16 ? 0U : 16U) + (i % 16 == 0 ? 100 : 0); });
}

TEST(spin_locks_make_progress) {
    Device device;
    const U64 cells = device.put(std::vector<U32>(2));
    // All lanes of all warps contend for one lock; the holder must get its turn.
    device.run(
        kernel(
            1,
            "LOCK: atom.global.cas.b32 %r1, [%p0], 0, 1; setp.ne.u32 %q1, %r1, 0; @%q1 bra LOCK;\n"
            "ld.volatile.global.u32 %r2, [%p0+4]; add.u32 %r2, %r2, 1; st.volatile.global.u32 "
            "[%p0+4], %r2; membar.gl; atom.global.exch.b32 %r1, [%p0], 0;"),
        threads(96, 2), {cells});
    CHECK_EQ(device.get<U32>(cells, 2)[1], 192U);
    // A warp waits for another one of its block.
    device.run(kernel(1,
                      "setp.lt.u32 %q1, %i, 32; @!%q1 bra SET;\nWAIT: ld.acquire.gpu.global.u32 "
                      "%r1, [%p0]; setp.eq.u32 %q2, %r1, 0; @%q2 bra WAIT; bra END;\n"
                      "SET: st.release.gpu.global.u32 [%p0], 1;\nEND:"),
               threads(64), {cells});
    CHECK_EQ(device.get<U32>(cells, 1)[0], 1U);
}

TEST(cooperative_grids) {
    const std::string body =
        ".param .b32 dummy;\n{ .param .b32 s; .param .b64 h; .param .b32 f; .param .b32 e; "
        "st.param.b32 [s], 1; call (h), cudaCGGetIntrinsicHandle, (s);\n"
        "ld.param.b64 %x1, [h]; mul.wide.u32 %x2, %i, 4; add.u64 %x3, %p0, %x2; add.u32 %r1, %i, "
        "7; st.global.u32 [%x3], %r1;\n"
        "st.param.b64 [h], %x1; st.param.b32 [f], 0; call (e), cudaCGSynchronize, (h, f);\n"
        "mov.u32 %r3, %nctaid.x; mul.lo.u32 %r4, %r3, %n; sub.u32 %r4, %r4, 1; sub.u32 %r4, %r4, "
        "%i; mul.wide.u32 %x2, %r4, 4; add.u64 %x4, %p0, %x2;\n"
        "ld.global.u32 %r1, [%x4]; st.param.b64 [h], %x1; call (e), cudaCGSynchronize, (h, f); }";
    const std::string before =
        ".extern .func (.param .b64 r) cudaCGGetIntrinsicHandle(.param .b32 s);\n.extern .func "
        "(.param .b32 r) cudaCGSynchronize(.param .b64 h, .param .b32 f);\n";
    LaunchConfig launch = threads(48, 9);
    launch.cooperative = true;
    for (const unsigned host_threads : {1U, 3U})
        check_lanes(run(body, launch, before, host_threads), [](U32 i) { return 431 - i + 7; });
    Device device;
    CHECK(device.run(device.load(kernel(1, body, before)), threads(32), {device.allocate(4096)})
              .status == Status::trap);
}

TEST(special_registers) {
    LaunchConfig launch;
    launch.block = {5, 4, 3};
    launch.grid = {2, 1, 1};
    const auto got =
        run("mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %tid.x; mov.u32 %r5, %ntid.y; "
            "mad.lo.u32 %r2, %r3, %r5, %r2; mov.u32 %r5, %ntid.x;\n"
            "mad.lo.u32 %r2, %r2, %r5, %r4; mov.u32 %r1, %laneid; mov.u32 %r6, %warpid; mad.lo.u32 "
            "%r1, %r6, 32, %r1; setp.ne.u32 %q1, %r1, %r2; @%q1 trap;\n"
            "mov.u32 %r6, %lanemask_lt; popc.b32 %r6, %r6; mov.u32 %r7, %laneid; setp.ne.u32 %q1, "
            "%r6, %r7; @%q1 trap; mov.u64 %x1, %clock64; mov.u32 %r8, %clock;\n"
            "mov.u64 %x2, %globaltimer; setp.eq.u64 %q1, %x2, 0; @%q1 trap; mov.u32 %r1, "
            "%nctaid.x; mov.u32 %i, %r2; mad.lo.u32 %i, %b, 60, %r2;",
            launch);
    check_lanes(got, [](U32) { return 2U; });
}

TEST(how_runs_end) {
    CHECK(ends("trap;") == Status::trap);
    CHECK(ends("LOOP: bra LOOP;") == Status::out_of_budget);
    CHECK(ends("ret;", threads(2000)) == Status::invalid);
    CHECK(ends("ret;", threads(0)) == Status::invalid);
    Device device;
    std::atomic<bool> stop{false};
    device.abort = &stop;
    const Program endless = device.load(kernel(1, "LOOP: bra LOOP;"));
    std::jthread stopper([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        stop = true;
    });
    CHECK(device.run(endless, threads(64, 4), {0}).status == Status::aborted);
    CHECK_EQ(device.run(endless, threads(64, 4), {0}).message, "kernel 'k' was aborted");
}

TEST(printf_malloc_assert) {
    Device device;
    const std::string before =
        ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n.extern .func "
        "(.param .b64 r) malloc(.param .b64 n);\n.extern .func free(.param .b64 p);\n"
        ".extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, "
        ".param .b64 c) .noreturn;\n"
        ".global .align 1 .b8 format[] = "
        "{37,100,32,37,53,46,50,102,32,37,115,32,37,108,108,120,32,37,37,32,37,99,10,0};\n"  // "%d
                                                                                             // %5.2f
                                                                                             // %s
                                                                                             // %llx
                                                                                             // %%
                                                                                             // %c\n"
        ".global .align 1 .b8 text[3] = {104, 105};\n";
    const std::string body =
        ".local .align 8 .b8 args[40];\nmov.u64 %x1, args; cvta.local.u64 %x2, %x1; mov.u32 %r1, "
        "-5; st.local.u32 [%x1], %r1; mov.f64 %d1, 0d400921FB54442D18; st.local.f64 [%x1+8], %d1;\n"
        "mov.u64 %x3, text; st.local.u64 [%x1+16], %x3; mov.u64 %x4, 0xabcdef0123; st.local.u64 "
        "[%x1+24], %x4; mov.u32 %r2, 65; st.local.u32 [%x1+32], %r2; mov.u64 %x5, format;\n"
        "{ .param .b64 f; .param .b64 a; .param .b32 r; st.param.b64 [f], %x5; st.param.b64 [a], "
        "%x2; call (r), vprintf, (f, a); ld.param.b32 %r3, [r]; st.global.u32 [%p0], %r3; }\n"
        "{ .param .b64 n; .param .b64 q; mov.u64 %x6, 64; st.param.b64 [n], %x6; call (q), malloc, "
        "(n); ld.param.b64 %x7, [q]; st.u64 [%x7+56], %x6; st.param.b64 [n], %x7; call free, (n); "
        "}\n"
        "setp.ne.u32 %q1, %i, 1; @%q1 bra END;\n{ .param .b64 m; .param .b64 f; .param .b32 l; "
        ".param .b64 n; .param .b64 c; st.param.b64 [m], %x3; st.param.b64 [f], %x3; st.param.b32 "
        "[l], 12; st.param.b64 [n], %x3; st.param.b64 [c], 1;\n"
        "call __assertfail, (m, f, l, n, c); }\nEND:";
    const U64 out = device.put(std::vector<U32>(1));
    const RunResult result = device.run(device.load(kernel(1, body, before)), threads(2), {out});
    CHECK(result.status == Status::assertion);
    CHECK(result.message.find("hi:12: hi: assertion `hi` failed") != std::string::npos);
    CHECK(result.message.find("thread (1,0,0)") != std::string::npos);
    CHECK_EQ(device.printed, "-5  3.14 hi abcdef0123 % A\n-5  3.14 hi abcdef0123 % A\n");
    CHECK_EQ(device.get<U32>(out, 1)[0], 5U);
    CHECK_EQ(device.released, 2U);
}

// 96 threads go through three phases of a barrier in memory; each sees what all wrote before.
TEST(barriers_in_memory) {
    const std::string before = ".shared .align 8 .b64 bar; .shared .align 4 .u32 total;";
    std::string body =
        "setp.eq.u32 %q1, %i, 0; @%q1 mbarrier.init.shared.b64 [bar], 96;"
        "@%q1 st.shared.u32 [total], 0; bar.sync 0; mov.u32 %r1, 0;";
    for (int phase = 0; phase < 3; ++phase) {
        const std::string n = std::to_string(phase);
        body += "red.shared.add.u32 [total], 1; mbarrier.arrive.shared.b64 %x1, [bar];\n";
        body += "WAIT" + n + ": " +
                (phase == 1 ? "mbarrier.test_wait.parity.shared.b64 %q2, [bar], 1;"
                            : "mbarrier.try_wait.shared::cta.b64 %q2, [bar], %x1;") +
                " @!%q2 bra WAIT" + n + ";\n";
        body += "ld.shared.u32 %r2, [total]; add.u32 %r1, %r1, %r2; bar.sync 0;";
    }
    body +=
        "mbarrier.pending_count.b64 %r3, %x1; setp.gt.u32 %q2, %r3, 96; @%q2 mov.u32 %r1, 0;"
        "@%q1 mbarrier.inval.shared.b64 [bar];";
    check_lanes(run(body, threads(96), before), [](U32) { return 96U + 192U + 288U; });
}

CARREL_TEST_MAIN
