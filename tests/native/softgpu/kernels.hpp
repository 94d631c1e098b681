// PTX that the tests run.
#pragma once

namespace carrel::test {

/// add(u32* data, u32 n, u32 value): data[i] += value for i < n, one thread per element.
inline constexpr const char* kAdd = R"(
.version 7.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 counter = 7;
.visible .entry add(.param .u64 data, .param .u32 n, .param .u32 value) {
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [value];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra done;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r7, [%rd4];
    add.s32 %r7, %r7, %r2;
    st.global.u32 [%rd4], %r7;
done:
    ret;
}
)";

/// spin(u32* flag): waits until *flag is not 0. trap(): traps. store(u64 address): writes there.
inline constexpr const char* kMisbehave = R"(
.version 7.0
.target sm_80
.address_size 64
.visible .entry spin(.param .u64 flag) {
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [flag];
again:
    atom.global.or.b32 %r1, [%rd1], 0;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra again;
    ret;
}
.visible .entry trap_now() {
    trap;
    ret;
}
.visible .entry store(.param .u64 address) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [address];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
)";

}  // namespace carrel::test
