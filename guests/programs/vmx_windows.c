/*
 * When the guest can take events: interrupt and NMI windows, blocking by STI, MOV SS and NMI, virtual NMIs, pending
 * debug exceptions (SDM vol. 3, 25.4.2, 25.6.1, 26.2, 26.4.1, 27.7).
 */
#include "vmx.h"

enum { VECTOR = 0x91 };
enum { PENDING_BS = 0x4000, PENDING_ENABLED = 0x1000, PENDING_B0 = 1, DR6_BS = 0x4000 };

/* Check an exit, and how far behind the guest's beginning it comes. */
static void check_at(const char *name, u32 reason, void *code, u64 offset)
{
    check_equal(name, enter(&guest), reason);
    check_equal("where", get(GUEST_RIP), (u64)code + offset);
}

static void interrupt_window(void)
{
    enable(PRIMARY_CONTROLS, INTERRUPT_WINDOW_EXITING);
    void *code = CODE("nop\n sti\n nop\n nop\n nop");
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    check_at("an interrupt window is there", EXIT_INTERRUPT_WINDOW, code, 0);
    begin_at(&guest, code);
    check_at("it opens behind the instruction after STI", EXIT_INTERRUPT_WINDOW, code, 3);
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_STI);
    check_at("blocking by STI, for one instruction", EXIT_INTERRUPT_WINDOW, code, 1);
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_MOV_SS);
    check_at("blocking by MOV SS too", EXIT_INTERRUPT_WINDOW, code, 1);
    code = CODE("mov ecx, 0x202\n push rcx\n popf\n nop");
    begin_at(&guest, code);
    check_at("POPF opens it at once", EXIT_INTERRUPT_WINDOW, code, 7);
    RUNS("without IF there is none", "nop\n nop");
    code = CODE("nop");
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | VECTOR);
    /* The handler runs with IF clear: the window opens behind its IRET. */
    check_at("what is injected comes first", EXIT_INTERRUPT_WINDOW, code, 0);
    disable(PRIMARY_CONTROLS, INTERRUPT_WINDOW_EXITING);
}

static void window_in_hlt(void)
{
    enable(PRIMARY_CONTROLS, INTERRUPT_WINDOW_EXITING);
    void *code = CODE("nop");
    begin_at(&guest, code);
    set(GUEST_ACTIVITY_STATE, HALTED);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    check_at("it wakes from HLT", EXIT_INTERRUPT_WINDOW, code, 0);
}

static void blocking_is_saved(void)
{
    begin_at(&guest, CODE("sti"));
    check_equal("VMCALL after STI", enter(&guest), EXIT_VMCALL);
    check_equal("blocking by STI", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_STI);
    begin_at(&guest, CODE("mov ecx, ss\n mov ss, ecx"));
    check_equal("VMCALL after MOV to SS", enter(&guest), EXIT_VMCALL);
    check_equal("blocking by MOV SS", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_MOV_SS);
    begin_at(&guest, CODE("sti\n nop"));
    check_equal("one instruction later", enter(&guest), EXIT_VMCALL);
    check_equal("no blocking", get(GUEST_INTERRUPTIBILITY_STATE), 0);
}

static volatile unsigned nmis;

static void in_nmi(struct frame *frame)
{
    (void)frame;
    nmis++;
    EMIT("vmcall");
}

static void nmi_blocking(void)
{
    handlers[NMI] = in_nmi;
    begin_at(&guest, CODE("nop"));
    inject(TYPE_NMI | NMI);
    check_equal("the handler of an NMI", enter(&guest), EXIT_VMCALL);
    check_equal("has NMIs blocked", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    skip_instruction();
    check_equal("until its IRET", enter(&guest), EXIT_VMCALL);
    check_equal("that unblocks them", get(GUEST_INTERRUPTIBILITY_STATE), 0);
}

static void nmi_window(void)
{
    if (!offered(PIN_BASED_CONTROLS, NMI_EXITING | VIRTUAL_NMIS) || !offered(PRIMARY_CONTROLS, NMI_WINDOW_EXITING)) {
        skip("virtual NMIs");
        return;
    }
    enable(PIN_BASED_CONTROLS, NMI_EXITING | VIRTUAL_NMIS);
    enable(PRIMARY_CONTROLS, NMI_WINDOW_EXITING);
    void *code = CODE("nop\n nop");
    begin_at(&guest, code);
    check_at("an NMI window is there", EXIT_NMI_WINDOW, code, 0);
    begin_at(&guest, code);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_MOV_SS);
    check_at("blocking by MOV SS", EXIT_NMI_WINDOW, code, 1);
    begin_at(&guest, code);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    check_equal("virtual NMIs blocked: none", enter(&guest), EXIT_VMCALL);
    check_equal("they stay so", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    begin_at(&guest, code);
    inject(TYPE_NMI | NMI);
    check_equal("an NMI injected", enter(&guest), EXIT_VMCALL);
    check_equal("blocks them", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    skip_instruction();
    check_at("the window opens behind IRET", EXIT_NMI_WINDOW, code, 0);
    check_equal("nothing is blocked", get(GUEST_INTERRUPTIBILITY_STATE), 0);
    /* IRET that faults: it has unblocked NMIs already, which the exit tells (SDM vol. 3, 28.2.3). */
    disable(PRIMARY_CONTROLS, NMI_WINDOW_EXITING);
    set(EXCEPTION_BITMAP, 1 << PF);
    begin_at(&guest, CODE("mov rsp, 0x400000000000\n iretq"));
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    check_equal("IRET from a stack that is not there", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("has unblocked NMIs", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | NMI_UNBLOCKED_BY_IRET | PF);
    check_equal("they are unblocked", get(GUEST_INTERRUPTIBILITY_STATE), 0);
    set(EXCEPTION_BITMAP, 0);
    disable(PIN_BASED_CONTROLS, NMI_EXITING | VIRTUAL_NMIS);
}

static void pending_debug_exceptions(void)
{
    set(EXCEPTION_BITMAP, 1 << DB);
    void *code = CODE("nop\n nop\n nop");
    begin_at(&guest, code);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_BS);
    check_at("a pending single step", EXIT_EXCEPTION_OR_NMI, code, 0);
    check_equal("qualification", get(EXIT_QUALIFICATION), DR6_BS);
    begin_at(&guest, code);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_B0 | PENDING_ENABLED);
    check_at("a pending breakpoint", EXIT_EXCEPTION_OR_NMI, code, 0);
    check_equal("qualification", get(EXIT_QUALIFICATION) & 0xf, PENDING_B0);
    begin_at(&guest, code);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_BS);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_TF);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_MOV_SS);
    check_at("blocking by MOV SS holds it for one instruction", EXIT_EXCEPTION_OR_NMI, code, 1);
    check_equal("qualification", get(EXIT_QUALIFICATION), DR6_BS);
    begin_at(&guest, code);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_B0);
    check_equal("a breakpoint that is not enabled is none", enter(&guest), EXIT_VMCALL);
    /* An exit between MOV to SS and the instruction behind it saves what is pending. */
    code = CODE("mov ecx, ss\n mov ss, ecx");
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_TF);
    check_at("a step", EXIT_EXCEPTION_OR_NMI, code, 2);
    check_equal("MOV to SS, then VMCALL", enter(&guest), EXIT_VMCALL);
    check_equal("the step is pending", get(GUEST_PENDING_DEBUG_EXCEPTIONS), PENDING_BS);
    set(EXCEPTION_BITMAP, 0);
}

static struct frame seen;
static u64 dr6_seen;

static void on_debug(struct frame *frame)
{
    seen = *frame;
    dr6_seen = read_dr6();
}

static void delivered_to_the_guest(void)
{
    void *code = CODE("nop");
    handlers[DB] = on_debug;
    write_dr6(0xffff0ff0);
    begin_at(&guest, code);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_BS);
    check_equal("without the bitmap", enter(&guest), EXIT_VMCALL);
    check_equal("the guest's handler takes it", seen.ip, (u64)code);
    check_equal("DR6 tells it", dr6_seen, 0xffff0ff0 | DR6_BS);
}

static void nothing(struct frame *frame) { (void)frame; }

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    handlers[VECTOR] = nothing;
    interrupt_window();
    blocking_is_saved();
    nmi_blocking();
    nmi_window();
    pending_debug_exceptions();
    delivered_to_the_guest();
    window_in_hlt();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
