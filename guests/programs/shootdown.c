/*
 * TLB shootdown: when a processor has invalidated a translation it was asked to, it uses it no longer; page-table
 * entries that several processors change keep every change, accessed and dirty bits too (SDM vol. 3, 4.8, 4.10.4).
 */
#include "processors.h"

enum { SHOOT = 0x62, COUNT = 3, ROUNDS = 40, IGNORED = 9 };
#define WHERE TEST_AREA

static volatile u64 *entry;
static u8 *frames[2];
static volatile u32 acknowledged, faults[COUNT], wrong;
static volatile bool stop;

static void on_shoot(struct frame *frame)
{
    (void)frame;
    invlpg(WHERE);
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    apic_end_of_interrupt();
}

/* Have every processor forget the page. */
static void shoot(void)
{
    u32 before = acknowledged;
    invlpg(WHERE);
    apic_write(APIC_ICR, APIC_ASSERT | 3 << 18 | SHOOT);
    while (acknowledged != before + COUNT - 1)
        pause();
}

/* The access is three bytes long. */
static void on_page_fault(struct frame *frame)
{
    faults[apic_read(APIC_ID) >> 24]++;
    frame->ip += 3;
}

static void touch(unsigned processor)
{
    EMIT("sti");
    while (!stop)
        EMIT(".byte 0x48, 0xff, 0x00 # inc qword ptr [rax]" : : "a"(WHERE + processor * 64) : "memory", "cc");
    EMIT("cli");
}

static u64 sum(const u8 *frame)
{
    u64 total = 0;
    for (unsigned processor = 1; processor < COUNT; processor++)
        total += *(volatile u64 *)(frame + processor * 64);
    return total;
}

static void unmapped(void)
{
    u32 unchanged = 0, noticed = 0, dirty = 0;
    for (u32 round = 0; round < ROUNDS; round++) {
        u8 *frame = frames[round & 1];
        u64 start = sum(frame);
        *entry = (u64)frame | P | W;
        while (sum(frame) == start)
            pause();
        u64 old = __atomic_exchange_n(entry, 0, __ATOMIC_SEQ_CST);
        dirty += (old & (A | D)) == (A | D);
        shoot();
        u64 after = sum(frame);
        u32 seen[COUNT] = {0, faults[1], faults[2]};
        while (faults[1] == seen[1] || faults[2] == seen[2])
            pause();
        noticed++;
        unchanged += sum(frame) == after;
    }
    check_equal("no write arrives after the shootdown", unchanged, ROUNDS);
    check_equal("every processor faults", noticed, ROUNDS);
    check_equal("what was written is marked as accessed and dirty", dirty, ROUNDS);
}

static void read_only(void)
{
    u32 unchanged = 0;
    for (u32 round = 0; round < ROUNDS; round++) {
        u8 *frame = frames[0];
        u64 start = sum(frame);
        *entry = (u64)frame | P | W;
        shoot();
        while (sum(frame) == start)
            pause();
        __atomic_and_fetch(entry, ~W, __ATOMIC_SEQ_CST);
        shoot();
        u64 after = sum(frame);
        u32 seen = faults[1];
        while (faults[1] == seen)
            pause();
        unchanged += sum(frame) == after;
    }
    check_equal("the same with a page made read-only", unchanged, ROUNDS);
}

/* One flips an ignored bit, the others make the processor set A and D. */
static void count_in_entry(unsigned processor)
{
    for (u32 round = 0; round < 2000; round++) {
        if (processor == 0) {
            u64 old = __atomic_fetch_xor(entry, 1 << IGNORED, __ATOMIC_SEQ_CST);
            wrong += (old >> IGNORED & 1) != (round & 1);
            __atomic_and_fetch(entry, ~(A | D), __ATOMIC_SEQ_CST);
        } else {
            invlpg(WHERE);
            write8(WHERE + processor, round);
            if (processor == 1)
                (void)read8(WHERE + 5);
        }
    }
}

static void entry_is_shared(void)
{
    *entry = (u64)frames[0] | P | W;
    wrong = 0;
    together(COUNT, count_in_entry);
    check_equal("A and D are set without losing other changes", wrong, 0);
    check_equal("nor is the address", *entry & ~(A | D), (u64)frames[0] | P | W);
}

void run(void)
{
    handlers[SHOOT] = on_shoot;
    handlers[PF] = on_page_fault;
    frames[0] = new_pages(1);
    frames[1] = new_pages(1);
    entry = map(WHERE, (u64)frames[0], 0);
    *entry = 0;
    start_processors(COUNT);
    for (unsigned processor = 1; processor < COUNT; processor++)
        begin_work(processor, touch);
    unmapped();
    read_only();
    stop = true;
    for (unsigned processor = 1; processor < COUNT; processor++)
        wait_for_processor(processor);
    entry_is_shared();
}
