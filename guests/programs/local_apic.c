/*
 * The local APIC: priorities by TPR and CR8, nesting by EOI, its timer in three modes, x2APIC (SDM vol. 3, 10.4 to
 * 10.12). Times are compared with the timer's own frequency only loosely: a late interrupt is legal, an early one not.
 */
#include "apic.h"

enum { LOW = 0x41, MIDDLE = 0x55, HIGH = 0x92 };

static u8 order[8];
static volatile unsigned count;

static void record(struct frame *frame)
{
    order[count & 7] = frame->vector;
    count++;
    apic_end_of_interrupt();
}

static void record_and_open(struct frame *frame)
{
    order[count & 7] = frame->vector;
    count++;
    EMIT("sti\n nop\n nop\n cli");
    apic_end_of_interrupt();
}

/* Wait, not for ever, until so many interrupts came. */
static void wait_for(unsigned wanted)
{
    for (u64 start = rdtsc(); count < wanted && rdtsc() - start < 1000000000;)
        EMIT("sti\n nop\n cli" : : : "memory");
}

static void open_briefly(void) { EMIT("sti\n nop\n nop\n nop\n cli" : : : "memory"); }

static void registers(void)
{
    check_equal("the version is integrated", apic_read(APIC_VERSION) & 0xf0, 0x10);
    check_equal("IA32_APIC_BASE: address, enabled, bootstrap processor", rdmsr(MSR_APIC_BASE), APIC_BASE | 0x900);
    apic_write(APIC_TPR, 0x5a);
    check_equal("CR8 is TPR's upper half", read_cr8(), 5);
    write_cr8(7);
    check_equal("and the other way round", apic_read(APIC_TPR), 0x70);
    check_equal("PPR follows", apic_read(APIC_PPR), 0x70);
    write_cr8(0);
    check_equal("CPUID knows the ID", cpuid(1, 0).b >> 24, apic_read(APIC_ID) >> 24);
}

static void priorities(void)
{
    handlers[LOW] = handlers[MIDDLE] = handlers[HIGH] = record;
    count = 0;
    apic_send_self(LOW);
    apic_send_self(HIGH);
    apic_send_self(MIDDLE);
    check_equal("IRR holds what is pending", apic_read(APIC_IRR + 0x10 * (HIGH / 32)) >> HIGH % 32 & 1, 1);
    open_briefly();
    open_briefly();
    check_equal("all three come", count, 3);
    check_equal("the highest first", order[0] << 16 | order[1] << 8 | order[2], HIGH << 16 | MIDDLE << 8 | LOW);
    count = 0;
    write_cr8(5);
    apic_send_self(MIDDLE);
    open_briefly();
    check_equal("TPR holds its own class back", count, 0);
    apic_send_self(HIGH);
    open_briefly();
    check_equal("and lets a higher one through", count, 1);
    EMIT("sti");
    write_cr8(4);
    EMIT("nop\n cli");
    check_equal("lowering CR8 lets it through", count, 2);
    write_cr8(0);
    count = 0;
    handlers[HIGH] = record_and_open;
    apic_send_self(HIGH);
    apic_send_self(LOW);
    open_briefly();
    open_briefly();
    check_equal("a lower one waits for EOI though IF is set", order[0] << 8 | order[1], HIGH << 8 | LOW);
    count = 0;
    handlers[LOW] = record_and_open;
    handlers[HIGH] = record;
    apic_send_self(LOW);
    apic_send_self(LOW);
    open_briefly();
    open_briefly();
    check_equal("twice the same while it is pending is once", count, 1);
}

static void one_shot(void)
{
    handlers[LOW] = record;
    count = 0;
    apic_timer(APIC_ONE_SHOT, LOW, 1000000);
    u32 before = apic_read(APIC_CURRENT_COUNT), after = apic_read(APIC_CURRENT_COUNT);
    check("it counts down", before >= after && before <= 1000000);
    while (apic_read(APIC_CURRENT_COUNT))
        EMIT("pause");
    wait_for(1);
    check_equal("one-shot: one interrupt at 0", count, 1);
    open_briefly();
    check_equal("and no other", count, 1);
    apic_timer(APIC_ONE_SHOT, LOW, 10000000);
    apic_write(APIC_INITIAL_COUNT, 0);
    check_equal("an initial count of 0 stops it", apic_read(APIC_CURRENT_COUNT), 0);
    apic_timer(APIC_ONE_SHOT | APIC_MASKED, LOW, 1000);
    while (apic_read(APIC_CURRENT_COUNT))
        EMIT("pause");
    open_briefly();
    check_equal("masked, it is silent", count, 1);
}

static void periodic(void)
{
    count = 0;
    apic_timer(APIC_PERIODIC, LOW, 200000);
    while (count < 5)
        EMIT("sti\n hlt\n cli" : : : "memory");
    apic_write(APIC_INITIAL_COUNT, 0);
    check_equal("periodic: it goes on", order[4], LOW);
}

static void deadline(void)
{
    if (!(cpuid(1, 0).c >> 24 & 1)) {
        skip("TSC deadline timer");
        return;
    }
    apic_write(APIC_TIMER, APIC_DEADLINE | LOW);
    /* The periodic timer's last interrupt may still wait. */
    open_briefly();
    count = 0;
    u64 due = rdtsc() + 1000000;
    wrmsr(MSR_TSC_DEADLINE, due);
    check_equal("the deadline is read back", rdmsr(MSR_TSC_DEADLINE), due);
    static volatile u64 came;
    while (!count) {
        EMIT("sti\n nop\n cli" : : : "memory");
        came = rdtsc();
    }
    check("the deadline is not missed by being early", came >= due);
    check_equal("it disarms itself", rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(MSR_TSC_DEADLINE, 1);
    open_briefly();
    check_equal("a deadline in the past comes at once", count, 2);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000);
    wrmsr(MSR_TSC_DEADLINE, 0);
    check_equal("0 disarms", rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 2000000);
    while (count < 3)
        EMIT("sti\n hlt\n cli" : : : "memory");
    check_equal("it wakes HLT", count, 3);
    apic_write(APIC_TIMER, APIC_ONE_SHOT | LOW);
    wrmsr(MSR_TSC_DEADLINE, rdtsc());
    check_equal("in another mode the MSR is 0", rdmsr(MSR_TSC_DEADLINE), 0);
}

static void x2apic(void)
{
    if (!(cpuid(1, 0).c >> 21 & 1)) {
        skip("x2APIC");
        return;
    }
    FAULTS("x2APIC registers before it is on", GP, 0, (void)rdmsr(MSR_X2APIC + 2));
    u64 base = rdmsr(MSR_APIC_BASE);
    wrmsr(MSR_APIC_BASE, base | 0x400);
    check_equal("x2APIC: the ID", rdmsr(MSR_X2APIC + 2), cpuid(0xb, 0).d);
    count = 0;
    wrmsr(MSR_X2APIC + 0x3f, LOW);
    handlers[LOW] = NULL;
    FAULTS("x2APIC: SELF IPI", LOW, 0, EMIT("sti\n nop\n nop"));
    wrmsr(MSR_X2APIC + 0xb, 0);
    wrmsr(MSR_X2APIC + 0x30, (rdmsr(MSR_X2APIC + 2) << 32) | MIDDLE);
    handlers[MIDDLE] = NULL;
    FAULTS("x2APIC: ICR in one write", MIDDLE, 0, EMIT("sti\n nop\n nop"));
    wrmsr(MSR_X2APIC + 0xb, 0);
    FAULTS("x2APIC: EOI takes 0 only", GP, 0, wrmsr(MSR_X2APIC + 0xb, 1));
    FAULTS("x2APIC: no register there", GP, 0, (void)rdmsr(MSR_X2APIC + 0x31));
    FAULTS("x2APIC: the ID is read-only", GP, 0, wrmsr(MSR_X2APIC + 2, 1));
    FAULTS("x2APIC: not straight back to xAPIC", GP, 0, wrmsr(MSR_APIC_BASE, base));
    wrmsr(MSR_APIC_BASE, base & ~0x800ull);
    check("CPUID's APIC bit follows the switch", !(cpuid(1, 0).d >> 9 & 1));
    wrmsr(MSR_APIC_BASE, base);
    check_equal("back in xAPIC mode", apic_read(APIC_VERSION) & 0xf0, 0x10);
}

void run(void)
{
    apic_enable();
    registers();
    priorities();
    one_shot();
    periodic();
    deadline();
    x2apic();
}
