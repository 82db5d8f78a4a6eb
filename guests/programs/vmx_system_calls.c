/*
 * A guest with user code: SYSCALL, SYSENTER and interrupts between its CPL 3 and 0, exits from both, its own MSRs
 * and stacks (SDM vol. 3, 28.3.2; vol. 2, SYSCALL, SYSENTER, SWAPGS).
 */
#include "vmx.h"

enum { TURNS = 200, VECTOR = 0x93 };

static u64 kernel_stack, user_stack;

/* The kernel: counts in RBX, and returns. */
static void *syscall_kernel(void) { return CODE("add rbx, 1\n rex.W sysret"); }

static void by_syscall(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)(USER_CODE - 16) << 48 | (u64)KERNEL_CODE << 32);
    wrmsr(MSR_LSTAR, (u64)syscall_kernel());
    wrmsr(MSR_FMASK, FLAG_IF);
    u8 *code = CODE("mov ebp, 200\n 1: syscall\n dec ebp\n jnz 1b");
    begin_at(&guest, code);
    begin_at_ring_3();
    guest.registers.bx = 0;
    check_equal("SYSCALL and SYSRET", enter(&guest), EXIT_VMCALL);
    check_equal("as often as asked", guest.registers.bx, TURNS);
    check_equal("back at CPL 3", get(GUEST_CS_SELECTOR), USER_CODE);
    check_equal("with SS of DPL 3", get(GUEST_SS_ACCESS_RIGHTS) & 0x60, 0x60);
}

/* Each turn exits once at CPL 3 and once at CPL 0. */
static void exits_from_both(void)
{
    wrmsr(MSR_LSTAR, (u64)CODE("cpuid\n rex.W sysret"));
    begin_at(&guest, CODE("mov ebp, 200\n 1: syscall\n cpuid\n dec ebp\n jnz 1b"));
    begin_at_ring_3();
    unsigned of_kernel = 0, of_user = 0;
    while (enter(&guest) == EXIT_CPUID) {
        bool kernel = get(GUEST_CS_SELECTOR) == KERNEL_CODE;
        of_kernel += kernel && (get(GUEST_SS_ACCESS_RIGHTS) & 0x60) == 0;
        of_user += !kernel && (get(GUEST_SS_ACCESS_RIGHTS) & 0x60) == 0x60;
        skip_instruction();
    }
    check_equal("exits at CPL 0", of_kernel, TURNS);
    check_equal("and at CPL 3", of_user, TURNS);
}

static void by_sysenter(void)
{
    set(GUEST_SYSENTER_CS, KERNEL_CODE);
    set(GUEST_SYSENTER_ESP, kernel_stack);
    set(GUEST_SYSENTER_EIP, (u64)CODE("mov rsi, rsp\n add rbx, 1"));
    begin_at(&guest, CODE("sysenter"));
    begin_at_ring_3();
    guest.registers.bx = 5;
    check_equal("SYSENTER", enter(&guest), EXIT_VMCALL);
    check_equal("by the guest's MSRs", guest.registers.si, kernel_stack);
    check_equal("to CPL 0", get(GUEST_CS_SELECTOR), KERNEL_CODE);
    check_equal("RSP", get(GUEST_RSP), kernel_stack);
    check_equal("what runs there", guest.registers.bx, 6);
    set(GUEST_SYSENTER_CS, 0);
    set(EXCEPTION_BITMAP, 1 << GP);
    begin_at(&guest, CODE("sysenter"));
    begin_at_ring_3();
    check_equal("without IA32_SYSENTER_CS it faults", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    set(EXCEPTION_BITMAP, 0);
}

static struct frame seen;

static void remember(struct frame *frame) { seen = *frame; }

static void by_interrupt(void)
{
    handlers[VECTOR] = remember;
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    begin_at(&guest, CODE("mov ebp, 200\n 1: int 0x93\n dec ebp\n jnz 1b"));
    begin_at_ring_3();
    set(GUEST_RSP, user_stack);
    check_equal("INT", enter(&guest), EXIT_VMCALL);
    check_equal("from CPL 3", seen.cs, USER_CODE);
    check_equal("and its stack", seen.sp, user_stack);
    check_equal("back there", get(GUEST_RSP), user_stack);
    check_equal("at CPL 3", get(GUEST_SS_SELECTOR), USER_DATA);
}

/* IA32_KERNEL_GS_BASE is the processor's, the GS base the VMCS's. */
static void swapgs(void)
{
    wrmsr(MSR_KERNEL_GS_BASE, 0x5000);
    set(GUEST_GS_BASE, 0x6000);
    RUNS("SWAPGS", "swapgs");
    check_equal("the guest's GS base", get(GUEST_GS_BASE), 0x5000);
    check_equal("what it was is the processor's", rdmsr(MSR_KERNEL_GS_BASE), 0x6000);
    check_equal("the host's own is untouched", rdmsr(MSR_GS_BASE), 0);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    kernel_stack = (u64)new_pages(1) + PAGE;
    user_stack = (u64)new_pages(1) + PAGE;
    set(MSR_BITMAPS, (u64)new_pages(1));
    enable(PRIMARY_CONTROLS, USE_MSR_BITMAPS);
    by_syscall();
    exits_from_both();
    by_sysenter();
    by_interrupt();
    swapgs();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
