/*
 * The VMX-preemption timer and the monitor trap flag (SDM vol. 3, 26.5.1, 26.5.2, 27.7.4, 27.7.8). The timer is tested
 * without asking how fast it counts.
 */
#include "vmx.h"

enum { VECTOR = 0x91, FOREVER = 0x7fffffff };

static void nothing(struct frame *frame) { (void)frame; }

/* Check an exit, and how far behind the guest's beginning it comes. */
static void check_at(const char *name, u32 reason, void *code, u64 offset)
{
    check_equal(name, enter(&guest), reason);
    check_equal("where", get(GUEST_RIP), (u64)code + offset);
}

static void timer(void)
{
    ENABLE_OR_SKIP(PIN_BASED_CONTROLS, ACTIVATE_PREEMPTION_TIMER, "VMX-preemption timer");
    void *code = CODE("nop\n nop");
    set(VMX_PREEMPTION_TIMER_VALUE, 0);
    begin_at(&guest, code);
    check_at("the timer at 0", EXIT_PREEMPTION_TIMER, code, 0);
    check_equal("without saving the value stays", get(VMX_PREEMPTION_TIMER_VALUE), 0);
    check_at("and exits again", EXIT_PREEMPTION_TIMER, code, 0);
    set(VMX_PREEMPTION_TIMER_VALUE, 1000);
    begin_at(&guest, CODE("1: pause\n jmp 1b"));
    check_equal("it ends a loop", enter(&guest), EXIT_PREEMPTION_TIMER);
    check_equal("without saving the value stays", get(VMX_PREEMPTION_TIMER_VALUE), 1000);
    begin_at(&guest, CODE("nop"));
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("it ends HLT", enter(&guest), EXIT_PREEMPTION_TIMER);

    /* What is injected is delivered before (SDM vol. 3, 27.7.4). */
    set(VMX_PREEMPTION_TIMER_VALUE, 0);
    begin_at(&guest, code);
    inject(TYPE_HARDWARE_EXCEPTION | UD);
    check_equal("with #UD injected", enter(&guest), EXIT_PREEMPTION_TIMER);
    check_equal("it exits from the handler's beginning", get(GUEST_RIP), stub_of(UD));
    check_equal("which is no delivery", get(IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID, 0);

    set(VMX_PREEMPTION_TIMER_VALUE, FOREVER);
    RUNS("a long time", "nop");
    check_equal("is kept", get(VMX_PREEMPTION_TIMER_VALUE), FOREVER);
    if (offered(VM_EXIT_CONTROLS, SAVE_PREEMPTION_TIMER_VALUE)) {
        enable(VM_EXIT_CONTROLS, SAVE_PREEMPTION_TIMER_VALUE);
        RUNS("a long time, saved", "nop");
        check("is less or as much", get(VMX_PREEMPTION_TIMER_VALUE) <= FOREVER);
        check("but there", get(VMX_PREEMPTION_TIMER_VALUE) > 0);
        set(VMX_PREEMPTION_TIMER_VALUE, 1000);
        begin_at(&guest, CODE("1: pause\n jmp 1b"));
        check_equal("what ran out", enter(&guest), EXIT_PREEMPTION_TIMER);
        check_equal("is saved as 0", get(VMX_PREEMPTION_TIMER_VALUE), 0);
        disable(VM_EXIT_CONTROLS, SAVE_PREEMPTION_TIMER_VALUE);
    } else {
        skip("saving of the VMX-preemption timer");
    }
    disable(PIN_BASED_CONTROLS, ACTIVATE_PREEMPTION_TIMER);
}

static void trap_flag(void)
{
    ENABLE_OR_SKIP(PRIMARY_CONTROLS, MONITOR_TRAP_FLAG, "monitor trap flag");
    void *code = CODE("nop\n mov eax, 3\n nop");
    begin_at(&guest, code);
    check_at("MTF: one instruction", EXIT_MONITOR_TRAP_FLAG, code, 1);
    check_at("the next", EXIT_MONITOR_TRAP_FLAG, code, 6);
    check_at("and the next", EXIT_MONITOR_TRAP_FLAG, code, 7);
    check_at("an exit of the instruction's own", EXIT_VMCALL, code, 7);
    code = CODE("rep stosb");
    guest.registers.cx = 3;
    guest.registers.di = (u64)new_pages(1);
    begin_at(&guest, code);
    check_at("MTF: one iteration", EXIT_MONITOR_TRAP_FLAG, code, 0);
    check_equal("is done", guest.registers.cx, 2);
    check_at("the second", EXIT_MONITOR_TRAP_FLAG, code, 0);
    check_at("the last", EXIT_MONITOR_TRAP_FLAG, code, 2);
    handlers[UD] = nothing;
    begin_at(&guest, CODE("ud2"));
    check_equal("MTF: a fault", enter(&guest), EXIT_MONITOR_TRAP_FLAG);
    check_equal("behind its delivery", get(GUEST_RIP), stub_of(UD));
    handlers[VECTOR] = nothing;
    begin_at(&guest, CODE("int 0x91"));
    check_equal("MTF: INT", enter(&guest), EXIT_MONITOR_TRAP_FLAG);
    check_equal("behind its delivery", get(GUEST_RIP), stub_of(VECTOR));
    begin_at(&guest, CODE("nop"));
    inject(TYPE_HARDWARE_EXCEPTION | UD);
    check_equal("MTF: an injection", enter(&guest), EXIT_MONITOR_TRAP_FLAG);
    check_equal("before the handler", get(GUEST_RIP), stub_of(UD));
    disable(PRIMARY_CONTROLS, MONITOR_TRAP_FLAG);

    /* Injected itself, without the control (SDM vol. 3, 27.6.2). */
    code = CODE("nop");
    begin_at(&guest, code);
    inject(TYPE_OTHER_EVENT | 0);
    check_at("MTF injected: before the first instruction", EXIT_MONITOR_TRAP_FLAG, code, 0);
    check_equal("once", enter(&guest), EXIT_VMCALL);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    timer();
    trap_flag();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
