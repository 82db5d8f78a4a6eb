/*
 * Starting processors and interrupting them: INIT and start-up IPIs in every state, IPIs to one, to all, to the
 * others, to a logical destination, NMIs, waking from HLT (SDM vol. 3, 8.4, 10.6).
 */
#include "processors.h"

enum { PING = 0x51, PONG = 0x52, COUNTED = 0x53, LOWEST = 0x54, TURNS = 200 };

static volatile u32 pings, pongs, counted[PROCESSORS], nmis, identities;

/* Wait, not for ever; whether it came. */
#define WAIT(condition)                                                                                            \
    ({                                                                                                             \
        u64 start = rdtsc();                                                                                       \
        while (!(condition) && rdtsc() - start < 10000000000)                                                      \
            pause();                                                                                               \
        condition;                                                                                                 \
    })

static void on_ping(struct frame *frame)
{
    (void)frame;
    pings++;
    apic_end_of_interrupt();
    send_ipi(0, PONG);
}

static void on_pong(struct frame *frame)
{
    (void)frame;
    pongs++;
    apic_end_of_interrupt();
}

static void on_counted(struct frame *frame)
{
    (void)frame;
    counted[apic_read(APIC_ID) >> 24]++;
    apic_end_of_interrupt();
}

static void on_nmi(struct frame *frame)
{
    (void)frame;
    nmis++;
}

static void identify(unsigned processor)
{
    bool same = apic_read(APIC_ID) >> 24 == processor && cpuid(0xb, 0).d == processor;
    if (same && !(rdmsr(MSR_APIC_BASE) & 0x100) == (processor != 0))
        __atomic_fetch_or(&identities, 1u << processor, __ATOMIC_SEQ_CST);
}

static void answer_pings_asleep(unsigned processor)
{
    (void)processor;
    while (pings < TURNS)
        EMIT("sti\n hlt\n cli" : : : "memory");
}

static void answer_pings_awake(unsigned processor)
{
    (void)processor;
    EMIT("sti");
    while (pings < TURNS)
        pause();
    EMIT("cli");
}

static void ping_pong(const char *name, work *partner)
{
    pings = pongs = 0;
    begin_work(1, partner);
    u32 turn = 0;
    while (turn < TURNS && WAIT(pongs == turn)) {
        send_ipi(1, PING);
        turn++;
        /* STI's shadow lets no answer slip in before HLT. */
        while (pongs < turn)
            EMIT("sti\n hlt\n cli" : : : "memory");
    }
    wait_for_processor(1);
    check_equal(name, pongs, TURNS);
}

static volatile bool listening;

static void listen(unsigned processor)
{
    (void)processor;
    EMIT("sti");
    while (listening)
        pause();
    EMIT("cli");
}

static u32 total(void)
{
    u32 sum = 0;
    for (unsigned processor = 0; processor < PROCESSORS; processor++)
        sum += counted[processor];
    return sum;
}

static void destinations(void)
{
    listening = true;
    for (unsigned processor = 1; processor < PROCESSORS; processor++)
        begin_work(processor, listen);
    apic_write(APIC_ICR, APIC_ASSERT | 3 << 18 | COUNTED);
    check("all but the sender", WAIT(total() == PROCESSORS - 1) && counted[0] == 0);
    apic_write(APIC_ICR, APIC_ASSERT | 2 << 18 | COUNTED);
    EMIT("sti\n nop\n cli");
    check("all with the sender", WAIT(total() == 2 * PROCESSORS - 1) && counted[0] == 1);
    send_ipi(0xff, COUNTED);
    EMIT("sti\n nop\n cli");
    check("the physical broadcast", WAIT(total() == 3 * PROCESSORS - 1) && counted[0] == 2);
    u32 before = counted[5];
    for (u32 sent = 1; sent <= TURNS; sent++) {
        send_ipi(5, COUNTED);
        if (!WAIT(counted[5] == before + sent))
            break;
    }
    check_equal("one after the other to one that spins", counted[5] - before, TURNS);
    listening = false;
    for (unsigned processor = 1; processor < PROCESSORS; processor++)
        wait_for_processor(processor);
}

static void be_logical(unsigned processor)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 1u << (24 + processor));
}

static void logical_destinations(void)
{
    together(PROCESSORS, be_logical);
    memset((void *)counted, 0, sizeof counted);
    listening = true;
    for (unsigned processor = 1; processor < PROCESSORS; processor++)
        begin_work(processor, listen);
    send_ipi(1 << 2 | 1 << 4 | 1 << 6, 1 << 11 | COUNTED);
    check("a set of processors", WAIT(total() == 3) && counted[2] && counted[4] && counted[6]);
    for (unsigned turn = 0; turn < 50; turn++) {
        send_ipi(1 << 1 | 1 << 3, 1 << 11 | 1 << 8 | COUNTED);
        if (!WAIT(total() == 4 + turn))
            break;
    }
    check_equal("lowest priority: one of a set each time", counted[1] + counted[3], 50);
    listening = false;
    for (unsigned processor = 1; processor < PROCESSORS; processor++)
        wait_for_processor(processor);
}

static volatile bool halted;

/* Only an NMI ends this. */
static void halt_deaf(unsigned processor)
{
    (void)processor;
    halted = true;
    EMIT("cli\n hlt" : : : "memory");
    halted = false;
}

/* Nothing but INIT ends this. */
static void halt_for_ever(unsigned processor)
{
    (void)processor;
    halted = true;
    for (;;)
        EMIT("cli\n hlt" : : : "memory");
}

static void spin_for_ever(unsigned processor)
{
    (void)processor;
    halted = true;
    for (;;)
        ;
}

static void non_maskable(void)
{
    begin_work(2, halt_deaf);
    check("a processor halts", WAIT(halted));
    send_ipi(2, COUNTED);
    send_ipi(2, APIC_NMI);
    check("an NMI wakes it", WAIT(!halted) && nmis == 1);
    wait_for_processor(2);
    listening = true;
    begin_work(2, listen);
    for (u32 sent = 2; sent <= TURNS; sent++) {
        send_ipi(2, APIC_NMI);
        if (!WAIT(nmis == sent))
            break;
    }
    check_equal("NMIs to one that spins", nmis, TURNS);
    listening = false;
    wait_for_processor(2);
}

static void start_again(const char *name, work *state)
{
    halted = false;
    begin_work(3, state);
    (void)WAIT(halted);
    send_ipi(3, APIC_START_UP | TRAMPOLINE / PAGE);
    u32 before = processors_started;
    send_ipi(3, APIC_INIT);
    begin_work(3, NULL);
    send_ipi(3, APIC_START_UP | TRAMPOLINE / PAGE);
    check(name, WAIT(processors_started == before + 1));
    identities = 0;
    begin_work(3, identify);
    wait_for_processor(3);
    check_equal("it works again", identities, 1 << 3);
}

void run(void)
{
    handlers[PING] = on_ping;
    handlers[PONG] = on_pong;
    handlers[COUNTED] = on_counted;
    handlers[NMI] = on_nmi;
    start_processors(PROCESSORS);
    check_equal("each starts once", processors_started, PROCESSORS);
    together(PROCESSORS, identify);
    check_equal("each knows its number", identities, 0xff);
    ping_pong("interrupts between two that halt", answer_pings_asleep);
    ping_pong("and with one that spins", answer_pings_awake);
    destinations();
    logical_destinations();
    non_maskable();
    start_again("INIT and start-up of one that spins", spin_for_ever);
    start_again("of one that is halted for good", halt_for_ever);
}
