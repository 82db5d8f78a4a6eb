/*
 * XCR0 and the XSAVE family: which values XCR0 takes, #UD and #NM by it, XSAVE, XSAVEOPT and XSAVEC with their headers
 * and the init optimisation, XRSTOR's checks (SDM vol. 1, chapter 13).
 */
#include "guest.h"

enum { X87 = 1, SSE = 2, AVX = 4, HEADER = 512 };

static _Alignas(64) u8 area[8192], other[8192];

static void xsetbv(u32 index, u64 value) { EMIT("xsetbv" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32))); }
static u64 xgetbv(u32 index)
{
    u32 low, high;
    EMIT("xgetbv" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}

#define SAVE(instruction, to, mask)                                                                                \
    EMIT(instruction " [%0]" : : "r"(to), "a"((u32)(mask)), "d"((u32)((u64)(mask) >> 32)) : "memory")

static void control(u64 supported)
{
    FAULTS("XGETBV without OSXSAVE", UD, 0, (void)xgetbv(0));
    FAULTS("XSAVE without OSXSAVE", UD, 0, SAVE("xsave64", area, 3));
    FAULTS("AVX without OSXSAVE", UD, 0, EMIT("vxorps xmm0, xmm0, xmm0"));
    check("CPUID shows no OSXSAVE", !(cpuid(1, 0).c >> 27 & 1));
    write_cr4(read_cr4() | CR4_OSXSAVE);
    check("CPUID shows OSXSAVE", cpuid(1, 0).c >> 27 & 1);
    check_equal("XCR0 starts with x87", xgetbv(0), X87);
    FAULTS("AVX without XCR0.AVX", UD, 0, EMIT("vxorps xmm0, xmm0, xmm0"));
    WORKS("SSE does not ask XCR0", EMIT("xorps xmm0, xmm0"));
    FAULTS("XCR0 without x87", GP, 0, xsetbv(0, SSE));
    FAULTS("XCR0 with AVX but not SSE", GP, 0, xsetbv(0, X87 | AVX));
    FAULTS("XCR0 with an unknown bit", GP, 0, xsetbv(0, X87 | 1ull << 62));
    FAULTS("XCR0 with part of AVX-512", GP, 0, xsetbv(0, X87 | SSE | AVX | 0x20));
    FAULTS("XSETBV of another register", GP, 0, xsetbv(1, 1));
    FAULTS("XGETBV of an unknown register", GP, 0, (void)xgetbv(2));
    FAULTS("XSETBV at CPL 3", GP, 0, RING_3(xsetbv(0, 1)));
    xsetbv(0, X87 | SSE);
    FAULTS("AVX with x87 and SSE only", UD, 0, EMIT("vxorps xmm0, xmm0, xmm0"));
    check_equal("CPUID: the size without AVX", cpuid(0xd, 0).b, 576);
    if (supported & AVX) {
        xsetbv(0, X87 | SSE | AVX);
        WORKS("AVX with XCR0.AVX", EMIT("vxorps ymm0, ymm0, ymm0"));
        check_equal("CPUID: the size with AVX", cpuid(0xd, 0).b, 832);
        write_cr0(read_cr0() | CR0_TS);
        FAULTS("TS: AVX", NM, 0, EMIT("vxorps ymm0, ymm0, ymm0"));
        FAULTS("TS: XSAVE", NM, 0, SAVE("xsave64", area, 7));
        EMIT("clts");
    }
}

static void load_registers(void)
{
    EMIT("fninit\n fld1\n movq xmm3, %0\n pinsrq xmm3, %0, 1\n vinsertf128 ymm3, ymm3, xmm3, 1"
         : : "r"(0x0123456789abcdef));
}

static u64 upper_half(void)
{
    u64 value;
    EMIT("vextractf128 xmm4, ymm3, 1\n movq %0, xmm4" : "=r"(value));
    return value;
}

static void standard_format(void)
{
    memset(area, 0, sizeof area);
    load_registers();
    SAVE("xsave64", area, 7);
    check_equal("XSAVE: XSTATE_BV", read64((word)area + HEADER), 7);
    check_equal("XSAVE: the upper half of YMM3", read64((word)area + 576 + 3 * 16), 0x0123456789abcdef);
    EMIT("vzeroall\n fninit");
    SAVE("xrstor64", area, 7);
    check_equal("XRSTOR brings it back", upper_half(), 0x0123456789abcdef);
    write64((word)area + HEADER, 3);
    SAVE("xrstor64", area, 7);
    check_equal("a component not in XSTATE_BV is initialised", upper_half(), 0);
    u64 low;
    EMIT("movq %0, xmm3" : "=r"(low));
    check_equal("the others are loaded", low, 0x0123456789abcdef);
    load_registers();
    memset(area, 0, sizeof area);
    SAVE("xsave64", area, 1);
    check_equal("a component not asked for is not saved", read64((word)area + 160 + 3 * 16), 0);
    check_equal("nor in XSTATE_BV", read64((word)area + HEADER), 1);
    SAVE("xsave64", area, 7);
    write64((word)area + HEADER, 1ull << 60);
    FAULTS("XRSTOR with an unknown bit in XSTATE_BV", GP, 0, SAVE("xrstor64", area, 7));
    SAVE("xsave64", area, 7);
    write64((word)area + HEADER, 7);
    write64((word)area + HEADER + 16, 1);
    FAULTS("XRSTOR with a reserved byte of the header", GP, 0, SAVE("xrstor64", area, 7));
    FAULTS("XSAVE off its boundary", GP, 0, SAVE("xsave64", area + 16, 7));
    FAULTS("XSAVE to a missing page", PF, PF_W, SAVE("xsave64", TEST_AREA, 7));
    map(TEST_AREA, (u64)new_pages(1), P | W);
    FAULTS("XSAVE that ends in a missing page", PF, PF_W, SAVE("xsave64", TEST_AREA + PAGE - 704, 7));
    check_equal("CR2 is in it", caught.cr2 & ~0xfffull, TEST_AREA + PAGE);
}

static void init_optimisation(void)
{
    if (!(cpuid(0xd, 1).a & 1)) {
        skip("XSAVEOPT");
        return;
    }
    memset(other, 0xcc, sizeof other);
    memset(other + HEADER, 0, 64);
    EMIT("vzeroupper");
    load_registers();
    EMIT("vzeroupper");
    SAVE("xsaveopt64", other, 7);
    check_equal("XSAVEOPT: a component in its initial state has its bit clear", read64((word)other + HEADER) & AVX, 0);
    check_equal("and is not written", read64((word)other + 576), 0xcccccccccccccccc);
    check_equal("the others are", read64((word)other + 160 + 3 * 16), 0x0123456789abcdef);
}

static void compacted_format(void)
{
    if (!(cpuid(0xd, 1).a >> 1 & 1)) {
        skip("XSAVEC");
        return;
    }
    load_registers();
    memset(other, 0xcc, sizeof other);
    memset(other + HEADER, 0, 64);
    SAVE("xsavec64", other, 6);
    check_equal("XSAVEC: XCOMP_BV", read64((word)other + HEADER + 8), 1ull << 63 | 6);
    check_equal("XSAVEC: XSTATE_BV", read64((word)other + HEADER), 6);
    check_equal("XSAVEC: AVX follows the header", read64((word)other + 576 + 3 * 16), 0x0123456789abcdef);
    check_equal("XSAVEC: x87, not asked for, is not written", other[0], 0xcc);
    EMIT("vzeroall");
    WORKS("XRSTOR of the compacted format", SAVE("xrstor64", other, 7));
    check_equal("XRSTOR of the compacted format brings it back", upper_half(), 0x0123456789abcdef);
    write64((word)other + HEADER + 8, 1ull << 63 | 2);
    FAULTS("XSTATE_BV beyond XCOMP_BV", GP, 0, SAVE("xrstor64", other, 7));
    EMIT("vzeroall");
    SAVE("xsavec64", other, 7);
    check_equal("XSAVEC clears the bits of initial components", read64((word)other + HEADER) & AVX, 0);
    if (cpuid(0xd, 1).a >> 2 & 1) {
        check_equal("XGETBV(1): what is in use", xgetbv(1) & AVX, 0);
        load_registers();
        check_equal("XGETBV(1): AVX is in use", xgetbv(1) & AVX, AVX);
    } else {
        skip("XGETBV with ECX 1");
    }
}

static void supervisor_format(void)
{
    if (!(cpuid(0xd, 1).a >> 3 & 1)) {
        skip("XSAVES");
        return;
    }
    load_registers();
    SAVE("xsaves64", other, 7);
    EMIT("vzeroall");
    SAVE("xrstors64", other, 7);
    check_equal("XSAVES and XRSTORS", upper_half(), 0x0123456789abcdef);
    FAULTS("XSAVES at CPL 3", GP, 0, RING_3(SAVE("xsaves64", other, 7)));
    SAVE("xsave64", area, 7);
    FAULTS("XRSTORS of the standard format", GP, 0, SAVE("xrstors64", area, 7));
    FAULTS("a bit of IA32_XSS that does not exist", GP, 0, wrmsr(MSR_XSS, 1ull << 62));
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    if (!(cpuid(1, 0).c >> 26 & 1)) {
        skip("XSAVE");
        check("SSE at least", cpuid(1, 0).d >> 25 & 1);
        return;
    }
    u64 supported = cpuid(0xd, 0).a;
    control(supported);
    if (!(supported & AVX)) {
        skip("AVX");
        return;
    }
    standard_format();
    init_optimisation();
    compacted_format();
    supervisor_format();
}
