/*
 * Pages that move to other frames between two runs of hot loops at CPL 3: when the old translation is invalidated, by any
 * of the means that there are, the loops read and write the new frame only (SDM vol. 3, 4.10.4).
 */
#include "scattered.h"

enum { COUNT = 70, ROUNDS = 10, FIRST_ROUNDS = 60, WINDOWS = 12 };
#define ARRAY (TEST_AREA + (1ul << 30) - 30 * PAGE)
#define LARGE_ARRAY (TEST_AREA + (5ul << 30))
#define NOFLUSH (1ull << 63)

static _Alignas(PAGE) u8 frames[2 * COUNT * PAGE];
static u64 value[2 * COUNT];            /* what is in each frame */
static unsigned frame_at[COUNT], spare; /* which one each page is mapped to, and one that none is */
static u64 root;

static u8 *frame(unsigned number) { return frames + number * PAGE; }

static void move_page(unsigned page, unsigned to, u64 rights)
{
    frame_at[page] = to;
    *entry_of(ARRAY + page * PAGE, 1) = (u64)frame(to) | rights;
}

static void add(unsigned rounds)
{
    RING_3(add_to_all(ARRAY, COUNT, rounds, 1));
    for (unsigned page = 0; page < COUNT; page++)
        value[frame_at[page]] += rounds;
}

static bool all_read(unsigned rounds)
{
    u64 sum = 0, expected = 0;
    RING_3(sum = read_all(ARRAY, COUNT, rounds));
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned page = 0; page < COUNT; page++)
            for (unsigned word = 0; word < WORDS_A_PAGE; word++)
                expected = expected * 3 + value[frame_at[page]];
    return sum == expected;
}

static bool all_written(void)
{
    bool right = true;
    for (unsigned number = 0; number < 2 * COUNT; number++)
        right &= frame_is(frame(number), value[number], 0);
    return right;
}

typedef void forget(u64 linear);

/* Move one page at a time while the loops are hot. */
static void moves(const char *name, forget *forget, u64 rights)
{
    static const u8 pages[] = {0, 29, 30, 36, COUNT - 1};
    bool right = true;
    print("ok ---- ");
    print(name);
    print("\n");
    for (unsigned page = 0; page < COUNT; page++)
        *entry_of(ARRAY + page * PAGE, 1) = (u64)frame(frame_at[page]) | rights;
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
    for (unsigned turn = 0; turn < sizeof pages; turn++) {
        unsigned page = pages[turn], old = frame_at[page];
        add(ROUNDS);
        right &= all_read(ROUNDS / 2);
        move_page(page, spare, rights);
        spare = old;
        forget(ARRAY + page * PAGE + 123);
        add(1);
        right &= all_read(1);
    }
    check("what is read comes from the new frame", right);
    check("what is written goes to the new frame, and nothing to the old one", all_written());
}

static void by_invlpg(u64 linear) { invlpg(linear); }

static void by_cr3(u64 linear)
{
    (void)linear;
    write_cr3(read_cr3());
}

static void by_pge(u64 linear)
{
    (void)linear;
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
}

static void by_paging_mode(u64 linear)
{
    (void)linear;
    write_cr0(read_cr0() & ~CR0_WP);
    write_cr0(read_cr0() | CR0_WP);
    write_cr3(read_cr3());
}

static void by_cr3_with_pcid(u64 linear)
{
    (void)linear;
    write_cr3(root | 2 | NOFLUSH);
    write_cr3(root | 1);
}

static void by_invlpg_elsewhere(u64 linear)
{
    write_cr3(root | 2 | NOFLUSH);
    invlpg(linear);
    write_cr3(root | 1 | NOFLUSH);
}

static void invpcid(u64 type, u64 pcid, u64 address)
{
    u64 operand[2] = {pcid, address};
    asm volatile("invpcid %0, [%1]" : : "r"(type), "r"(operand) : "memory");
}

static void by_invpcid(u64 type, u64 linear)
{
    write_cr3(root | 2 | NOFLUSH);
    invpcid(type, type < 2, type == 0 ? linear : 0);
    write_cr3(root | 1 | NOFLUSH);
}

static void by_invpcid_0(u64 linear) { by_invpcid(0, linear); }
static void by_invpcid_1(u64 linear) { by_invpcid(1, linear); }
static void by_invpcid_2(u64 linear) { by_invpcid(2, linear); }
static void by_invpcid_3(u64 linear) { by_invpcid(3, linear); }
static void by_invpcid_here(u64 linear) { invpcid(0, 1, linear); }

/* All pages at once: in the other order, in a row, exchanged in pairs. */
static void all_move(void)
{
    for (unsigned turn = 0; turn < 4; turn++) {
        add(ROUNDS);
        for (unsigned page = 0; page < COUNT; page++)
            move_page(page, turn % 2 ? page + 3 : place_of(turn, page, COUNT) + turn, P | W | U);
        write_cr3(read_cr3());
        add(1);
    }
    for (unsigned page = 0; page < COUNT; page += 2) {
        unsigned other = frame_at[page];
        add(1);
        move_page(page, frame_at[page + 1], P | W | U);
        move_page(page + 1, other, P | W | U);
        invlpg(ARRAY + page * PAGE);
        invlpg(ARRAY + (page + 1) * PAGE);
    }
    add(1);
    check("all pages at once, and pairs that are exchanged: reads", all_read(3));
    check("and writes", all_written());
    for (unsigned page = 0; page < COUNT; page++)
        move_page(page, place_of(SHUFFLED, page, COUNT), P | W | U);
    write_cr3(read_cr3());
    spare = COUNT;
}

/* Another table for all of an array, then a large page, then another one. */
static void upper_levels(void)
{
    u8 *large[2] = {(u8 *)0x1000000, (u8 *)0x1200000};
    memset(frames, 0, sizeof frames);
    lay_out(LARGE_ARRAY, frames, COUNT, SHUFFLED, P | W | U);
    RING_3(add_to_all(LARGE_ARRAY, COUNT, FIRST_ROUNDS, 1));
    volatile u64 *entry = entry_of(LARGE_ARRAY, 2);
    u64 *table = new_pages(1);
    for (unsigned page = 0; page < COUNT; page++)
        table[page] = (u64)frame(COUNT + page) | P | W | U;
    *entry = (u64)table | P | W | U;
    write_cr3(read_cr3());
    RING_3(add_to_all(LARGE_ARRAY, COUNT, ROUNDS, 1));
    bool first = true, second = true;
    for (unsigned page = 0; page < COUNT; page++) {
        first &= frame_is(frame(page), FIRST_ROUNDS, 0);
        second &= frame_is(frame(COUNT + page), ROUNDS, 0);
    }
    check("another table: the old frames", first);
    check("another table: the new frames", second);
    for (unsigned turn = 0; turn < 6; turn++) {
        *entry = (u64)large[turn & 1] | P | W | U | LARGE;
        if (turn == 0)
            write_cr3(read_cr3());
        else
            invlpg(LARGE_ARRAY + 300 * PAGE);
        RING_3(add_to_all(LARGE_ARRAY, COUNT, ROUNDS, turn & 1 ? 100 : 1));
    }
    bool larges = true;
    for (unsigned page = 0; page < COUNT; page++) {
        larges &= frame_is(large[0] + page * PAGE, 3 * ROUNDS, 0);
        larges &= frame_is(large[1] + page * PAGE, 300 * ROUNDS, 0);
        larges &= frame_is(frame(COUNT + page), ROUNDS, 0);
    }
    check("large pages", larges);
}

/* Arrays far from each other, six pages each: more than a translator may keep in view. */
static void far_apart(void)
{
    enum { FEW = 6 };
    memset(frames, 0, sizeof frames);
    for (unsigned turn = 0; turn < 6; turn++)
        for (unsigned number = 0; number < WINDOWS; number++) {
            u64 linear = TEST_AREA + ((8ul + number) << 30) - 3 * PAGE;
            if (turn % 3 == 0)
                lay_out(linear, frames + number * FEW * PAGE, FEW, turn ? SHUFFLED : DESCENDING, P | W | U);
            RING_3(add_to_all(linear, FEW, 20 * ROUNDS, number + 1));
        }
    bool right = true;
    for (unsigned page = 0; page < WINDOWS * FEW; page++)
        right &= frame_is(frame(page), (page / FEW + 1) * 6 * 20 * ROUNDS, 0);
    check("arrays that are far apart", right);
}

/* A counter before and behind each of several adds to what `there` leads to: both counters are near each other. */
__attribute__((noinline)) static void count_around(u64 counters, u64 there, unsigned rounds)
{
    for (; rounds; rounds--)
        for (u64 at = 0; at != 4 * PAGE; at += STRIDE)
            EMIT("inc qword ptr [%0]\n inc qword ptr [%1]\n inc qword ptr [%0 + %c2]"
                 : : "r"(counters + at), "r"(there + at), "i"(64) : "memory", "cc");
}

/* One array is in use all the time, and others, far from it and from each other, come and go in the same loop. */
static void come_and_go(void)
{
    enum { FEW = 4, FAR = 24, LONG = 150 };
    u64 counters = TEST_AREA + (41ul << 30) - FEW * PAGE;
    memset(frames, 0, sizeof frames);
    lay_out(counters, frames, FEW, DESCENDING, P | W | U);
    lay_out(counters - 2 * FEW * PAGE, frames + (FAR + 1) * FEW * PAGE, FEW, DESCENDING, P | W | U);
    for (unsigned number = 1; number <= FAR; number++)
        lay_out(counters + ((u64)number << 30), frames + number * FEW * PAGE, FEW, DESCENDING, P | W | U);
    RING_3(count_around(counters, counters - 2 * FEW * PAGE, 30 * LONG);
           for (unsigned turn = 0; turn < 4; turn++) for (unsigned number = 1; number <= FAR; number++)
               count_around(counters, counters + ((u64)number << 30), LONG));
    bool near = true, far = true;
    for (unsigned page = 0; page < FEW; page++)
        for (unsigned word = 0; word < PAGE / 8; word++) {
            u64 is = ((u64 *)frame(page))[word];
            near &= is == (word * 8 % STRIDE == 0 || word * 8 % STRIDE == 64 ? (4 * FAR + 30) * LONG : 0);
        }
    for (unsigned page = FEW; page < FEW * (FAR + 1); page++)
        far &= frame_is(frame(page), 4 * LONG, 0);
    check("an array used all the time while others come and go", near);
    check("those that come and go", far);
}

/* The pages of one array come in other orders hundreds of times, while two places in it are in use by turns. */
static void again_and_again(void)
{
    enum { HALF = COUNT / 2, TIMES = 600 };
    memset(frames, 0, sizeof frames);
    for (unsigned turn = 0; turn < TIMES; turn++) {
        lay_out(ARRAY, frames, COUNT, turn % 3, P | W | U);
        write_cr3(read_cr3());
        RING_3(add_to_all(ARRAY, COUNT, 2, 1); count_around(ARRAY, ARRAY + HALF * PAGE, 4);
               count_around(ARRAY + (COUNT - 4) * PAGE, ARRAY + (turn % HALF) * PAGE, 4));
    }
    u64 sums[2] = {0, 0};
    for (unsigned at = 0; at < COUNT * PAGE; at += 8)
        sums[at % STRIDE != 0] += *(u64 *)(frames + at);
    check_equal("an array laid out again and again", sums[0], (2 * COUNT + 4 * 4 * 4) * TIMES * WORDS_A_PAGE);
    check_equal("and words beside", sums[1], 4 * 4 * 2 * TIMES * WORDS_A_PAGE);
}

static void with_process_contexts(void)
{
    if (!(cpuid(1, 0).c >> 17 & 1)) {
        skip("PCID");
        return;
    }
    root = read_cr3();
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(root | 1);
    moves("a PCID and INVLPG", by_invlpg, P | W | U);
    moves("a PCID and CR3", by_cr3_with_pcid, P | W | U);
    write_cr4(read_cr4() | CR4_PGE);
    moves("global pages and INVLPG in another PCID", by_invlpg_elsewhere, P | W | U | G);
    moves("global pages and CR4.PGE", by_pge, P | W | U | G);
    if (cpuid(7, 0).b >> 10 & 1) {
        moves("INVPCID 0", by_invpcid_0, P | W | U);
        moves("INVPCID 0 of the current PCID", by_invpcid_here, P | W | U);
        moves("INVPCID 1", by_invpcid_1, P | W | U);
        moves("INVPCID 2 of global pages", by_invpcid_2, P | W | U | G);
        moves("INVPCID 3", by_invpcid_3, P | W | U);
    } else {
        skip("INVPCID");
    }
    write_cr3(root);
    write_cr4(read_cr4() & ~(CR4_PCIDE | CR4_PGE));
}

void run(void)
{
    come_and_go();
    again_and_again();
    memset(frames, 0, sizeof frames);
    for (unsigned page = 0; page < COUNT; page++)
        frame_at[page] = place_of(SHUFFLED, page, COUNT);
    spare = COUNT;
    lay_out(ARRAY, frames, COUNT, SHUFFLED, P | W | U);
    add(FIRST_ROUNDS);
    check("loops before anything moves", all_read(FIRST_ROUNDS) && all_written());
    moves("INVLPG", by_invlpg, P | W | U);
    moves("CR3", by_cr3, P | W | U);
    moves("CR4.PGE", by_pge, P | W | U);
    moves("CR0.WP and CR3", by_paging_mode, P | W | U);
    all_move();
    with_process_contexts();
    upper_levels();
    far_apart();
}
