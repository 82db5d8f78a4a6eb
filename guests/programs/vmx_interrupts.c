/*
 * Interrupts that arrive while a guest runs: external-interrupt exiting with and without acknowledgement, NMI
 * exiting, interrupts of the guest's own, and guests that are halted (SDM vol. 3, 25.6.1, 25.7.1, 26.2, 28.2.2).
 */
#include "apic.h"
#include "vmx.h"

enum { VECTOR = 0x51, OTHER = 0x61 };

static volatile unsigned interrupts, nmis;

static void on_interrupt(struct frame *frame)
{
    (void)frame;
    interrupts++;
    apic_end_of_interrupt();
}

static void on_nmi(struct frame *frame)
{
    (void)frame;
    nmis++;
}

static bool in_register(u32 first, u8 vector) { return apic_read(first + vector / 32 * 0x10) >> vector % 32 & 1; }

/* Begin a guest that runs on for ever, with interrupts enabled or not: what exits does not depend on it. */
static void *spin(u64 flags)
{
    void *code = CODE("1: pause\n jmp 1b");
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | flags);
    return code;
}

static void without_acknowledgement(void)
{
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    apic_send_self(VECTOR);
    spin(FLAG_IF);
    check_equal("an interrupt exits", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("no vector is told", get(VM_EXIT_INTERRUPTION_INFORMATION) & INTERRUPTION_VALID, 0);
    check("it is pending", in_register(APIC_IRR, VECTOR) && !in_register(APIC_ISR, VECTOR));
    check_equal("it exits again", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    interrupts = 0;
    EMIT("sti\n nop\n cli");
    check_equal("the host takes it", interrupts, 1);
    RUNS("then there is none", "nop");
}

static void with_acknowledgement(void)
{
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    apic_send_self(VECTOR);
    spin(FLAG_IF);
    check_equal("acknowledged", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("its vector is told", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check("it is in service", !in_register(APIC_IRR, VECTOR) && in_register(APIC_ISR, VECTOR));
    apic_end_of_interrupt();
    apic_send_self(VECTOR);
    apic_send_self(OTHER);
    spin(FLAG_IF);
    check_equal("of two", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("the higher", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, OTHER);
    apic_end_of_interrupt();
    check_equal("comes first", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("then the lower", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, VECTOR);
    apic_end_of_interrupt();
}

static void send_and_spin(void)
{
    apic_send_self(VECTOR);
    for (;;)
        asm volatile("pause");
}

static void halted(void)
{
    void *code = spin(FLAG_IF);
    apic_send_self(VECTOR);
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("an interrupt in HLT", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("the guest is still halted", get(GUEST_ACTIVITY_STATE), HALTED);
    check_equal("where it was", get(GUEST_RIP), (u64)code);
    apic_end_of_interrupt();
    code = CODE("hlt\n nop");
    begin_at(&guest, code);
    apic_send_self(VECTOR);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_STI);
    check_equal("HLT in the shadow of STI", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    check_equal("halts", get(GUEST_ACTIVITY_STATE), HALTED);
    check_equal("behind HLT", get(GUEST_RIP), (u64)code + 1);
    check_equal("nothing blocks any more", get(GUEST_INTERRUPTIBILITY_STATE), 0);
    apic_end_of_interrupt();
}

static void of_the_guest(void)
{
    disable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    disable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    interrupts = 0;
    apic_send_self(VECTOR);
    RUNS("without exits and with IF clear it waits", "nop");
    check_equal("for IF", interrupts, 0);
    begin_at(&guest, CODE("1: cmp dword ptr [rax], 0\n je 1b"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    guest.registers.ax = (u64)&interrupts;
    check_equal("with it", enter(&guest), EXIT_VMCALL);
    check_equal("the guest's handler takes it", interrupts, 1);
    apic_send_self(VECTOR);
    begin_at(&guest, CODE("nop"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("it wakes from HLT", enter(&guest), EXIT_VMCALL);
    check_equal("the handler has run", interrupts, 2);
    guest.registers.r8 = APIC_BASE;
    RUNS("STI, HLT", "mov dword ptr [r8 + 0x300], 0x40051\n sti\n hlt");
    check_equal("wakes too", interrupts, 3);
}

/* Let an IRET unblock NMIs. */
static void unblock_nmis(void) { (void)CATCH(EMIT("ud2")); }

static void non_maskable(void)
{
    enable(PIN_BASED_CONTROLS, NMI_EXITING);
    begin_at(&guest, CODE("mov dword ptr [r8 + 0x310], eax\n mov dword ptr [r8 + 0x300], 0x4400\n"
                          "1: pause\n jmp 1b"));
    guest.registers.ax = apic_read(APIC_ID);
    guest.registers.r8 = APIC_BASE;
    check_equal("NMI exiting", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("is told", get(VM_EXIT_INTERRUPTION_INFORMATION), INTERRUPTION_VALID | TYPE_NMI | NMI);
    check_equal("the guest has none blocked", get(GUEST_INTERRUPTIBILITY_STATE), 0);
    check_equal("nobody else took it", nmis, 0);
    apic_send_self_nmi();
    for (volatile unsigned turns = 0; turns < 1000; turns++)
        ;
    check_equal("the exit blocks NMIs", nmis, 0);
    unblock_nmis();
    for (volatile unsigned turns = 0; turns < 1000; turns++)
        ;
    check_equal("IRET unblocks them", nmis, 1);

    disable(PIN_BASED_CONTROLS, NMI_EXITING);
    begin_at(&guest, CODE("mov dword ptr [r8 + 0x310], eax\n mov dword ptr [r8 + 0x300], 0x4400\n"
                          "1: cmp dword ptr [rdx], 1\n je 1b"));
    guest.registers.ax = apic_read(APIC_ID);
    guest.registers.r8 = APIC_BASE;
    guest.registers.dx = (u64)&nmis;
    check_equal("without, the guest", enter(&guest), EXIT_VMCALL);
    check_equal("takes it", nmis, 2);
    /* And one that its blocking holds back until its IRET. */
    begin_at(&guest, CODE("mov dword ptr [r8 + 0x310], eax\n mov dword ptr [r8 + 0x300], 0x4400\n"
                          "mov ecx, 1000\n 1: pause\n loop 1b\n mov rbx, [rdx]\n"
                          "mov rcx, rsp\n push 0x10\n push rcx\n push 2\n push 8\n"
                          "lea rcx, 2f[rip]\n push rcx\n iretq\n"
                          "2: cmp dword ptr [rdx], 2\n je 2b"));
    set(GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    check_equal("blocked", enter(&guest), EXIT_VMCALL);
    check_equal("it waits", (u32)guest.registers.bx, 2);
    check_equal("for IRET", nmis, 3);
}

/* External-interrupt exiting does not ask for IF (SDM vol. 3, 25.6.1). */
static void with_interrupts_disabled(void)
{
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    apic_send_self(VECTOR);
    spin(0);
    check_equal("an interrupt exits from a guest with IF clear", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    apic_end_of_interrupt();
    apic_send_self(VECTOR);
    spin(0);
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("and from HLT", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    apic_end_of_interrupt();
}

void run(void)
{
    apic_enable();
    vmx_begin();
    vmcs_begin(&guest);
    handlers[VECTOR] = handlers[OTHER] = on_interrupt;
    handlers[NMI] = on_nmi;
    without_acknowledgement();
    with_acknowledgement();
    halted();
    begin_at(&guest, send_and_spin);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    check_equal("one that the guest sends itself", enter(&guest), EXIT_EXTERNAL_INTERRUPT);
    apic_end_of_interrupt();
    of_the_guest();
    non_maskable();
    with_interrupts_disabled();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
