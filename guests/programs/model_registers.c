/* Model-specific registers: unknown ones and refused values raise #GP, the others keep what they are given (SDM vol. 4). */
#include "guest.h"

static size_t which;

static void unknown(void)
{
    static const u32 numbers[] = {0x4, 0x15, 0x3a5a, 0x12345678, 0x40005678, 0xc0001234, 0xffffffff};
    for (which = 0; which < sizeof numbers / sizeof *numbers; which++) {
        FAULTS("RDMSR of an unknown register", GP, 0, (void)rdmsr(numbers[which]));
        FAULTS("WRMSR of an unknown register", GP, 0, wrmsr(numbers[which], 0));
    }
    FAULTS("RDPMC without counters", GP, 0, EMIT("rdpmc" : : "c"(0x1000) : "rax", "rdx"));
}

static void keeps(const char *name, u32 index, u64 value)
{
    u64 old = rdmsr(index);
    wrmsr(index, value);
    check_equal(name, rdmsr(index), value);
    wrmsr(index, old);
}

static void kept(void)
{
    keeps("STAR", MSR_STAR, 0x0123456789abcdef);
    keeps("LSTAR", MSR_LSTAR, 0xffff800012345678);
    keeps("CSTAR", MSR_CSTAR, 0x00007fff12345678);
    keeps("FMASK", MSR_FMASK, 0x47700);
    keeps("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0xffffffff80000000);
    keeps("SYSENTER_CS", MSR_SYSENTER_CS, 0x1234);
    keeps("SYSENTER_ESP", MSR_SYSENTER_ESP, 0xffff900000000000);
    keeps("PAT", MSR_PAT, 0x0007050600070106);
    keeps("MTRR_PHYSBASE0", 0x200, 0x80000006);
    keeps("MTRR_PHYSMASK0", 0x201, 0xf80000800);
    keeps("MTRR_FIX64K_00000", 0x250, 0x0606060606060606);
    keeps("MTRR_DEF_TYPE", 0x2ff, 0xc06);
    u64 value;
    EMIT("mov rax, -1\n mov rdx, -1\n mov ecx, 0x174\n rdmsr\n shr rax, 32\n mov %0, rax"
         : "=r"(value) : : "rax", "rcx", "rdx", "cc");
    check_equal("RDMSR clears the upper halves", value, 0);
}

static void refused(void)
{
    FAULTS("PAT with a reserved type", GP, 0, wrmsr(MSR_PAT, 2));
    FAULTS("PAT with a reserved bit", GP, 0, wrmsr(MSR_PAT, 0x80));
    FAULTS("an MTRR with a reserved type", GP, 0, wrmsr(0x2ff, 0xc02));
    FAULTS("a write of MTRRCAP", GP, 0, wrmsr(0xfe, 0));
    FAULTS("EFER.LMA is not the program's", GP, 0, wrmsr(MSR_EFER, EFER_SCE | EFER_NXE));
    check_equal("EFER is unchanged", rdmsr(MSR_EFER), EFER_LME | EFER_LMA | EFER_NXE);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_LMA);
    check_equal("a write of LMA is ignored", rdmsr(MSR_EFER), EFER_LME | EFER_LMA | EFER_NXE);
}

static void control_registers(void)
{
    u64 before = read_cr0();
    u16 word_of_cr0;
    EMIT("smsw %0" : "=r"(word_of_cr0));
    check_equal("SMSW", word_of_cr0, before & 0xffff);
    EMIT("lmsw %0" : : "r"((u16)(word_of_cr0 | CR0_TS)));
    check_equal("LMSW sets TS", read_cr0(), before | CR0_TS);
    EMIT("lmsw %0" : : "r"((u16)(word_of_cr0 & ~CR0_PE)));
    check_equal("LMSW cannot clear PE", read_cr0(), before);
    check_equal("CR0.ET is always set", (write_cr0(before & ~0x10ul), read_cr0() & 0x10), 0x10);
    write_cr2(0xffff800012345678);
    check_equal("CR2 keeps what it is given", read_cr2(), 0xffff800012345678);
    u64 root = read_cr3();
    write_cr3(root | 0x18);
    check_equal("CR3 keeps PWT and PCD", read_cr3(), root | 0x18);
    write_cr3(root);
}

void run(void)
{
    unknown();
    kept();
    refused();
    control_registers();
}
