/*
 * Rights that change in the middle of pages that hot loops at CPL 3 go through: the access that is not allowed any more
 * faults, with its address and error code, after all before it and none behind it; A and D are set by what was done and by
 * nothing else (SDM vol. 3, 4.6 to 4.8, 4.10.4.3).
 */
#include "scattered.h"

enum { COUNT = 70, ROUNDS = 10, FIRST_ROUNDS = 60, MIDDLE = 37 };
#define ARRAY (TEST_AREA + (2ul << 30) - 33 * PAGE)
#define RIGHTS (P | W | U)

static _Alignas(PAGE) u8 frames[COUNT * PAGE], copies[COUNT * PAGE];
static u64 value[COUNT];

static u8 *frame(unsigned page) { return frames + place_of(SHUFFLED, page, COUNT) * PAGE; }
static u64 address(unsigned page) { return ARRAY + page * PAGE; }
static volatile u64 *entry(unsigned page) { return entry_of(address(page), 1); }

static void add(unsigned rounds)
{
    RING_3(add_to_all(ARRAY, COUNT, rounds, 1));
    for (unsigned page = 0; page < COUNT; page++)
        value[page] += rounds;
}

static void read(unsigned rounds)
{
    RING_3((void)read_all(ARRAY, COUNT, rounds));
}

static bool all_written(void)
{
    bool right = true;
    for (unsigned page = 0; page < COUNT; page++)
        right &= frame_is(frame(page), value[page], 0);
    return right;
}

/* Both loops are hot, and then the page in the middle has other rights. */
static void with_rights(u64 rights)
{
    add(ROUNDS);
    read(ROUNDS);
    *entry(MIDDLE) = (u64)frame(MIDDLE) | rights;
    invlpg(address(MIDDLE));
}

static void back(void)
{
    *entry(MIDDLE) = (u64)frame(MIDDLE) | RIGHTS;
    invlpg(address(MIDDLE));
}

static void check_place(const char *name)
{
    check_equal("its address", caught.cr2, address(MIDDLE));
    for (unsigned page = 0; page < MIDDLE; page++)
        value[page]++;
    check(name, all_written());
}

/* `addition` is the error code of what reads first and then writes, `write` that of a write. */
static void refused(const char *name, u64 rights, u64 addition, u64 write)
{
    print("ok ---- ");
    print(name);
    print("\n");
    with_rights(rights);
    FAULTS("reads with writes", PF, addition, RING_3(add_to_all(ARRAY, COUNT, 1, 1)));
    check_place("all before is done, nothing from there on");
    FAULTS("writes", PF, write, RING_3(write_all(address(MIDDLE - 1), 3, 1, value[MIDDLE - 1])));
    check("write nothing there", all_written() && caught.cr2 == address(MIDDLE));
    if (addition & PF_W) {
        WORKS("reads", read(3));
    } else {
        FAULTS("reads", PF, addition, read(1));
        check_equal("their address", caught.cr2, address(MIDDLE));
    }
    back();
    WORKS("with all rights again", add(1); read(1));
    check("all is as it should be", all_written());
}

static void refusals(void)
{
    refused("supervisor only", P | W, PF_P | PF_U, PF_P | PF_U | PF_W);
    refused("read-only", P | U, PF_P | PF_U | PF_W, PF_P | PF_U | PF_W);
    refused("not present", 0, PF_U, PF_U | PF_W);
    with_rights(P | W | U | NX);
    WORKS("no execution: reads and writes", add(1); read(1));
    check("are right", all_written());
    back();
}

/* An upper level takes the rights of all. */
static void refused_above(void)
{
    volatile u64 *upper = entry_of(ARRAY, 3);
    add(ROUNDS);
    *upper &= ~W;
    write_cr3(read_cr3());
    FAULTS("a write under a read-only entry above", PF, PF_P | PF_W | PF_U,
           RING_3(write_all(ARRAY, COUNT, 1, 1)));
    check_equal("is the first", caught.cr2, ARRAY);
    *upper = (*upper | W) & ~U;
    invlpg(ARRAY), invlpg(address(1));
    write_cr3(read_cr3());
    FAULTS("a read under a supervisor's entry above", PF, PF_P | PF_U, read(1));
    *upper |= U;
    check("nothing was written", all_written());
}

__attribute__((noinline)) static u64 cross(u64 at, bool write)
{
    if (write)
        write64(at, 1);
    return read64(at);
}

/* An access that reaches from the last good page into one that is none. */
static void across(void)
{
    u64 at = address(MIDDLE) - 4, values = 0;
    RING_3(for (unsigned turn = 0; turn < 30000; turn++) values += cross(at, false));
    with_rights(0);
    FAULTS("a read into a page that is gone", PF, PF_U, RING_3(values += cross(at, false)));
    check_equal("its address is that page's", caught.cr2, address(MIDDLE));
    FAULTS("a write into it", PF, PF_U | PF_W, RING_3(values += cross(at, true)));
    check("which writes nothing", all_written());
    back();
}

enum { TOUCHED = A, WRITTEN = A | D };

static void clear_marks(void)
{
    for (unsigned page = 0; page < COUNT; page++)
        *entry(page) &= ~(A | D);
    write_cr3(read_cr3());
}

/* Every third page has marks, others have none. */
static bool marks_are(u64 of_third, u64 of_others)
{
    bool right = true;
    for (unsigned page = 0; page < COUNT; page++)
        right &= (*entry(page) & (A | D)) == (page % 3 ? of_others : of_third);
    return right;
}

/* Read or add to every third page; write to what is negative, which nothing is. */
__attribute__((noinline)) static u64 every_third(unsigned rounds, bool write, u64 also)
{
    u64 sum = 0;
    for (; rounds; rounds--)
        for (u64 at = ARRAY; at < ARRAY + COUNT * PAGE; at += at % PAGE == PAGE - STRIDE ? 2 * PAGE + STRIDE : STRIDE) {
            sum += read64(at) + read64(at + also);
            if (write)
                ++*(volatile u64 *)at;
            else if ((int64_t)read64(at) < 0)
                write64(at + also, 0);
        }
    return sum;
}

static void marks(void)
{
    u64 sum;
    add(ROUNDS);
    clear_marks();
    RING_3(sum = every_third(FIRST_ROUNDS, false, 8));
    check("reads set A of what is read and no D", marks_are(TOUCHED, 0));
    RING_3(sum += every_third(FIRST_ROUNDS, true, 8));
    check("writes set D of what is written", marks_are(WRITTEN, 0));
    for (unsigned page = 0; page < COUNT; page += 3)
        value[page] += FIRST_ROUNDS;
    clear_marks();
    read(ROUNDS);
    check("reads of all set A", marks_are(TOUCHED, TOUCHED));
    RING_3(sum += every_third(1, true, 8));
    check("D again, once", marks_are(WRITTEN, TOUCHED));
    for (unsigned page = 0; page < COUNT; page += 3)
        value[page]++;
    *entry(3) &= ~(A | D), *entry(4) &= ~(A | D);
    invlpg(address(3)), invlpg(address(4));
    RING_3(sum += every_third(ROUNDS, false, 8));
    check("marks cleared in the middle: A by a read", (*entry(3) & (A | D)) == A && !(*entry(4) & (A | D)));
    add(1);
    check("D by a write", (*entry(3) & (A | D)) == (A | D) && (*entry(4) & (A | D)) == (A | D));
    check("and all is written", all_written());
}

/* Faults that a handler repairs, and the loop goes on. */
static unsigned faults;
static bool flush, moving;

static void repair(struct frame *fault)
{
    u64 linear = read_cr2();
    unsigned page = (linear - ARRAY) / PAGE;
    faults++;
    if (linear - ARRAY >= COUNT * PAGE || !(fault->error & PF_U))
        give_up("a fault elsewhere");
    if (moving) {
        memcpy(copies + page * PAGE, frame(page), PAGE);
        *entry(page) = (u64)copies + page * PAGE + RIGHTS;
    } else {
        *entry(page) |= RIGHTS;
    }
    if (flush)
        invlpg(linear);
}

static void repaired(void)
{
    handlers[PF] = repair;
    for (unsigned turn = 0; turn < 2; turn++) {
        flush = turn;
        add(ROUNDS);
        for (unsigned page = 0; page < COUNT; page++)
            *entry(page) &= ~W;
        write_cr3(read_cr3());
        read(ROUNDS);
        faults = 0;
        add(ROUNDS);
        check_equal(turn ? "read-only pages become writable" : "read-only pages become writable without INVLPG", faults, COUNT);
        for (unsigned page = 0; page < COUNT; page += 2)
            *entry(page) &= ~P;
        write_cr3(read_cr3());
        faults = 0;
        read(1);
        add(ROUNDS);
        check_equal(turn ? "absent pages come" : "absent pages come without INVLPG", faults, COUNT / 2);
        check("and all is written", all_written());
    }
    flush = false;
    for (unsigned page = 0; page < COUNT; page++)
        *entry(page) &= ~W;
    write_cr3(read_cr3());
    read(ROUNDS);
    for (unsigned page = 0; page < COUNT; page++)
        *entry(page) |= W;
    add(ROUNDS);
    check("rights given before anybody asked, without INVLPG", all_written());
    for (unsigned page = 0; page < COUNT; page++)
        *entry(page) &= ~W;
    write_cr3(read_cr3());
    read(ROUNDS);
    moving = flush = true;
    faults = 0;
    RING_3(add_to_all(ARRAY, COUNT, ROUNDS, 1));
    bool copied = true;
    for (unsigned page = 0; page < COUNT; page++)
        copied &= frame_is(copies + page * PAGE, value[page] + ROUNDS, 0);
    check_equal("copies on write", faults, COUNT);
    check("what is written is the copy", copied);
    check("the original stays", all_written());
    u64 sum, expected = 0;
    RING_3(sum = read_all(ARRAY, COUNT, 1));
    for (unsigned page = 0; page < COUNT; page++)
        for (unsigned word = 0; word < WORDS_A_PAGE; word++)
            expected = expected * 3 + value[page] + ROUNDS;
    check_equal("what is read is the copy", sum, expected);
    handlers[PF] = NULL;
    lay_out(ARRAY, frames, COUNT, SHUFFLED, RIGHTS);
}

static void keys(void)
{
    if (!(cpuid(7, 0).c >> 3 & 1)) {
        skip("protection keys");
        return;
    }
    write_cr4(read_cr4() | CR4_PKE);
    EMIT("wrpkru" : : "a"(0), "c"(0), "d"(0));
    *entry(MIDDLE) |= 1ull << 59;
    invlpg(address(MIDDLE));
    add(ROUNDS);
    read(ROUNDS);
    FAULTS("a key that refuses writes: a write", PF, PF_P | PF_W | PF_U | PF_KEY,
           RING_3(EMIT("wrpkru" : : "a"(8), "c"(0), "d"(0)); add_to_all(ARRAY, COUNT, 1, 1)));
    check_place("all before it is done");
    WORKS("a read", read(1));
    FAULTS("a key that refuses all: a read", PF, PF_P | PF_U | PF_KEY,
           RING_3(EMIT("wrpkru" : : "a"(4), "c"(0), "d"(0)); (void)read_all(ARRAY, COUNT, 1)));
    check_equal("its address", caught.cr2, address(MIDDLE));
    RING_3(EMIT("wrpkru" : : "a"(0), "c"(0), "d"(0)));
    add(1);
    check("the key lets all pass again", all_written());
    write_cr4(read_cr4() & ~CR4_PKE);
    back();
}

static unsigned hits;
static void count_hits(struct frame *frame)
{
    (void)frame;
    hits += read_dr6() & 1;
    write_dr6(0xffff0ff0);
}

static void watchpoints(void)
{
    handlers[DB] = count_hits;
    add(ROUNDS);
    read(ROUNDS);
    write_dr0(address(MIDDLE) + STRIDE);
    write_dr7(0x400 | 1 | 3 << 16 | 2 << 18);
    hits = 0;
    read(3);
    check_equal("a watchpoint at what is read", hits, 3);
    write_dr7(0x400 | 1 | 1 << 16 | 2 << 18);
    hits = 0;
    read(3);
    check_equal("a watchpoint for writes at what is read", hits, 0);
    add(2);
    check_equal("and written", hits, 2);
    write_dr7(0x400);
    add(ROUNDS);
    check_equal("no watchpoint any more", hits, 2);
    check("all is written", all_written());
    handlers[DB] = NULL;
}

void run(void)
{
    lay_out(ARRAY, frames, COUNT, SHUFFLED, RIGHTS);
    add(FIRST_ROUNDS);
    read(FIRST_ROUNDS);
    refusals();
    refused_above();
    across();
    marks();
    repaired();
    keys();
    watchpoints();
}
