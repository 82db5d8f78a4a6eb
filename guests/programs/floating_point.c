/*
 * Who may use x87, MMX and SSE, and what they raise: CR0.TS and EM, CR4.OSFXSR and OSXMMEXCPT, #MF with NE, #XM,
 * FXSAVE and FXRSTOR (SDM vol. 3, 2.5, 13.1; vol. 1, 8.5, 11.5).
 */
#include "guest.h"

static _Alignas(64) u8 image[512], other_image[512];

static void availability(void)
{
    write_cr0(read_cr0() | CR0_TS);
    FAULTS("TS: x87", NM, 0, EMIT("fnop"));
    FAULTS("TS: SSE", NM, 0, EMIT("xorps xmm0, xmm0"));
    FAULTS("TS: MMX", NM, 0, EMIT("emms"));
    FAULTS("TS: FXSAVE", NM, 0, EMIT("fxsave [%0]" : : "r"(image) : "memory"));
    FAULTS("TS and MP: WAIT", NM, 0, EMIT("fwait"));
    WORKS("TS: general instructions", EMIT("prefetcht0 [%0]\n movnti [%0], rax\n lfence" : : "r"(image) : "memory"));
    FAULTS("TS: at CPL 3 too", NM, 0, RING_3(EMIT("addsd xmm0, xmm1")));
    write_cr0(read_cr0() & ~CR0_MP);
    WORKS("TS without MP: WAIT", EMIT("fwait"));
    EMIT("clts");
    check_equal("CLTS", read_cr0() & CR0_TS, 0);
    WORKS("after CLTS", EMIT("xorps xmm0, xmm0\n fnop"));
    write_cr0((read_cr0() & ~CR0_MP) | CR0_EM);
    FAULTS("EM: x87", NM, 0, EMIT("fnop"));
    FAULTS("EM: SSE", UD, 0, EMIT("xorps xmm0, xmm0"));
    FAULTS("EM: MMX", UD, 0, EMIT("emms"));
    write_cr0((read_cr0() & ~CR0_EM) | CR0_MP);
    write_cr4(read_cr4() & ~CR4_OSFXSR);
    FAULTS("without OSFXSR: SSE", UD, 0, EMIT("xorps xmm0, xmm0"));
    FAULTS("without OSFXSR: LDMXCSR", UD, 0, EMIT("ldmxcsr [%0]" : : "r"(image)));
    WORKS("without OSFXSR: x87 and MMX", EMIT("fnop\n emms"));
    write_cr4(read_cr4() | CR4_OSFXSR);
}

static void set_mxcsr(u32 value) { EMIT("ldmxcsr %0" : : "m"(value)); }
static u32 mxcsr(void)
{
    u32 value;
    EMIT("stmxcsr %0" : "=m"(value));
    return value;
}

#define DIVIDE_BY_ZERO "mov eax, 1\n cvtsi2sd xmm0, eax\n xorps xmm1, xmm1\n" HERE "divsd xmm0, xmm1"

static void simd_exceptions(void)
{
    set_mxcsr(0x1f80);
    WORKS("masked division by zero", EMIT(DIVIDE_BY_ZERO : : : "eax"));
    check_equal("sets ZE", mxcsr(), 0x1f84);
    set_mxcsr(0x1d80);
    FAULTS("unmasked: #XM", XM, 0, EMIT(DIVIDE_BY_ZERO : : : "eax"));
    check_equal("#XM is a fault", caught.ip, marked);
    check_equal("ZE is set", mxcsr(), 0x1d84);
    u64 value;
    EMIT("movq %0, xmm0" : "=r"(value));
    check_equal("the destination is unchanged", value, 0x3ff0000000000000);
    write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
    FAULTS("without OSXMMEXCPT: #UD", UD, 0, set_mxcsr(0x1d80); EMIT(DIVIDE_BY_ZERO : : : "eax"));
    write_cr4(read_cr4() | CR4_OSXMMEXCPT);
    set_mxcsr(0x1e80);
    FAULTS("an unmasked denormal operand from memory", XM, 0,
           EMIT("movq xmm0, %1\n mulsd xmm0, [%0]" : : "r"(&(u64){1}), "r"(0x3ff0000000000000)));
    set_mxcsr(0x0f80);
    FAULTS("an inexact result", XM, 0,
           EMIT("mov eax, 1\n cvtsi2sd xmm0, eax\n mov eax, 3\n cvtsi2sd xmm1, eax\n divsd xmm0, xmm1" : : : "eax"));
    set_mxcsr(0x1f80 | 0x6000);
    EMIT("mov eax, 3\n cvtsi2sd xmm0, eax\n mov eax, 2\n cvtsi2sd xmm1, eax\n divsd xmm0, xmm1\n cvtsd2si %0, xmm0"
         : "=r"(value) : : "eax");
    check_equal("rounding towards zero", value, 1);
    set_mxcsr(0x1f80);
    EMIT("cvtsd2si %0, xmm0" : "=r"(value));
    check_equal("rounding to even", value, 2);
    set_mxcsr(0x1f80 | 0x8040);
    EMIT("movq xmm0, %1\n movq xmm1, %2\n mulsd xmm0, xmm1\n movq %0, xmm0"
         : "=r"(value) : "r"(1ull), "r"(0x3ff0000000000000));
    check_equal("denormals are zeros", value, 0);
    FAULTS("a reserved bit of MXCSR", GP, 0, set_mxcsr(1 << 16));
    set_mxcsr(0x1f80);
    FAULTS("MOVAPS off its boundary", GP, 0, EMIT("movaps xmm0, [%0]" : : "r"(image + 1)));
    FAULTS("ADDPS off its boundary", GP, 0, EMIT("addps xmm0, [%0]" : : "r"(image + 4)));
    WORKS("MOVUPS off it", EMIT("movups xmm0, [%0]" : : "r"(image + 1)));
}

static void x87_exceptions(void)
{
    u16 control = 0x037b; /* ZM clear */
    EMIT("fninit\n fldcw %0\n fld1\n fldz\n fdivp" : : "m"(control));
    FAULTS("#MF comes at the next x87 instruction", MF, 0, EMIT(HERE "fld1"));
    check_equal("#MF is that one's", caught.ip, marked);
    FAULTS("or at WAIT", MF, 0, EMIT("fwait"));
    static u16 status;
    WORKS("but not at FNSTSW", EMIT("fnstsw %0" : "=m"(status)));
    check_equal("which shows ZE and ES", status & 0x84, 0x84);
    WORKS("nor at FNCLEX", EMIT("fnclex\n fwait"));
    EMIT("fninit\n fldcw %0\n fld1\n fldz\n fdivp" : : "m"(control));
    FAULTS("MMX reports it too", MF, 0, EMIT("paddb mm0, mm0"));
    EMIT("fnclex\n fninit");
    control = 0x037e; /* IM clear */
    EMIT("fldcw %0\n fldz\n fchs\n fsqrt\n fld1\n fchs\n fsqrt" : : "m"(control));
    FAULTS("an invalid operation", MF, 0, EMIT("fwait"));
    EMIT("fninit");
    u64 result;
    EMIT("fldpi\n fstp qword ptr [%1]\n mov %0, [%1]" : "=r"(result) : "r"(image) : "memory");
    check_equal("FLDPI, rounded to double", result, 0x400921fb54442d18);
}

static void save_and_restore(void)
{
    EMIT("fninit\n fld1\n fldpi");
    EMIT("movq xmm7, %0" : : "r"(0x1122334455667788));
    set_mxcsr(0x1fa0);
    memset(image, 0xcc, sizeof image);
    EMIT("fxsave64 [%0]" : : "r"(image) : "memory");
    check_equal("FXSAVE: FCW", read16((word)image), 0x37f);
    check_equal("FXSAVE: TOP", read16((word)image + 2) >> 11 & 7, 6);
    check_equal("FXSAVE: the abridged tag", image[4], 0xc0);
    check_equal("FXSAVE: MXCSR", read32((word)image + 24), 0x1fa0);
    check_equal("FXSAVE: ST0", read64((word)image + 32), 0xc90fdaa22168c235);
    check_equal("FXSAVE: XMM7", read64((word)image + 160 + 7 * 16), 0x1122334455667788);
    check_equal("FXSAVE: the last 48 bytes are the program's", image[500], 0xcc);
    EMIT("fninit\n xorps xmm7, xmm7");
    set_mxcsr(0x1f80);
    EMIT("fxrstor64 [%0]" : : "r"(image) : "memory");
    EMIT("fxsave64 [%0]" : : "r"(other_image) : "memory");
    check("FXRSTOR and FXSAVE: the same again", !memcmp(image, other_image, 160 + 16 * 16));
    write32((word)image + 24, 1 << 16);
    FAULTS("FXRSTOR of a bad MXCSR", GP, 0, EMIT("fxrstor64 [%0]" : : "r"(image) : "memory"));
    FAULTS("FXSAVE off its boundary", GP, 0, EMIT("fxsave64 [%0]" : : "r"(image + 8) : "memory"));
    FAULTS("FXSAVE to a missing page", PF, PF_W, EMIT("fxsave64 [%0]" : : "r"(TEST_AREA) : "memory"));
    set_mxcsr(0x1f80);
    EMIT("fninit");
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    EMIT("fninit");
    set_mxcsr(0x1f80);
    availability();
    simd_exceptions();
    x87_exceptions();
    save_and_restore();
}
