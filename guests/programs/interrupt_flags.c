/*
 * When a pending interrupt is taken: after STI's and MOV SS's shadows, after POPF and IRET, out of HLT; and how NMIs
 * block NMIs (SDM vol. 3, 6.7.1, 6.8; vol. 2, STI, MOV, POPF, HLT).
 */
#include "apic.h"
#include "guest.h"

enum { VECTOR = 0x60 };

word taken_at;     /* RIP that the interrupt saved */
unsigned taken;    /* how often */

static void interrupt(struct frame *frame)
{
    taken_at = frame->ip;
    taken++;
    apic_end_of_interrupt();
}

/* Make an interrupt pending while IF is clear. */
static void request(void)
{
    taken = 0;
    taken_at = 0;
    apic_send_self(VECTOR);
}

/* Run instructions with an interrupt pending; it must be taken before the label 1. */
#define TAKEN_AT(name, text)                                                                                       \
    do {                                                                                                           \
        request();                                                                                                 \
        EMIT("mov qword ptr [marked], offset 1f\n" text : : : "rax", "rcx", "rdx", "memory", "cc");                \
        EMIT("nop\n cli");                                                                                         \
        check_equal(name, taken_at, marked);                                                                       \
    } while (0)

static void shadows(void)
{
    TAKEN_AT("STI: after the next instruction", "sti\n nop\n 1: nop");
    TAKEN_AT("STI: its shadow is one instruction", "sti\n inc eax\n 1: inc eax\n inc eax");
    TAKEN_AT("STI with IF set has no shadow: the first one counts", "sti\n sti\n 1: nop");
    request();
    EMIT("sti\n cli\n nop\n nop");
    check_equal("STI, CLI: nothing is taken", taken, 0);
    EMIT("sti\n nop\n cli");
    check_equal("until IF stays set", taken, 1);
    TAKEN_AT("POPF has no shadow", "push 0x202\n popf\n 1: nop");
    TAKEN_AT("IRET has no shadow",
             "mov rax, rsp\n push 0x10\n push rax\n push 0x202\n push 8\n push offset 1f\n iretq\n 1: nop");
    TAKEN_AT("MOV SS: after the next instruction", "mov edx, ss\n push 0x202\n popf\n 1: mov ss, edx\n nop");
    TAKEN_AT("a block of one STI", "jmp 2f\n .align 64\n 2: sti\n jmp 3f\n .align 64\n 3: \n 1: nop");
}

static void halting(void)
{
    TAKEN_AT("STI, HLT: HLT is woken at once", "sti\n hlt\n 1: nop");
    handlers[VECTOR] = interrupt;
    apic_timer(APIC_ONE_SHOT, VECTOR, 1000);
    taken = 0;
    EMIT("mov qword ptr [marked], offset 1f\n sti\n hlt\n 1: cli" : : : "memory");
    check_equal("a timer wakes HLT", taken, 1);
    check_equal("which is done then", taken_at, marked);
}

static volatile unsigned nmis, depth, deepest;

/* An interrupt that was sent takes its time to arrive. */
static void settle(void)
{
    for (volatile int turns = 0; turns < 1000; turns++)
        EMIT("pause");
}

static void nested_nmi(struct frame *frame)
{
    nmis++;
    if (++depth > deepest)
        deepest = depth;
    if (nmis == 1) {
        apic_send_self_nmi();
        apic_send_self_nmi();
        settle();
    }
    depth--;
    taken_at = frame->ip;
}

static void unblock_early(struct frame *frame)
{
    (void)frame;
    nmis++;
    if (nmis == 1) {
        apic_send_self_nmi();
        settle();
        /* Any IRET ends the blocking. */
        EMIT("mov rax, rsp\n push 0x10\n push rax\n push 2\n push 8\n push offset 1f\n iretq\n 1:"
             : : : "rax", "memory");
        settle();
        check_equal("IRET in the handler lets the next NMI in", nmis, 2);
    }
}

static void faulting_nmi(struct frame *frame)
{
    (void)frame;
    nmis++;
    if (nmis == 1) {
        apic_send_self_nmi();
        settle();
        check_equal("a fault in the handler: the second NMI is blocked", nmis, 1);
        FAULTS("a fault in the handler, ended by IRET", UD, 0, EMIT("ud2"));
        settle();
        check_equal("lets the next NMI in as well", nmis, 2);
    }
}

static void non_maskable(void)
{
    handlers[NMI] = nested_nmi;
    apic_send_self_nmi();
    settle();
    check_equal("IF does not mask NMIs; two while blocked become one", nmis, 2);
    check_equal("NMIs do not nest", deepest, 1);
    nmis = 0;
    handlers[NMI] = unblock_early;
    apic_send_self_nmi();
    settle();
    nmis = 0;
    handlers[NMI] = faulting_nmi;
    apic_send_self_nmi();
    settle();
}

void run(void)
{
    apic_enable();
    handlers[VECTOR] = interrupt;
    shadows();
    halting();
    non_maskable();
}
