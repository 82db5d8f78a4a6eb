/*
 * What KVM offers its guests: the clock, stolen time, ends of interrupts without a write, hypercalls (Linux,
 * Documentation/virt/kvm/x86: cpuid.rst, msr.rst, hypercalls.rst).
 */
#include "apic.h"

enum { LOW = 0x41, HIGH = 0x92, OUR_ID = 0 };
enum feature {
    CLOCK_OLD = 1 << 0, NO_IO_DELAY = 1 << 1, CLOCK = 1 << 3, STEAL = 1 << 5, END = 1 << 6, UNHALT = 1 << 7,
    TLB_FLUSH = 1 << 9, SEND_IPI = 1 << 11, STABLE = 1 << 24,
};
enum { WALL_CLOCK_OLD = 0x11, SYSTEM_TIME_OLD = 0x12 };
#define WALL_CLOCK 0x4b564d00u
#define SYSTEM_TIME 0x4b564d01u
#define STEAL_TIME 0x4b564d03u
#define END_OF_INTERRUPT 0x4b564d04u

static volatile struct {
    u32 version, pad;
    u64 tsc, time;
    u32 multiplier;
    signed char shift;
    u8 flags, pad_2[2];
} now __attribute__((aligned(64)));

static volatile struct {
    u32 version, seconds, nanoseconds;
} wall __attribute__((aligned(64)));

static volatile struct {
    u64 steal;
    u32 version, flags;
    u8 preempted, pad[47];
} steal __attribute__((aligned(64)));

static volatile u32 end_word __attribute__((aligned(64))), other_word __attribute__((aligned(64)));

static u64 nanoseconds(void)
{
    u64 ticks = rdtsc() - now.tsc;
    ticks = now.shift < 0 ? ticks >> -now.shift : ticks << now.shift;
    return now.time + (u64)((unsigned __int128)ticks * now.multiplier >> 32);
}

static void the_clock(void)
{
    wrmsr(SYSTEM_TIME, (u64)&now | 1);
    check_equal("the register is read back", rdmsr(SYSTEM_TIME), (u64)&now | 1);
    check("there is a version, and it is even", now.version && !(now.version & 1));
    check_equal("all processors' times agree", now.flags & 1, 1);
    u64 one = nanoseconds();
    u64 start = rdtsc();
    while (rdtsc() - start < 1000000)
        EMIT("pause");
    u64 other = nanoseconds();
    check("time passes as the counter counts", other - one >= 1000000 && other - one < 1000000000);
    wrmsr(MSR_TSC, 12345);
    u64 moved = nanoseconds();
    check("moving the counter does not move time", moved >= other && moved - other < 1000000000);
    wrmsr(MSR_TSC_ADJUST, 0);
    moved = nanoseconds();
    check("nor does TSC_ADJUST", moved >= other && moved - other < 1000000000);
    u32 version = now.version;
    wrmsr(SYSTEM_TIME, 0);
    wrmsr(MSR_TSC, 12345);
    check_equal("off, nothing is written", now.version, version);
    WORKS("an address without memory is the guest's own affair", wrmsr(SYSTEM_TIME, 0xf00000000000 | 1));
    wrmsr(SYSTEM_TIME_OLD, (u64)&now | 1);
    check("the older number does the same", now.version != version && rdmsr(SYSTEM_TIME) == ((u64)&now | 1));
    wrmsr(WALL_CLOCK, (u64)&wall);
    check("the machine was made after 2025", wall.seconds >= 1767225600 && wall.nanoseconds < 1000000000);
    check("version of the wall clock", wall.version && !(wall.version & 1));
    u32 seconds = wall.seconds;
    wall.seconds = 0;
    wrmsr(WALL_CLOCK_OLD, (u64)&wall);
    check_equal("it is the time of making, whenever it is asked", wall.seconds, seconds);
}

static unsigned easy, written;

/* As Linux does it: the bit is there, and clearing it ends the interrupt; or it is not. */
static void end(struct frame *frame)
{
    (void)frame;
    bool was_set;
    asm volatile("btr %1, 0" : "=@ccc"(was_set), "+m"(end_word) : : "memory");
    if (was_set) {
        easy++;
    } else {
        written++;
        apic_end_of_interrupt();
    }
}

static void end_by_writing(struct frame *frame)
{
    (void)frame;
    apic_end_of_interrupt();
}

static u32 in_service(void)
{
    u32 all = 0;
    for (u32 at = 0; at < 8; at++)
        all |= apic_read(APIC_ISR + 0x10 * at);
    return all;
}

static void open_briefly(void) { EMIT("sti\n nop\n nop\n nop\n cli" : : : "memory"); }

static void ends_of_interrupts(void)
{
    apic_enable();
    handlers[LOW] = handlers[HIGH] = end;
    FAULTS("bit 1 is reserved", GP, 0, wrmsr(END_OF_INTERRUPT, (u64)&end_word | 3));
    wrmsr(END_OF_INTERRUPT, (u64)&end_word | 1);
    for (int i = 0; i < 3; i++) {
        apic_send_self(LOW);
        open_briefly();
    }
    check_equal("three interrupts ended by clearing a bit", easy << 8 | written, 3 << 8);
    check_equal("and none is in service", in_service(), 0);
    easy = 0;
    apic_send_self(LOW);
    apic_send_self(HIGH);
    open_briefly();
    open_briefly();
    check_equal("with another behind it, an end must be written", easy << 8 | written, 1 << 8 | 1);
    apic_timer(APIC_PERIODIC, LOW, 100000);
    easy = 0;
    while (easy < 5)
        EMIT("sti\n hlt\n cli" : : : "memory");
    apic_write(APIC_INITIAL_COUNT, 0);
    /* Two may come at once if the host was late. */
    check("a timer comes again after each", easy >= 5);
    open_briefly();
    handlers[LOW] = end_by_writing;
    apic_send_self(LOW);
    open_briefly();
    check_equal("writing is not forbidden", in_service() << 1 | end_word, 0);
    handlers[LOW] = end;
    for (int on = 1; on >= 0; on--) {
        easy = written = 0;
        apic_send_self(LOW);
        open_briefly();
        wrmsr(END_OF_INTERRUPT, on ? (u64)&other_word | 1 : 0);
        apic_send_self(LOW);
        open_briefly();
        /* The second is written either way: it is not told by the word that `end` looks at. */
        check_equal("what ended by clearing is over when the register changes", easy << 8 | written, 1 << 8 | 1);
        wrmsr(END_OF_INTERRUPT, (u64)&end_word | 1);
    }
    wrmsr(END_OF_INTERRUPT, 0);
}

static void stolen_time(void)
{
    FAULTS("bits 1 to 5 are reserved", GP, 0, wrmsr(STEAL_TIME, (u64)&steal | 3));
    steal.preempted = 1;
    wrmsr(STEAL_TIME, (u64)&steal | 1);
    check("there is a version, and it is even: steal", steal.version && !(steal.version & 1));
    check_equal("who runs is not preempted", steal.preempted, 0);
    u64 before = steal.steal;
    u64 start = rdtsc();
    while (rdtsc() - start < 20000000)
        EMIT("pause");
    check("stolen time only grows, and not beyond time", steal.steal >= before && steal.steal - before < 60000000000);
    wrmsr(STEAL_TIME, 0);
    check_equal("steal: read back", rdmsr(STEAL_TIME), 0);
}

static word call(word number, word a, word b, word c, word d)
{
    word result = number;
    asm volatile("vmcall" : "+a"(result) : "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return result;
}

static volatile unsigned came;
static void count(struct frame *frame)
{
    (void)frame;
    came++;
    apic_end_of_interrupt();
}

static void hypercalls(void)
{
    word result = 1;
    check_equal("VMCALL", call(1, 0, 0, 0, 0), 0);
    asm volatile("vmmcall" : "+a"(result));
    check_equal("VMMCALL is the same", result, 0);
    check_equal("no such call", call(4711, 0, 0, 0, 0), -1000ul);
    word denied = 0;
    RING_3(denied = call(1, 0, 0, 0, 0));
    check_equal("not from CPL 3", denied, -1ul);
    handlers[LOW] = count;
    check_equal("an IPI to ourselves is accepted", call(10, 1, 0, OUR_ID, LOW), 1);
    open_briefly();
    check_equal("and comes", came, 1);
    check_equal("nobody else is there", call(10, 6, 1, OUR_ID, LOW), 0);
    check_equal("nor further up", call(10, 1, 0, 0xffffffff, LOW), 0);
    call(5, 0, OUR_ID, 0, 0);
    EMIT("cli\n hlt");
    check("who was woken before does not wait in HLT", true);
    WORKS("waking a processor that is not there", call(5, 0, 77, 0, 0));
}

void run(void)
{
    check_equal("there is a hypervisor", cpuid(1, 0).c >> 31, 1);
    struct cpuid leaf = cpuid(0x40000000, 0);
    if (leaf.b != 0x4b4d564b || leaf.c != 0x564b4d56 || leaf.d != 0x4d) {
        skip("KVM");
        return;
    }
    leaf = cpuid(0x40000001, 0);
    u32 all = CLOCK_OLD | NO_IO_DELAY | CLOCK | STEAL | END | UNHALT | TLB_FLUSH | SEND_IPI | STABLE;
    check_equal("what is offered", leaf.a, all);
    check_equal("no hints", leaf.d, 0);
    the_clock();
    ends_of_interrupts();
    stolen_time();
    hypercalls();
}
