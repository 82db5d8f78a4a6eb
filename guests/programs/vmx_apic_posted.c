/*
 * Posted interrupts: the notification vector is no VM exit but makes virtual interrupts of what is posted; other vectors
 * exit (SDM vol. 3, 30.6).
 */
#include "apic.h"
#include "vmx.h"

enum { NOTIFICATION = 0xf2, OTHER = 0x71, LOW = 0x51, HIGH = 0xa1 };

static struct descriptor {
    volatile u32 requests[8];
    volatile u64 outstanding, rest[3];
} __attribute__((aligned(64))) posted;

static u8 *virtual;
static volatile u8 delivered[8];
static volatile unsigned count;

static u32 *reg(u32 offset) { return (u32 *)(virtual + offset); }
static bool in_service(u8 vector) { return apic_read(APIC_ISR + vector / 32 * 0x10) >> vector % 32 & 1; }
static bool requested(u8 vector) { return apic_read(APIC_IRR + vector / 32 * 0x10) >> vector % 32 & 1; }

static void on_interrupt(struct frame *frame) { delivered[count++ % 8] = frame->vector; }

static void post(u8 vector)
{
    posted.requests[vector / 32] |= 1u << vector % 32;
    posted.outstanding |= 1;
}

static void begin(void *code, u64 flags)
{
    for (u32 index = 0; index < 8; index++)
        *reg(APIC_ISR + index * 16) = *reg(APIC_IRR + index * 16) = 0;
    *reg(APIC_TPR) = 0;
    set(GUEST_INTERRUPT_STATUS, 0);
    count = 0;
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | flags);
    guest.registers.bx = (u64)&count;
    guest.registers.r8 = APIC_BASE;
}

#define UNTIL_ONE CODE("1: pause\n cmp dword ptr [rbx], 0\n je 1b")

static void notified(void)
{
    post(LOW);
    apic_send_self(NOTIFICATION);
    begin(UNTIL_ONE, FLAG_IF);
    check_equal("a notification does not exit", enter(&guest), EXIT_VMCALL);
    check("what is posted is delivered", count == 1 && delivered[0] == LOW);
    check("the notification is over", !in_service(NOTIFICATION) && !requested(NOTIFICATION));
    check_equal("nothing is outstanding", posted.outstanding, 0);
    check_equal("nor posted", posted.requests[LOW / 32], 0);
    check_equal("the status", get(GUEST_INTERRUPT_STATUS), LOW << 8);

    post(LOW);
    post(HIGH);
    apic_send_self(NOTIFICATION);
    begin(CODE("mov ecx, 3000\n 1: pause\n loop 1b"), 0);
    check_equal("with IF clear", enter(&guest), EXIT_VMCALL);
    check_equal("it is the same", posted.outstanding, 0);
    check_equal("both are requested", get(GUEST_INTERRUPT_STATUS), HIGH);
    check("in IRR", *reg(APIC_IRR + 0x20) == 1 << LOW % 32 && *reg(APIC_IRR + 0x50) == 1 << HIGH % 32);
    check_equal("and wait", count, 0);

    post(HIGH);
    begin(CODE("mov dword ptr [r8 + 0x300], 0x400f2\n mov ecx, 3000\n 1: pause\n loop 1b\n sti\n nop"), 0);
    check_equal("one that comes while the guest runs", enter(&guest), EXIT_VMCALL);
    check("and STI", count == 1 && delivered[0] == HIGH);
}

static void halted(void)
{
    post(HIGH);
    apic_send_self(NOTIFICATION);
    begin(CODE("nop"), FLAG_IF);
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("in HLT", enter(&guest), EXIT_VMCALL);
    check("it is delivered", count == 1 && delivered[0] == HIGH);
    apic_send_self(NOTIFICATION);
    begin(CODE("1: hlt\n jmp 1b"), FLAG_IF);
    set(GUEST_ACTIVITY_STATE, HALTED);
    apic_timer(APIC_ONE_SHOT, OTHER, 100000);
    check_equal("a notification of nothing", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("wakes nobody", get(GUEST_ACTIVITY_STATE), HALTED);
    check_equal("until another vector exits", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, OTHER);
    apic_end_of_interrupt();
}

static void others_exit(void)
{
    post(LOW);
    apic_send_self(OTHER);
    begin(CODE("1: jmp 1b"), FLAG_IF);
    check_equal("another vector", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("is told", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | OTHER);
    check_equal("what is posted stays so", posted.outstanding, 1);
    check_equal("in the descriptor", posted.requests[LOW / 32], 1 << LOW % 32);
    apic_end_of_interrupt();
    disable(PIN_BASED_CONTROLS, PROCESS_POSTED_INTERRUPTS);
    apic_send_self(NOTIFICATION);
    begin(CODE("1: jmp 1b"), FLAG_IF);
    check_equal("without the control", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("every vector does", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, NOTIFICATION);
    apic_end_of_interrupt();
}

void run(void)
{
    apic_enable();
    vmx_begin();
    vmcs_begin(&guest);
    virtual = new_pages(1);
    handlers[LOW] = handlers[HIGH] = on_interrupt;
    RUNS("a guest", "nop");
    ENABLE_OR_SKIP(PIN_BASED_CONTROLS, PROCESS_POSTED_INTERRUPTS, "posted interrupts");
    enable(PRIMARY_CONTROLS, USE_TPR_SHADOW);
    enable(SECONDARY_CONTROLS, VIRTUAL_INTERRUPT_DELIVERY);
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    set(VIRTUAL_APIC_ADDRESS, (u64)virtual);
    set(POSTED_INTERRUPT_NOTIFICATION_VECTOR, NOTIFICATION);
    set(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, (u64)&posted);
    notified();
    halted();
    others_exit();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
