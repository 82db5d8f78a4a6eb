/*
 * Another processor changes what a hot loop at CPL 3 goes through: after a shootdown the old frame is written no more and
 * refused accesses fault; what becomes code elsewhere can still be written here (SDM vol. 3, 4.10.5, 8.1.3).
 */
#include "scattered.h"

#include "processors.h"

enum { COUNT = 70, TURNS = 30, SHOOT = 0x62, OTHER_TASK = FREE };
#define ARRAY (TEST_AREA + (3ul << 30) - 40 * PAGE)
#define ALIAS (TEST_AREA + (4ul << 30))
/* MOV EAX, imm32; RET. */
#define CODE(value) (0xb8ull | (u64)(u32)(value) << 8 | 0xc3ull << 40)

static _Alignas(PAGE) u8 frames[(COUNT + 1) * PAGE];
static _Alignas(PAGE) struct task_state other_task;
static unsigned frame_at[COUNT], spare;
static volatile u32 acknowledged, rounds, faults;
static volatile u64 shot, fault_address, fault_error, order, done;
static volatile bool stop, repaired;

static u8 *frame(unsigned number) { return frames + number * PAGE; }
static volatile u64 *entry(unsigned page) { return entry_of(ARRAY + page * PAGE, 1); }

static void on_shoot(struct frame *frame)
{
    (void)frame;
    invlpg(shot);
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    apic_end_of_interrupt();
}

/* Have the other processor forget a page. */
static void shoot(unsigned page)
{
    u32 before = acknowledged;
    shot = ARRAY + page * PAGE;
    invlpg(shot);
    send_ipi(1, APIC_ASSERT | SHOOT);
    while (acknowledged == before)
        pause();
}

static void on_page_fault(struct frame *frame)
{
    fault_address = read_cr2();
    fault_error = frame->error;
    repaired = false;
    __atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST);
    while (!repaired)
        pause();
}

/* The other processor can leave CPL 3 for interrupts, to a stack of its own. */
static void prepare_other(unsigned processor)
{
    (void)processor;
    other_task.rsp[0] = (u64)new_pages(2) + 2 * PAGE;
    other_task.io_map = sizeof other_task;
    set_system_descriptor(OTHER_TASK, (word)&other_task, sizeof other_task - 1, TASK_AVAILABLE);
    asm volatile("ltr %0" : : "r"((u16)OTHER_TASK));
}

static void add_for_ever(unsigned processor)
{
    (void)processor;
    EMIT("sti");
    RING_3(while (!stop) {
        add_to_all(ARRAY, COUNT, 1, 1);
        rounds++;
    });
    EMIT("cli");
}

static void wait_for_rounds(u32 count)
{
    u32 before = rounds;
    while (rounds - before < count)
        pause();
}

static u64 sum(unsigned number)
{
    u64 total = 0;
    for (unsigned word = 0; word < WORDS_A_PAGE; word++)
        total += *(volatile u64 *)(frame(number) + word * STRIDE);
    return total;
}

static void moved(void)
{
    bool still = true, goes_on = true;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        unsigned page = turn * 13 % COUNT, old = frame_at[page];
        wait_for_rounds(20);
        *entry(page) = (u64)frame(spare) | P | W | U;
        shoot(page);
        u64 before = sum(old), before_here = sum(spare);
        wait_for_rounds(3);
        still &= sum(old) == before;
        goes_on &= sum(spare) > before_here;
        frame_at[page] = spare, spare = old;
    }
    check("after a shootdown nothing is written to the old frame", still);
    check("but to the new one", goes_on);
}

static void refused(const char *name, u64 rights, u64 error)
{
    bool still = true, told = true;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        unsigned page = turn * 17 % COUNT;
        wait_for_rounds(20);
        u32 before = faults;
        u64 old = __atomic_exchange_n(entry(page), (u64)frame(frame_at[page]) | rights, __ATOMIC_SEQ_CST);
        shoot(page);
        u64 after = sum(frame_at[page]);
        while (faults == before)
            pause();
        /* The shootdown may come between a read and the write of what was read. */
        told &= fault_error == error || fault_error == (error | PF_W);
        told &= fault_address - ARRAY - page * PAGE < PAGE && (old & (A | D)) == (A | D);
        still &= sum(frame_at[page]) == after;
        *entry(page) = (u64)frame(frame_at[page]) | P | W | U;
        repaired = true;
    }
    print("ok ---- ");
    print(name);
    print("\n");
    check("no write arrives after the shootdown", still);
    check("the fault has its address and error code", told);
}

/* Write what the first processor then calls, again and again. */
static void write_code(unsigned processor)
{
    (void)processor;
    RING_3(for (u64 seen = 0; seen < TURNS;) {
        write_all(ARRAY, COUNT, 10, CODE(seen + 1));
        done = ++seen;
        while (order != seen)
            pause();
    });
}

static void becomes_code(void)
{
    bool right = true;
    for (unsigned page = 0; page < COUNT; page++)
        map(ALIAS + page * PAGE, (u64)frame(frame_at[page]), P | W | U);
    begin_work(1, write_code);
    for (u64 turn = 1; turn <= TURNS; turn++) {
        while (done != turn)
            pause();
        serialize();
        u64 total = 0;
        for (unsigned page = 0; page < COUNT; page++)
            total += ((u32(*)(void))(ALIAS + page * PAGE + turn % WORDS_A_PAGE * STRIDE))();
        right &= total == turn * COUNT;
        order = turn;
    }
    wait_for_processor(1);
    check("what another processor executes is what was written last", right);
}

void run(void)
{
    handlers[SHOOT] = on_shoot;
    handlers[PF] = on_page_fault;
    lay_out(ARRAY, frames, COUNT, SHUFFLED, P | W | U);
    for (unsigned page = 0; page < COUNT; page++)
        frame_at[page] = place_of(SHUFFLED, page, COUNT);
    spare = COUNT;
    start_processors(2);
    begin_work(1, prepare_other);
    wait_for_processor(1);
    begin_work(1, add_for_ever);
    moved();
    refused("not present", 0, PF_U);
    refused("read-only", P | U, PF_P | PF_W | PF_U);
    refused("supervisor only", P | W, PF_P | PF_U);
    stop = true;
    wait_for_processor(1);
    becomes_code();
}
