/*
 * Events that VM entries inject: each type, what it pushes, into CPL 0 and from CPL 3, into what cannot take it
 * (SDM vol. 3, 25.8.3, 27.6).
 */
#include "vmx.h"

enum { VECTOR = 0x91, OF_RING_0 = 0x92 };

static struct frame seen;
static unsigned deliveries;

static void remember(struct frame *frame)
{
    seen = *frame;
    deliveries++;
}

/* Inject into `code`, which then runs to its end; whether one event was delivered. */
static bool deliver(void *code, u64 flags, bool ring_3, u32 information)
{
    deliveries = 0;
    begin_at(&guest, code);
    if (ring_3)
        begin_at_ring_3();
    set(GUEST_RFLAGS, flags);
    inject(information);
    return enter(&guest) == EXIT_VMCALL && deliveries == 1;
}

struct event {
    const char *name;
    u32 information, length; /* of the instruction that it stands for */
    u64 flags;
    u32 error;
};

static const struct event events[] = {
    {"an external interrupt", TYPE_EXTERNAL_INTERRUPT | VECTOR, 0, FLAG_FIXED | FLAG_IF, 0},
    {"an NMI", TYPE_NMI | NMI, 0, FLAG_FIXED, 0},
    {"#UD", TYPE_HARDWARE_EXCEPTION | UD, 0, FLAG_FIXED, 0},
    {"#GP with an error code", TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP, 0, FLAG_FIXED, 0x1230},
    {"#PF", TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | PF, 0, FLAG_FIXED, PF_W | PF_P},
    {"a software interrupt", TYPE_SOFTWARE_INTERRUPT | VECTOR, 2, FLAG_FIXED, 0},
    {"INT3", TYPE_SOFTWARE_EXCEPTION | BP, 1, FLAG_FIXED, 0},
    {"INT1", TYPE_PRIVILEGED_SOFTWARE_EXCEPTION | DB, 1, FLAG_FIXED, 0},
};

static void each(bool ring_3)
{
    for (size_t index = 0; index < sizeof events / sizeof *events; index++) {
        const struct event *event = &events[index];
        void *code = CODE("nop\n nop\n nop");
        set(VM_ENTRY_EXCEPTION_ERROR_CODE, event->error);
        set(VM_ENTRY_INSTRUCTION_LENGTH, event->length);
        check(event->name, deliver(code, event->flags, ring_3, event->information));
        check_equal("through its gate", seen.vector, event->information & 0xff);
        check_equal("RIP", seen.ip, (u64)code + event->length);
        check_equal("error code", seen.error, event->error);
        check_equal("RFLAGS", seen.flags & ~(u64)FLAG_RF, event->flags);
        check_equal("CS", seen.cs, ring_3 ? USER_CODE : KERNEL_CODE);
        check_equal("SS", seen.ss, ring_3 ? USER_DATA : KERNEL_DATA);
        check_equal("the exit clears its valid bit", get(VM_ENTRY_INTERRUPTION_INFORMATION) & INTERRUPTION_VALID, 0);
    }
}

static void begin_state(void)
{
    void *code = CODE("nop");
    handlers[UD] = NULL;
    /* Before any instruction of the guest: the handler is the first to run. */
    set_gate(UD, (u64)CODE("vmcall"), KERNEL_CODE, INTERRUPT_GATE);
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF | FLAG_TF);
    inject(TYPE_HARDWARE_EXCEPTION | UD);
    check_equal("a handler", enter(&guest), EXIT_VMCALL);
    check_equal("has IF and TF clear", get(GUEST_RFLAGS) & (FLAG_IF | FLAG_TF), 0);
    check_equal("the stack has its frame", get(GUEST_RSP), (((u64)guest.stack - 8) & ~15ull) - 40);
    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE);
    handlers[UD] = remember;

    u64 dr6 = 0xffff0ff0;
    write_dr6(dr6);
    set(VM_ENTRY_INSTRUCTION_LENGTH, 1);
    check("#DB", deliver(code, FLAG_FIXED, false, TYPE_HARDWARE_EXCEPTION | DB));
    check_equal("changes no DR6", read_dr6(), dr6);
    write_cr2(0x77);
    set(VM_ENTRY_EXCEPTION_ERROR_CODE, 0);
    check("#PF", deliver(code, FLAG_FIXED, false, TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | PF));
    check_equal("nor CR2", read_cr2(), 0x77);

    set(EXCEPTION_BITMAP, 0xffffffff);
    check("the exception bitmap does not concern what is injected",
          deliver(code, FLAG_FIXED, false, TYPE_HARDWARE_EXCEPTION | UD));
    set(EXCEPTION_BITMAP, 0);

    deliveries = 0;
    begin_at(&guest, code);
    set(GUEST_ACTIVITY_STATE, HALTED);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check_equal("an interrupt into HLT", enter(&guest), EXIT_VMCALL);
    check_equal("is delivered", deliveries, 1);
    check_equal("and the guest awake", get(GUEST_ACTIVITY_STATE), ACTIVE);
}

#define GATE(vector) ((vector) << 3 | 2)

static void check_exit(const char *name, u32 information, u32 error, u32 vectoring)
{
    check_equal(name, enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("interruption information", get(VM_EXIT_INTERRUPTION_INFORMATION), INTERRUPTION_VALID | information);
    check_equal("error code", get(VM_EXIT_INTERRUPTION_ERROR_CODE), error);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | vectoring);
}

/* Faults at the delivery: DPL of gates for software events alone, gates that are not there. */
static void refused(void)
{
    const u32 fault = TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE;
    void *code = CODE("nop\n nop");
    set(EXCEPTION_BITMAP, 1 << GP | 1 << NP);
    begin_at(&guest, code);
    begin_at_ring_3();
    set(VM_ENTRY_INSTRUCTION_LENGTH, 2);
    inject(TYPE_SOFTWARE_INTERRUPT | OF_RING_0);
    check_exit("a software interrupt from CPL 3 through a gate of DPL 0", fault | GP, GATE(OF_RING_0),
               TYPE_SOFTWARE_INTERRUPT | OF_RING_0);
    check_equal("its length", get(VM_EXIT_INSTRUCTION_LENGTH), 2);
    check_equal("RIP is as it was", get(GUEST_RIP), (u64)code);

    set_gate(OF_RING_0, stub_of(OF_RING_0), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | OF_RING_0);
    check_exit("an external interrupt through an absent gate", fault | NP, GATE(OF_RING_0) | 1,
               TYPE_EXTERNAL_INTERRUPT | OF_RING_0);
    begin_at(&guest, code);
    inject(TYPE_SOFTWARE_INTERRUPT | OF_RING_0);
    check_exit("a software interrupt through it", fault | NP, GATE(OF_RING_0), TYPE_SOFTWARE_INTERRUPT | OF_RING_0);
    set_gate(OF_RING_0, stub_of(OF_RING_0), KERNEL_CODE, INTERRUPT_GATE);

    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_IDTR_LIMIT, GP * 16 + 15);
    inject(TYPE_EXTERNAL_INTERRUPT | OF_RING_0);
    check_exit("an external interrupt beyond the IDT", fault | GP, GATE(OF_RING_0) | 1,
               TYPE_EXTERNAL_INTERRUPT | OF_RING_0);
    begin_at(&guest, code);
    set(VM_ENTRY_EXCEPTION_ERROR_CODE, 0);
    inject(fault | PF);
    check_exit("#PF beyond the IDT: no double fault yet", fault | GP, GATE(PF) | 1, fault | PF);
    set(GUEST_IDTR_LIMIT, sizeof idt - 1);
    set(EXCEPTION_BITMAP, 0);
}

void run(void)
{
    static const u8 vectors[] = {VECTOR, OF_RING_0, NMI, UD, GP, PF, BP, DB};
    vmx_begin();
    vmcs_begin(&guest);
    for (size_t index = 0; index < sizeof vectors; index++)
        handlers[vectors[index]] = remember;
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    each(false);
    print("ok now from CPL 3\n");
    each(true);
    begin_state();
    refused();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
