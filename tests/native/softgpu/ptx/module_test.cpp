// Parsing and linking: what modules declare, scopes, errors as ptxas would report them, and texts
// that are no PTX.
#include "check.hpp"
#include "device.hpp"

using namespace carrel::softgpu::ptx;
using namespace carrel::softgpu::ptx::test;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

namespace {

Diagnostic first_error(const std::string& text) {
    const Result<Module> module = parse(text);
    if (module.value || module.log.empty()) return {0, "no error"};
    return module.log.front();
}

Result<Program> linked(const std::vector<std::string>& texts) {
    std::vector<Module> modules;
    for (const std::string& text : texts) {
        Result<Module> module = parse(text);
        if (!module) throw std::runtime_error(format_log(module.log));
        modules.push_back(*module);
    }
    return link(modules);
}

}  // namespace

TEST(kernels_are_described) {
    Device device;
    const Program program =
        device.load(kHeader +
                    ".shared .align 8 .b8 both[24];\n.func helper() { .reg .b32 %r; ld.shared.u32 "
                    "%r, [both]; ret; }\n"
                    ".visible .entry first(.param .u8 a, .param .align 16 .b8 b[20], .param .u64 "
                    ".ptr .global .align 4 c, .param .f32 d)\n"
                    ".maxntid 128, 2, 1\n.minnctapersm 3\n{ .shared .align 4 .b8 own[100]; .local "
                    ".align 8 .b8 stack[40]; .reg .b32 %r<3>;\n"
                    "call helper; st.shared.u32 [own], %r1; ret; }\n"
                    ".visible .entry second() .reqntid 32 { .shared .b64 x; .reg .b64 %r; "
                    "ld.shared.u64 %r, [x]; ret; }\n");
    const Kernel& first = *program.find_kernel("first");
    CHECK_EQ(first.parameters.size(), 4U);
    CHECK_EQ(first.parameters[1].offset, 16U);
    CHECK_EQ(first.parameters[1].size, 20U);
    CHECK_EQ(first.parameters[2].offset, 40U);
    CHECK_EQ(first.parameters[3].offset, 48U);
    CHECK_EQ(first.param_bytes, 52U);
    CHECK_EQ(first.max_threads, 256U);
    CHECK_EQ(first.min_blocks, 3U);
    CHECK_EQ(first.static_shared_bytes, 124U);
    CHECK_EQ(first.local_bytes, 48U);
    CHECK_EQ(first.ptx_version, 83U);
    CHECK_EQ(first.target, 80U);
    const Kernel& second = *program.find_kernel("second");
    CHECK_EQ(second.static_shared_bytes, 8U);
    CHECK_EQ(second.required_block[0], 32U);
    CHECK_EQ(second.max_threads, 32U);
    CHECK(program.find_kernel("helper") == nullptr);
    CHECK(program.function_address("helper") == 0);  // not exported
}

TEST(scopes_labels_and_directives) {
    Device device;
    const U64 out = device.put(std::vector<U32>(1));
    device.run(
        device.load(".version 7.8 // comment\n.target sm_86, debug /* more */\n.address_size "
                    "64\n.file 1 \"a.py\"\n"
                    ".visible .entry k(.param .u64 k_param_0) {\n.reg .b64 %rd<2>; .reg .b32 "
                    "%r<4>, plain;\n.loc 1 3 7\n.pragma \"nounroll\";\n"
                    "ld.param.u64 %rd1, [k_param_0];\nmov.u32 %r1, 1;\n{ .reg .b32 %r<2>; .reg "
                    ".pred p; mov.u32 %r1, 50; setp.eq.u32 p, %r1, 50; @p bra L; trap;\nL: }\n"
                    "{ .reg .b32 t; mov.u32 t, 2; bra L;\nL: add.u32 %r1, %r1, t; }\n.loc 1 4 0, "
                    "function_name $L__info, inlined_at 1 9 9\n"
                    "mov.u32 plain, 010; add.u32 %r1, %r1, plain; add.u32 %r1, %r1, 0b101; add.u32 "
                    "%r1, %r1, (3*WARP_SZ - 1); st.global.u32 [%rd1], %r1; ret;\n}\n"
                    ".section .debug_abbrev\n{\n.b8 1, 2, 3\n$L__x:\n.b32 .debug_info\n}\n.section "
                    ".debug_loc { }\n"),
        threads(1), {out});
    CHECK_EQ(device.get<U32>(out, 1)[0], 1U + 2 + 8 + 5 + 95);
}

TEST(errors_say_where_and_what) {
    const auto bad = [](const std::string& body) { return first_error(kernel(1, body)); };
    CHECK(bad("add.s32 %r1, %r2;").message.find("add") != std::string::npos);
    CHECK(bad("frobnicate.b32 %r1, %r2;").message.find("frobnicate") != std::string::npos);
    CHECK(bad("mov.u32 %r1, missing;").message.find("'missing'") != std::string::npos);
    CHECK(bad("bra NOWHERE;").message.find("NOWHERE") != std::string::npos);
    CHECK(bad("call nothing;").message.find("'nothing'") != std::string::npos);
    CHECK(bad("add.s32 %r1, %r2, %r99;").message.find("%r99") != std::string::npos);
    CHECK(bad("add.s32 %r1, %r2, %q1;").message.find("predicate") != std::string::npos);
    CHECK(bad("@%r1 ret;").message.find("%r1") != std::string::npos);
    CHECK(bad("L: L: ret;").message.find("Duplicate") != std::string::npos);
    CHECK(bad("ld.param.u64 %x1, [k_0+8];").message.find("k_0") != std::string::npos);
    CHECK_EQ(
        first_error(kHeader + ".entry k() {\n.reg .b32 %r<2>;\n\nadd.s32 %r1, %r1\nret;\n}").line,
        8U);
    CHECK_EQ(first_error("hello").line, 1U);
    CHECK(first_error("").message.find(".version") != std::string::npos);
    const Result<Module> module = parse(kernel(1, "nonsense;"));
    CHECK(format_log(module.log).find("ptxas application ptx input, line") != std::string::npos);
}

TEST(damaged_texts_never_crash) {
    const std::string good = kernel(
        2,
        ".shared .align 16 .b8 s[64];\n.local .b32 l[4];\n{ .reg .b32 t; mov.b64 {t, %r1}, %p0; "
        "@%q1 bra L;\n"
        "st.shared.v2.u32 [s+8], {%r1, t};\nL: }\nsetp.lt.and.f32 %q1|%q2, %f1, 0f3F800000, !%q3;\n"
        "call (%r2), f, (%r1); T: .branchtargets A, A; brx.idx 1, T;\nA: popc.b64 %r1, %x1; "
        "clz.b32 %r2, %r1;\n"
        "bfe.s32 %r1, %r2, 3, 4; bfi.b32 %r1, %r2, %r3, 1, 2; prmt.b32 %r1, %r2, %r3, %r4; "
        "shf.l.wrap.b32 %r1, %r2, %r3, 4;\n"
        "cvt.s8.s32 %r1, %r2; cvt.rn.f16.f32 %h1, %f1; cvt.f64.f16 %d1, %h1; cvt.rzi.sat.u8.f64 "
        "%r1, %d1;\n"
        "mul.wide.u16 %r1, %h1, %h2; mad.lo.s32 %r1, %r2, %r3, 9; add.cc.u32 %r1, %r2, %r3; "
        "fma.rn.f64 %d1, %d2, %d3, %d4;\n"
        "add.f16x2 %r1, %r2, %r3; shfl.sync.bfly.b32 %r1|%q1, %r2, 1, 31, -1; vote.sync.ballot.b32 "
        "%r1, %q1, -1;\n"
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%p1+16]; atom.global.add.u32 %r1, [%p1], 1; "
        "red.shared.max.s32 [s], %r1;\n"
        "st.local.u16 [l+4], %r1; cvta.local.u64 %x1, l; ld.u8 %r1, [%x1]; mov.b32 {%h1, %h2}, "
        "%r1; selp.b16 %h1, %h2, 7, %q1;\n"
        "lop3.b32 %r1, %r2, %r3, %r4, 0x96; dp4a.s32.u32 %r1, %r2, %r3, %r4; redux.sync.add.s32 "
        "%r1, %r2, -1; bar.sync 0;\n"
        "slct.f32.s32 %f1, %f2, %f3, %r1; set.lt.u32.f32 %r1, %f1, %f2; div.rz.f32 %f1, %f2, %f3; "
        "ret;",
        ".global .align 4 .u32 g[2][2] = {{1}, {2, 3}};\n.func (.reg .b32 r) f(.reg .b32 a) { "
        "mov.b32 r, a; ret; }\n");
    CHECK(parse(good).value.has_value());
    for (std::size_t cut = 0; cut < good.size(); ++cut) (void)parse(good.substr(0, cut));
    // Every byte replaced by something awkward; what still links must run to an end of some kind.
    Device device;
    device.budget = 100'000;
    for (std::size_t at = 0; at < good.size(); ++at) {
        for (const char c : {'{', ']', '9', '%', '-', ';', ' ', '4', 'b'}) {
            std::string text = good;
            text[at] = c;
            const Result<Module> module = parse(text);
            if (!module.value || !link(std::vector<Module>{*module.value}).value) continue;
            device.reset();
            const Program program = device.load(text);
            if (program.kernels().empty()) continue;
            const U64 data = device.allocate(4096);
            (void)device.run(program, threads(40), {data, data});
        }
    }
    for (const char* deep : {"(", "{", "!", "-", "~"}) {
        std::string text;
        for (int i = 0; i < 100'000; ++i) text += deep;
        CHECK(!parse(kernel(1, "mov.u32 %r1, " + text)).value.has_value());
        CHECK(!parse(kHeader + ".global .b32 g[1] = " + text).value.has_value());
    }
}

TEST(linking) {
    const std::string uses =
        kHeader +
        ".extern .func (.param .b32 r) shared_name(.param .b32 a);\n.extern .global .align 4 .b32 "
        "counter[];\n"
        ".func (.param .b32 r) local_name(.param .b32 a) { .reg .b32 %v; ld.param.b32 %v, [a]; "
        "add.u32 %v, %v, 1; st.param.b32 [r], %v; ret; }\n"
        ".visible .entry k(.param .u64 out) { .reg .b64 %p; .reg .b32 %v; .param .b32 x, y; "
        "ld.param.u64 %p, [out]; ld.global.u32 %v, [counter+4]; st.param.b32 [x], %v;\n"
        "call (y), local_name, (x); ld.param.b32 %v, [y]; st.param.b32 [x], %v; call (y), "
        "shared_name, (x); ld.param.b32 %v, [y]; st.global.u32 [%p], %v; ret; }\n";
    const std::string defines =
        kHeader +
        ".visible .global .align 4 .u32 counter[2] = {5, 6};\n"
        ".func (.param .b32 r) local_name(.param .b32 a) { .reg .b32 %v; ld.param.b32 %v, [a]; "
        "mul.lo.u32 %v, %v, 100; st.param.b32 [r], %v; ret; }\n"
        ".visible .func (.param .b32 r) shared_name(.param .b32 a) { .reg .b32 %v; .param .b32 x; "
        ".param .b32 y; ld.param.b32 %v, [a]; st.param.b32 [x], %v;\n"
        "call (y), local_name, (x); ld.param.b32 %v, [y]; st.param.b32 [r], %v; ret; }\n";
    Device device;
    const U64 out = device.put(std::vector<U32>(1));
    for (const auto& order :
         {std::vector<std::string>{uses, defines}, std::vector<std::string>{defines, uses}}) {
        const RunResult result = device.run(device.load(order), threads(1), {out}, "k");
        CHECK_EQ(result.message, "");
        CHECK_EQ(device.get<U32>(out, 1)[0], 700U);
    }
    const Result<Program> missing = linked({uses});
    CHECK(!missing.value.has_value());
    CHECK(format_log(missing.log).find("'counter'") != std::string::npos);
    CHECK_EQ(parse(uses)->unresolved().size(), 2U);
    CHECK(!linked({defines, defines}).value.has_value());
    std::string weak = defines;
    for (std::size_t at; (at = weak.find(".visible")) != std::string::npos;)
        weak.replace(at, 8, ".weak");
    CHECK(linked({weak, weak, uses}).value.has_value());
    CHECK(linked({weak, defines, uses}).value.has_value());
    const Program aliased = device.load(kHeader +
                                        ".visible .func f() { ret; }\n.visible .func g();\n.alias "
                                        "g, f;\n.entry k() { call g; ret; }\n");
    CHECK(device.run(aliased, threads(1), {}).status == Status::ok);
    CHECK_EQ(aliased.function_address("g"), aliased.function_address("f"));
}

TEST(page_table) {
    carrel::softgpu::PageTable table;
    constexpr U64 kGranule = carrel::softgpu::PageTable::kGranuleBytes;
    table.map(10 * kGranule, 3 * kGranule);
    CHECK(!table.mapped(10 * kGranule - 1));
    CHECK(table.mapped(10 * kGranule, 3 * kGranule));
    CHECK(!table.mapped(12 * kGranule, kGranule + 1));
    CHECK(table.mapped(0, 0));
    table.unmap(11 * kGranule, kGranule);
    CHECK(!table.mapped(11 * kGranule + 5));
    CHECK(table.mapped(12 * kGranule));
    CHECK(!table.mapped(~U64{0}));
    CHECK(!table.mapped(carrel::softgpu::PageTable::kAddressLimit));
    CHECK(!table.mapped(10 * kGranule, ~U64{0}));
}

CARREL_TEST_MAIN
