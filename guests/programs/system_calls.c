/*
 * SYSCALL and SYSRET, SYSENTER and SYSEXIT: registers, flags, selectors, and what they refuse (SDM vol. 2).
 */
#include "guest.h"

enum { STAR_SELECTORS = KERNEL_CODE | USER_CODE_32 << 16 };

/* Spelled out: assemblers do not agree on the names. */
#define SYSEXIT ".byte 0x0f, 0x35"
#define SYSEXITQ ".byte 0x48, 0x0f, 0x35"

word entered[6]; /* rcx, r11, cs, ss, flags, rsp as the entry point finds them */

#define KEEP_STATE                                                                                                 \
    "mov [entered], rcx\n mov [entered + 8], r11\n mov ecx, cs\n mov [entered + 16], rcx\n"                        \
    "mov ecx, ss\n mov [entered + 24], rcx\n mov [entered + 40], rsp\n pushf\n pop [entered + 32]\n"

/* Entered by SYSCALL on the caller's stack: stay at CPL 0 and go on behind the SYSCALL. */
__attribute__((naked)) static void stay(void)
{
    EMIT(KEEP_STATE "mov eax, 0x10\n mov ss, eax\n jmp [entered]");
}

static void enable(void (*entry)(void))
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)STAR_SELECTORS << 32);
    wrmsr(MSR_LSTAR, (u64)entry);
    wrmsr(MSR_FMASK, FLAG_IF | FLAG_DF | FLAG_AC);
}

static void syscall_entry(void)
{
    FAULTS("SYSCALL without EFER.SCE", UD, 0, EMIT("syscall" : : : "rcx", "r11"));
    FAULTS("SYSRET without EFER.SCE", UD, 0, EMIT("sysretq"));
    enable(stay);
    static word stack;
    to_ring_3();
    EMIT("push 0x40ad7\n popf\n mov %0, rsp\n mov qword ptr [marked], offset 1f\n syscall\n 1:"
         : "=m"(stack) : : "rax", "rcx", "r11", "memory", "cc");
    check_equal("SYSCALL: RCX is the next instruction", entered[0], marked);
    check_equal("SYSCALL: R11 is RFLAGS", entered[1], 0x408d7);
    check_equal("SYSCALL: CS", entered[2], KERNEL_CODE);
    check_equal("SYSCALL: SS", entered[3], KERNEL_DATA);
    check_equal("SYSCALL: FMASK clears flags", entered[4], 0x8d7);
    check_equal("SYSCALL: RSP is unchanged", entered[5], stack);
    set_flags(FLAG_FIXED);
}

/* SYSRET to the label behind it, with these flags; the CPL is 3 then. */
#define SYSRET(instruction, new_flags)                                                                             \
    EMIT("mov rcx, offset 1f\n mov r11, %0\n" instruction "\n 1:" : : "r"((u64)(new_flags)) : "rcx", "r11", "memory", "cc")

static void sysret(void)
{
    static word after, selectors[2];
    SYSRET("sysretq", FLAG_FIXED | FLAG_IF | FLAG_CF | FLAG_RF | FLAG_VM);
    EMIT("pushf\n pop %0\n mov %1, cs\n mov %2, ss" : "=m"(after), "=r"(selectors[0]), "=r"(selectors[1]));
    to_ring_0();
    check_equal("SYSRET: flags come from R11, RF and VM do not", after, FLAG_FIXED | FLAG_IF | FLAG_CF);
    check_equal("SYSRET: CS", selectors[0], USER_CODE);
    check_equal("SYSRET: SS", selectors[1], USER_DATA);
    set_flags(FLAG_FIXED);
    FAULTS("SYSRET at CPL 3", GP, 0, RING_3(EMIT("sysretq")));
    /* Intel's processors fault in ring 0, before anything changes; AMD's at the target. */
    FAULTS("SYSRET to a non-canonical RIP", GP, 0,
           EMIT("mov rcx, %0\n mov r11d, 2\n sysretq" : : "r"(1ull << 63) : "rcx", "r11"));
    check_equal("is refused at CPL 0", caught.cs, KERNEL_CODE);
}

/* In compatibility mode: far-return there, run 32-bit code, and come back by INT 0x80. */
static void sysret_to_compatibility_mode(void)
{
    static word selector;
    EMIT("mov rcx, offset 1f\n mov r11d, 2\n sysretd\n"
         ".code32\n 1: mov ebx, cs\n int 0x80\n .code64\n mov %0, rbx"
         : "=m"(selector) : : "rax", "rbx", "rcx", "rdx", "r11", "memory");
    check_equal("SYSRET without REX.W: CS", selector, USER_CODE_32);
}

word sysenter_stack;

__attribute__((naked)) static void sysenter_target(void)
{
    EMIT(KEEP_STATE "mov rsp, [sysenter_stack]\n mov eax, 0x10\n mov ss, eax\n jmp [marked]");
}

static void sysenter(void)
{
    wrmsr(MSR_SYSENTER_CS, 0);
    FAULTS("SYSENTER with a null SYSENTER_CS", GP, 0, RING_3(EMIT("sysenter")));
    FAULTS("SYSEXIT with a null SYSENTER_CS", GP, 0, EMIT(SYSEXIT));
    wrmsr(MSR_SYSENTER_CS, KERNEL_CODE);
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_target);
    wrmsr(MSR_SYSENTER_ESP, 0x5000);
    to_ring_3();
    EMIT("mov [sysenter_stack], rsp\n mov qword ptr [marked], offset 1f\n stc\n sysenter\n 1:"
         : : : "rax", "rcx", "memory", "cc");
    check_equal("SYSENTER: CS", entered[2], KERNEL_CODE);
    check_equal("SYSENTER: SS", entered[3], KERNEL_DATA);
    check_equal("SYSENTER: RSP", entered[5], 0x5000);
    check_equal("SYSENTER: IF is clear, CF is not touched", entered[4] & (FLAG_IF | FLAG_CF), FLAG_CF);
    static word selectors[2];
    EMIT("mov rcx, rsp\n mov rdx, offset 1f\n " SYSEXITQ "\n 1: mov %0, cs\n mov %1, ss"
         : "=r"(selectors[0]), "=r"(selectors[1]) : : "rcx", "rdx", "memory");
    to_ring_0();
    check_equal("SYSEXIT: CS", selectors[0], USER_CODE);
    check_equal("SYSEXIT: SS", selectors[1], USER_DATA_64);
    FAULTS("SYSEXIT at CPL 3", GP, 0, RING_3(EMIT(SYSEXIT)));
    FAULTS("SYSEXIT to a non-canonical RIP", GP, 0,
           EMIT("mov rcx, rsp\n mov rdx, %0\n " SYSEXITQ "" : : "r"(1ull << 63) : "rcx", "rdx"));
}

static void swapgs(void)
{
    wrmsr(MSR_GS_BASE, 0x1111);
    wrmsr(MSR_KERNEL_GS_BASE, 0xffff800000002222);
    EMIT("swapgs");
    check_equal("SWAPGS: GS base", rdmsr(MSR_GS_BASE), 0xffff800000002222);
    check_equal("SWAPGS: the other", rdmsr(MSR_KERNEL_GS_BASE), 0x1111);
    FAULTS("SWAPGS at CPL 3", GP, 0, RING_3(EMIT("swapgs")));
}

void run(void)
{
    syscall_entry();
    sysret();
    sysret_to_compatibility_mode();
    if (cpuid(1, 0).d >> 11 & 1)
        sysenter();
    else
        skip("SYSENTER");
    swapgs();
}
