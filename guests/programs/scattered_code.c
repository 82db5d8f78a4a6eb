/*
 * Hot loops at CPL 3 write pages that become code, and go on: what was written last is executed, whether it was written
 * at its own address, at another one of the same frame, in another address space or by pushes (SDM vol. 3, 11.6: a
 * processor notices this by itself where the linear addresses are the same; at others after a serializing instruction).
 */
#include "scattered.h"

enum { COUNT = 70, ROUNDS = 10, TURNS = 12 };
#define ARRAY (TEST_AREA + (6ul << 30) - 20 * PAGE)
#define ALIAS (TEST_AREA + (7ul << 30))
#define NOFLUSH (1ull << 63)

static _Alignas(PAGE) u8 frames[COUNT * PAGE];

typedef u32 function(void);

/* MOV EAX, imm32; RET; and two bytes that do not matter. */
#define CODE(value) (0xb8ull | (u64)(u32)(value) << 8 | 0xc3ull << 40)

static inline void serialize(void) { (void)cpuid(0, 0); }

/* Call what is in every page; the sum of what it gives. */
__attribute__((noinline)) static u64 call_all(u64 linear, unsigned word)
{
    u64 sum = 0;
    for (unsigned page = 0; page < COUNT; page++)
        sum += ((function *)(linear + page * PAGE + word * STRIDE))();
    return sum;
}

static void start_again(void)
{
    memset(frames, 0, sizeof frames);
    lay_out(ARRAY, frames, COUNT, SHUFFLED, P | W | U);
    lay_out(ALIAS, frames, COUNT, DESCENDING, P | W | U);
    /* From nothing, again and again: a translator learns that it is worth while to look early. */
    for (unsigned turn = 0; turn < 15; turn++) {
        write_cr3(read_cr3());
        RING_3(add_to_all(ARRAY, COUNT, ROUNDS, 0); write_all(ARRAY, COUNT, ROUNDS, 0));
    }
}

/* A loop that knows nothing of code makes it, again and again, at `to`; it is called at `from`. */
static void streams(const char *name, u64 to, u64 from)
{
    bool right = true;
    start_again();
    RING_3(write_all(to, COUNT, 6 * ROUNDS, CODE(0)));
    for (unsigned turn = 0; turn < TURNS; turn++) {
        u64 sum, again;
        RING_3(write_all(to, COUNT, 1, CODE(turn + 5)); serialize(); sum = call_all(from, turn));
        right &= sum == COUNT * (turn + 5);
        write_cr3(read_cr3());
        /* The immediate operand grows. */
        RING_3(add_to_all(to, COUNT, 1, 0x100); serialize(); again = call_all(from, turn));
        right &= again == COUNT * (turn + 5 + 1);
    }
    check(name, right);
}

/* What is code already comes into use as data beside other data, and is written then. */
static void comes_into_use(void)
{
    enum { HALF = COUNT / 2 };
    bool right = true;
    start_again();
    for (unsigned turn = 0; turn < TURNS; turn++) {
        u64 sum;
        write_cr3(read_cr3());
        RING_3(for (unsigned page = 0; page < HALF; page++) write64(ARRAY + page * PAGE + STRIDE / 2, turn);
               write_all(ARRAY + HALF * PAGE, HALF, ROUNDS, CODE(turn)); write_all(ARRAY, HALF, 1, CODE(turn));
               sum = call_all(ARRAY, 3));
        right &= sum == COUNT * turn;
    }
    check("code that comes into use as data", right);
}

/* One page becomes code in the middle of others that are data. */
static void one_page(const char *name, u64 to, u64 from, bool at_ring_0)
{
    bool right = true;
    start_again();
    for (unsigned turn = 0; turn < TURNS; turn++) {
        unsigned page = turn * 11 % COUNT;
        u64 place = page * PAGE + 5 * STRIDE, value = turn;
        RING_3(write_all(to, COUNT, ROUNDS, CODE(1)));
        function *there = (function *)(from + place);
        if (to != from) {
            u64 frame = *entry_of(to + page * PAGE, 1) & 0xffffffffff000;
            map(from + page * PAGE, frame, P | W | U);
        }
        for (unsigned round = 0; round < 8; round++) {
            u32 got;
            RING_3(add_to_all(to, COUNT, 2, 0x100); serialize(); got = at_ring_0 ? 0 : there());
            if (at_ring_0)
                got = there();
            right &= got == 1 + 2 * (round + 1);
            RING_3(write64(to + place, CODE(value)); serialize(); got = there();
                   write64(to + place, CODE(1 + 2 * (round + 1))));
            right &= got == value;
        }
    }
    check(name, right);
}

/* Write and call at once, thousands of times, and data in the same page beside. */
__attribute__((noinline)) static u64 compile(u64 to, u64 from, unsigned count, unsigned rounds)
{
    u64 wrong = 0;
    for (; rounds; rounds--)
        for (unsigned page = 0; page < count; page++) {
            u64 at = page * PAGE + rounds % 8 * STRIDE;
            write64(to + at, CODE(rounds + page));
            ++*(volatile u64 *)(to + page * PAGE + 0xf00);
            if (to != from)
                serialize();
            wrong += ((function *)(from + at))() != rounds + page;
        }
    return wrong;
}

static void compilers(void)
{
    u64 wrong, counted = 0;
    start_again();
    RING_3(add_to_all(ARRAY, COUNT, 6 * ROUNDS, 1); wrong = compile(ARRAY, ARRAY, 3, 800));
    check_equal("written and called at once", wrong, 0);
    RING_3(wrong = compile(ARRAY, ARRAY, COUNT, 20));
    check_equal("in every page", wrong, 0);
    for (unsigned page = 0; page < COUNT; page++)
        counted += read64(ARRAY + page * PAGE + 0xf00);
    check_equal("data in the same pages", counted, 3 * 800 + COUNT * 20 + COUNT * 6 * ROUNDS);
    for (unsigned page = 0; page < COUNT; page++)
        map(ALIAS + page * PAGE, *entry_of(ARRAY + page * PAGE, 1) & 0xffffffffff000, P | W | U);
    RING_3(add_to_all(ARRAY, COUNT, 6 * ROUNDS, 1); wrong = compile(ARRAY, ALIAS, COUNT, 20));
    check_equal("called at another address", wrong, 0);
}

/* Code that is pushed, and called on the stack. */
__attribute__((noinline)) static u64 call_stack(u64 top, unsigned rounds)
{
    u64 wrong = 0;
    for (; rounds; rounds--) {
        u64 count = COUNT * PAGE / 512 - 1;
        EMIT("mov r8, rsp\n mov rsp, %2\n 1: lea rsp, [rsp - 496]\n push %3\n mov r9, rsp\n push 1\n call r9\n"
             "cmp rax, %4\n je 2f\n inc %0\n 2: pop rax\n dec %1\n jnz 1b\n mov rsp, r8"
             : "+b"(wrong), "+c"(count) : "S"(top), "D"(CODE(rounds)), "d"((u64)rounds)
             : "rax", "r8", "r9", "memory", "cc");
    }
    return wrong;
}

static void stacks(void)
{
    u64 wrong;
    start_again();
    RING_3(add_to_all(ARRAY, COUNT, 6 * ROUNDS, 1); wrong = call_stack(ARRAY + COUNT * PAGE, 12));
    check_equal("pushed and called", wrong, 0);
}

/* A space's loop writes what another space executes. */
static void other_space(void)
{
    u64 first = read_cr3(), writer = first | 1, caller = first | 2;
    bool right = true;
    start_again();
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(writer);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        u64 sum;
        RING_3(write_all(ARRAY, COUNT, ROUNDS, CODE(turn)));
        write_cr3(caller | NOFLUSH);
        RING_3(sum = call_all(ALIAS, turn));
        right &= sum == COUNT * turn;
        write_cr3(writer | NOFLUSH);
        RING_3(add_to_all(ARRAY, COUNT, ROUNDS, 0x100));
        write_cr3(caller | NOFLUSH);
        RING_3(sum = call_all(ALIAS, turn));
        right &= sum == COUNT * (turn + ROUNDS);
        write_cr3(writer | NOFLUSH);
    }
    check("written in another space", right);
    write_cr3(first);
    write_cr4(read_cr4() & ~CR4_PCIDE);
}

void run(void)
{
    streams("a loop writes what is called", ARRAY, ARRAY);
    streams("which is called at another address", ARRAY, ALIAS);
    comes_into_use();
    one_page("a page among others", ARRAY, ARRAY, false);
    one_page("at another address", ARRAY, ALIAS, false);
    one_page("called at CPL 0", ARRAY, ARRAY, true);
    compilers();
    stacks();
    if (cpuid(1, 0).c >> 17 & 1)
        other_space();
    else
        skip("PCID");
}
