/*
 * Address spaces in which the same linear addresses lead to other frames, or to the same frames in another order, used by
 * turns by the same hot loops at CPL 3: each space's loops reach its own frames (SDM vol. 3, 4.10.1).
 */
#include "scattered.h"

enum { COUNT = 70, FEW = 8, SPACES = 12, ROUNDS = 10, TURNS = 40, SWITCH = 0x90 };
#define ARRAY (TEST_AREA + 200 * PAGE)
#define NOFLUSH (1ull << 63)

static _Alignas(PAGE) u8 frames[2 * COUNT * PAGE];
static struct space {
    u64 root;
    volatile u64 *table;
} spaces[SPACES];
static u64 first_root;

static u8 *frame(unsigned number) { return frames + number * PAGE; }

/* What is below the array in PML4, PDPT and directory is the space's own. */
static struct space new_space(void)
{
    extern u64 pml4[512];
    u64 *root = new_pages(1), *pdpt = new_pages(1), *directory = new_pages(1), *table = new_pages(1);
    memcpy(root, pml4, PAGE);
    root[ARRAY >> 39 & 511] = (u64)pdpt | P | W | U;
    pdpt[ARRAY >> 30 & 511] = (u64)directory | P | W | U;
    directory[ARRAY >> 21 & 511] = (u64)table | P | W | U;
    return (struct space){(u64)root, table};
}

static void place(unsigned space, unsigned page, unsigned number)
{
    spaces[space].table[(ARRAY >> 12 & 511) + page] = (u64)frame(number) | P | W | U;
}

/* `count` pages on the frames from `first` on. */
static void arrange(unsigned space, unsigned first, unsigned count, enum order order)
{
    for (unsigned page = 0; page < count; page++)
        place(space, page, first + place_of(order, page, count));
}

static bool frames_are(unsigned first, unsigned count, u64 value)
{
    bool right = true;
    for (unsigned number = first; number < first + count; number++)
        right &= frame_is(frame(number), value, 0);
    return right;
}

static void start_again(void) { memset(frames, 0, sizeof frames); }

/* Spaces 0 and 1 by turns; `more` goes to CR3 beside a space's root, for space 1 with a PCID more. */
static void two(const char *name, u64 more)
{
    print("ok ---- ");
    print(name);
    print("\n");
    u64 roots[2] = {spaces[0].root | more, spaces[1].root | (more ? more + 1 : 0)};
    u64 sums[2] = {0, 0}, expected[2] = {0, 0};
    start_again();
    arrange(0, 0, COUNT, SHUFFLED);
    arrange(1, COUNT, COUNT, DESCENDING);
    write_cr3(roots[0] & ~NOFLUSH);
    write_cr3(roots[1] & ~NOFLUSH);
    for (unsigned turn = 0; turn < TURNS; turn++)
        for (unsigned space = 0; space < 2; space++) {
            write_cr3(roots[space]);
            RING_3(add_to_all(ARRAY, COUNT, ROUNDS, space ? 1000 : 1); sums[space] += read_all(ARRAY, 4, 1));
            u64 sum = 0;
            for (unsigned word = 0; word < 4 * WORDS_A_PAGE; word++)
                sum = sum * 3 + (turn + 1) * ROUNDS * (space ? 1000 : 1);
            expected[space] += sum;
        }
    check("reads", sums[0] == expected[0] && sums[1] == expected[1]);
    check("writes of one", frames_are(0, COUNT, TURNS * ROUNDS));
    check("writes of the other", frames_are(COUNT, COUNT, TURNS * ROUNDS * 1000));

    arrange(1, 0, COUNT, PAIRS);
    write_cr3(roots[1] & ~NOFLUSH);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        write_cr3(roots[turn % 2]);
        RING_3(add_to_all(ARRAY, COUNT, turn % 3 + 1, 1));
    }
    u64 added = 0;
    for (unsigned turn = 0; turn < TURNS; turn++)
        added += turn % 3 + 1;
    check("frames that are in both", frames_are(0, COUNT, TURNS * ROUNDS + added));
    write_cr3(first_root);
}

static u64 other;
static void on_switch(struct frame *frame)
{
    (void)frame;
    u64 now = read_cr3();
    write_cr3(other);
    other = now | (other & NOFLUSH);
}

/* The loop changes the space between two accesses. */
__attribute__((noinline)) static void add_here_and_there(unsigned rounds)
{
    for (; rounds; rounds--)
        for (u64 at = ARRAY; at != ARRAY + COUNT * PAGE; at += STRIDE) {
            ++*(volatile u64 *)at;
            if (at % PAGE == 6 * STRIDE)
                EMIT("int 0x90" : : : "memory");
        }
}

static void in_the_loop(const char *name, u64 more)
{
    start_again();
    arrange(0, 0, COUNT, SHUFFLED);
    arrange(1, COUNT, COUNT, DESCENDING);
    write_cr3(spaces[0].root | (more & ~NOFLUSH));
    write_cr3(spaces[1].root | (more ? (more & ~NOFLUSH) + 1 : 0));
    other = spaces[0].root | more;
    RING_3(add_to_all(ARRAY, COUNT, 20, 0); add_here_and_there(40));
    u64 sums[2] = {0, 0};
    for (unsigned number = 0; number < 2 * COUNT; number++)
        for (unsigned word = 0; word < WORDS_A_PAGE; word++)
            sums[number / COUNT] += *(u64 *)(frame(number) + word * STRIDE);
    check_equal(name, sums[0], sums[1]);
    check_equal("all are counted", sums[0] + sums[1], 40 * COUNT * WORDS_A_PAGE);
    write_cr3(first_root);
}

/* A page of a space that waits moves. */
static void moved_meanwhile(void)
{
    bool can_invalidate = cpuid(7, 0).b >> 10 & 1;
    start_again();
    arrange(0, 0, COUNT, SHUFFLED);
    arrange(1, COUNT, COUNT, SHUFFLED);
    write_cr3(spaces[1].root | 2);
    RING_3(add_to_all(ARRAY, COUNT, ROUNDS, 1));
    write_cr3(spaces[0].root | 1);
    RING_3(add_to_all(ARRAY, COUNT, ROUNDS, 1));
    place(1, 33, 0);
    if (can_invalidate) {
        u64 operand[2] = {2, ARRAY + 33 * PAGE};
        asm volatile("invpcid %0, [%1]" : : "r"(0ul), "r"(operand) : "memory");
        write_cr3(spaces[1].root | 2 | NOFLUSH);
    } else {
        write_cr3(spaces[1].root | 2);
    }
    RING_3(add_to_all(ARRAY, COUNT, 1, 1));
    unsigned before = COUNT + place_of(SHUFFLED, 33, COUNT);
    check("a page of the space that waits moves: not the old frame", frame_is(frame(before), ROUNDS, 0));
    check("the new one", frame_is(frame(0), ROUNDS + 1, 0));
    invlpg(ARRAY + 34 * PAGE);
    write_cr3(spaces[0].root | 1 | NOFLUSH);
    RING_3(add_to_all(ARRAY, COUNT, 1, 1));
    check("the other space keeps its own", frame_is(frame(place_of(SHUFFLED, 33, COUNT)), ROUNDS + 1, 0));
    write_cr3(spaces[1].root | 1);
    RING_3(add_to_all(ARRAY, COUNT, 1, 1));
    check("a PCID used for another space", frame_is(frame(COUNT), 1 + ROUNDS + 1, 0));
}

/* More than a translator may keep. */
static void many(u64 more)
{
    start_again();
    for (unsigned space = 0; space < SPACES; space++) {
        arrange(space, space * FEW, FEW, space % 2 ? DESCENDING : PAIRS);
        write_cr3(spaces[space].root | (more ? space + 1 : 0));
    }
    for (unsigned turn = 0; turn < 12; turn++)
        for (unsigned at = 0; at < SPACES; at++) {
            /* Some come more often than others. */
            unsigned space = turn % 3 ? at : at % 3;
            write_cr3(spaces[space].root | (more ? more + space + 1 : 0));
            RING_3(add_to_all(ARRAY, FEW, ROUNDS, space + 1));
        }
    bool right = true;
    for (unsigned space = 0; space < SPACES; space++)
        right &= frames_are(space * FEW, FEW, (space + 1) * ROUNDS * (8 + (space < 3 ? 4 * SPACES / 3 : 0)));
    check(more ? "twelve spaces with PCIDs" : "twelve spaces", right);
    write_cr3(first_root);
}

void run(void)
{
    first_root = read_cr3();
    for (unsigned space = 0; space < SPACES; space++)
        spaces[space] = new_space();
    handlers[SWITCH] = on_switch;
    set_gate(SWITCH, stub_of(SWITCH), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    two("two spaces", 0);
    in_the_loop("two spaces in one loop", 0);
    many(0);
    if (!(cpuid(1, 0).c >> 17 & 1)) {
        skip("PCID");
        return;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    two("two spaces with PCIDs", NOFLUSH | 1);
    in_the_loop("two spaces with PCIDs in one loop", NOFLUSH | 1);
    moved_meanwhile();
    many(NOFLUSH);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}
