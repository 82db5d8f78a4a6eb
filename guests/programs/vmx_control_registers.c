/*
 * Control registers of guests: masks and shadows of CR0 and CR4, CR3 targets, CLTS, LMSW and SMSW, CR8 with a TPR
 * shadow and a threshold (SDM vol. 3, 25.6.6-25.6.8, 26.1.3, 26.3, 28.2.1 table 28-3, 30.1.2, 30.3).
 */
#include "vmx.h"

/* Types of access in the qualification. */
enum { MOV_TO = 0 << 4, MOV_FROM = 1 << 4, IS_CLTS = 2 << 4, IS_LMSW = 3 << 4, LMSW_MEMORY = 1 << 6 };
#define GPR(number) ((number) << 8)
#define LMSW_SOURCE(value) ((u64)(value) << 16)
enum { VIRTUAL_TPR = 0x80 };

static u32 try(const void *code, u64 value)
{
    begin_at(&guest, code);
    guest.registers.ax = value;
    return enter(&guest);
}

static void shadows_of_cr0(void)
{
    const void *write = CODE("mov cr0, rax"), *read = CODE("mov rax, cr0\n smsw ecx\n smsw rdx");
    u64 cr0 = read_cr0();
    set(CR0_GUEST_HOST_MASK, CR0_TS | CR0_AM);
    set(CR0_READ_SHADOW, cr0 | CR0_TS);
    set(GUEST_CR0, cr0);
    check_equal("MOV from CR0 does not exit", try(read, 0), EXIT_VMCALL);
    check_equal("reads the shadow where the mask is", guest.registers.ax, cr0 | CR0_TS);
    check_equal("SMSW too", guest.registers.dx & 0xffff, (cr0 | CR0_TS) & 0xffff);
    check_equal("the same value: no exit", try(write, cr0 | CR0_TS), EXIT_VMCALL);
    check_equal("and no change where the mask is", get(GUEST_CR0), cr0);
    check_equal("another bit: no exit", try(write, (cr0 | CR0_TS) ^ CR0_MP), EXIT_VMCALL);
    check_equal("it changes", get(GUEST_CR0), cr0 ^ CR0_MP);
    set(GUEST_CR0, cr0);
    check_equal("a masked bit unlike its shadow: exit", try(write, cr0), EXIT_CONTROL_REGISTER);
    check_instruction("qualification", 3, MOV_TO | GPR(0));
    check_equal("nothing is written", get(GUEST_CR0), cr0);
    check_equal("a masked bit set: exit", try(CODE("mov rbx, rax\n mov cr0, rbx"), cr0 | CR0_TS | CR0_AM),
                EXIT_CONTROL_REGISTER);
    check_equal("its register", get(EXIT_QUALIFICATION), MOV_TO | GPR(3));
}

static void clts(void)
{
    u64 cr0 = read_cr0();
    set(CR0_GUEST_HOST_MASK, CR0_TS);
    set(CR0_READ_SHADOW, CR0_TS);
    EXITS("CLTS, TS masked and 1 in the shadow", EXIT_CONTROL_REGISTER, "clts");
    check_instruction("qualification", 2, IS_CLTS);
    set(CR0_READ_SHADOW, 0);
    set(GUEST_CR0, cr0 | CR0_TS);
    RUNS("TS masked and 0 there", "clts");
    check_equal("nothing changes", get(GUEST_CR0), cr0 | CR0_TS);
    set(CR0_GUEST_HOST_MASK, 0);
    set(CR0_READ_SHADOW, CR0_TS);
    RUNS("not masked", "clts");
    check_equal("it is cleared", get(GUEST_CR0), cr0);
}

static void lmsw(void)
{
    u64 cr0 = read_cr0();
    set(GUEST_CR0, cr0);
    set(CR0_GUEST_HOST_MASK, CR0_TS);
    set(CR0_READ_SHADOW, 0);
    check_equal("LMSW of a masked bit", try(CODE("lmsw ax"), 0xabc0 | CR0_PE | CR0_TS), EXIT_CONTROL_REGISTER);
    check_instruction("qualification", 3, IS_LMSW | LMSW_SOURCE(0xabc0 | CR0_PE | CR0_TS));
    guest.registers.cx = (u64)new_pages(1);
    write16(guest.registers.cx, CR0_TS | CR0_MP);
    check_equal("LMSW from memory", try(CODE("lmsw [rcx]"), 0), EXIT_CONTROL_REGISTER);
    check_instruction("qualification", 3, IS_LMSW | LMSW_MEMORY | LMSW_SOURCE(CR0_TS | CR0_MP));
    check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), guest.registers.cx);
    check_equal("LMSW of other bits", try(CODE("lmsw ax"), CR0_PE), EXIT_VMCALL);
    check_equal("changes them", get(GUEST_CR0), cr0 & ~CR0_MP);
    set(GUEST_CR0, cr0);
    /* It cannot clear PE: a masked PE matters only if it would be set. */
    set(CR0_GUEST_HOST_MASK, CR0_PE);
    set(CR0_READ_SHADOW, CR0_PE);
    check_equal("LMSW that would clear a masked PE", try(CODE("lmsw ax"), CR0_MP), EXIT_VMCALL);
    set(CR0_READ_SHADOW, 0);
    check_equal("that would set it", try(CODE("lmsw ax"), CR0_PE), EXIT_CONTROL_REGISTER);
    set(GUEST_CR0, cr0);
    set(CR0_GUEST_HOST_MASK, 0);
}

static void cr4(void)
{
    u64 value = read_cr4();
    set(CR4_GUEST_HOST_MASK, CR4_VMXE);
    set(CR4_READ_SHADOW, 0);
    check_equal("MOV from CR4", try(CODE("mov rax, cr4"), 0), EXIT_VMCALL);
    check_equal("hides VMXE", guest.registers.ax, value & ~CR4_VMXE);
    check_equal("MOV to CR4 of what it read", try(CODE("mov cr4, rax"), value & ~CR4_VMXE), EXIT_VMCALL);
    check_equal("keeps VMXE", get(GUEST_CR4), value);
    check_equal("of VMXE", try(CODE("mov r12, rax\n mov cr4, r12"), value), EXIT_CONTROL_REGISTER);
    check_instruction("qualification", 4, 4 | MOV_TO | GPR(12));
    set(CR4_GUEST_HOST_MASK, 0);
}

static bool fixes_ne;

static void fixed_bits(void)
{
    FAULTS("a guest cannot clear CR4.VMXE", GP, 0, write_cr4(read_cr4() & ~CR4_VMXE));
    if (fixes_ne)
        FAULTS("nor CR0.NE", GP, 0, write_cr0(read_cr0() & ~CR0_NE));
    FAULTS("a value that no processor takes faults, before it exits", GP, 0, write_cr4(read_cr4() | 1ull << 63));
    FAULTS("MOV to CR0 at CPL 3", GP, 0, RING_3(write_cr0(0)));
}

static void cr3(void)
{
    const void *write = CODE("mov cr3, rax");
    u64 value = read_cr3();
    enable(PRIMARY_CONTROLS, CR3_LOAD_EXITING | CR3_STORE_EXITING);
    check_equal("MOV to CR3", try(write, value), EXIT_CONTROL_REGISTER);
    check_instruction("qualification", 3, 3 | MOV_TO);
    EXITS("MOV from CR3", EXIT_CONTROL_REGISTER, "mov rdi, cr3");
    check_instruction("qualification", 3, 3 | MOV_FROM | GPR(7));
    if (rdmsr(MSR_VMX_MISC) >> 16 & 0x1ff) {
        set(CR3_TARGET_VALUE_0, value);
        check_equal("a target beyond the count", try(write, value), EXIT_CONTROL_REGISTER);
        set(CR3_TARGET_COUNT, 1);
        check_equal("a target", try(write, value), EXIT_VMCALL);
        check_equal("not quite", try(write, value | 8), EXIT_CONTROL_REGISTER);
        set(CR3_TARGET_COUNT, 0);
    } else {
        skip("CR3 targets");
    }
    disable(PRIMARY_CONTROLS, CR3_LOAD_EXITING | CR3_STORE_EXITING);
    RUNS("neither exits without its control", "mov rax, cr3\n mov cr3, rax");
}

static void cr8(void)
{
    enable(PRIMARY_CONTROLS, CR8_LOAD_EXITING | CR8_STORE_EXITING);
    EXITS("MOV to CR8", EXIT_CONTROL_REGISTER, "mov cr8, rdx");
    check_instruction("qualification", 4, 8 | MOV_TO | GPR(2));
    EXITS("MOV from CR8", EXIT_CONTROL_REGISTER, "mov r8, cr8");
    check_instruction("qualification", 4, 8 | MOV_FROM | GPR(8));
    disable(PRIMARY_CONTROLS, CR8_LOAD_EXITING | CR8_STORE_EXITING);
    check_equal("without exits", try(CODE("mov cr8, rax"), 5), EXIT_VMCALL);
    check_equal("it is the processor's own", read_cr8(), 5);
    write_cr8(0);

    ENABLE_OR_SKIP(PRIMARY_CONTROLS, USE_TPR_SHADOW, "TPR shadow");
    u8 *page = new_pages(1);
    set(VIRTUAL_APIC_ADDRESS, (u64)page);
    set(TPR_THRESHOLD, 0);
    check_equal("with a TPR shadow", try(CODE("mov cr8, rax\n mov rcx, cr8"), 5), EXIT_VMCALL);
    check_equal("it is read back", guest.registers.cx, 5);
    check_equal("it is in the virtual-APIC page", page[VIRTUAL_TPR], 0x50);
    check_equal("the processor's own stays", read_cr8(), 0);
    page[VIRTUAL_TPR] = 0x70;
    check_equal("the host's write", try(CODE("mov rcx, cr8"), 0), EXIT_VMCALL);
    check_equal("is read", guest.registers.cx, 7);
    set(TPR_THRESHOLD, 4);
    check_equal("a write at the threshold", try(CODE("mov cr8, rax"), 4), EXIT_VMCALL);
    void *code = CODE("mov cr8, rax");
    check_equal("below it", try(code, 3), EXIT_TPR_BELOW_THRESHOLD);
    check_equal("the write is done", page[VIRTUAL_TPR], 0x30);
    check_equal("the exit comes behind it", get(GUEST_RIP), (u64)code + 4);
    set(TPR_THRESHOLD, 0);
    disable(PRIMARY_CONTROLS, USE_TPR_SHADOW);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    shadows_of_cr0();
    clts();
    lmsw();
    cr4();
    fixes_ne = rdmsr(MSR_VMX_CR0_FIXED0) & CR0_NE;
    run_guest("fixed bits", fixed_bits);
    cr3();
    cr8();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
