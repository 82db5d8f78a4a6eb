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

/* Runs of all loops after each other, from nothing: a translator learns that it is worth while to look early. */
static void settle(void)
{
    for (unsigned turn = 0; turn < 12; turn++) {
        write_cr3(read_cr3());
        add(4);
        read(4);
        RING_3(write_all(ARRAY, COUNT, 4, value[0]));
        for (unsigned page = 1; page < COUNT; page++)
            value[page] = value[0];
    }
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

/* Pages that were read are written: a page among them that must not be stays as it is. */
static void read_then_written(u64 what)
{
    enum { REFUSED = 9 };
    settle();
    *entry(REFUSED) &= ~W;
    write_cr3(read_cr3());
    read(2);
    FAULTS("a loop that writes what was read before", PF, PF_P | PF_W | PF_U, RING_3(write_all(ARRAY, COUNT, 1, what)));
    check_equal("ends at what must not be written", caught.cr2, address(REFUSED));
    check("which it does not write", frame_is(frame(REFUSED), value[REFUSED], 0));
    *entry(REFUSED) |= W;
    RING_3(write_all(ARRAY, COUNT, 1, value[0]));
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
    for (unsigned turn = 0; turn < 12; turn++) {
        clear_marks();
        RING_3(sum = every_third(4, true, 8));
        for (unsigned page = 0; page < COUNT; page += 3)
            value[page] += 4;
    }
    bool clean = true, dirty = true;
    for (unsigned turn = 0; turn < 8; turn++) {
        clear_marks();
        read(1);
        clean &= marks_are(TOUCHED, TOUCHED);
        add(1);
        dirty &= marks_are(WRITTEN, WRITTEN);
    }
    check("marks of what is read, by turns with writes", clean);
    check("marks of what is written, by turns with reads", dirty);
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

/* A fault invalidates what is known of its address, so that INVLPG is not needed. */
static void copies_on_write(bool with_invlpg)
{
    settle();
    for (unsigned page = 0; page < COUNT; page++)
        *entry(page) &= ~W;
    write_cr3(read_cr3());
    read(ROUNDS);
    moving = true, flush = with_invlpg;
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
    moving = false;
    lay_out(ARRAY, frames, COUNT, SHUFFLED, RIGHTS);
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
    copies_on_write(true);
    copies_on_write(false);
    handlers[PF] = NULL;
}

/*
 * A page moves to a frame that may only be read, and nothing is invalidated: the old frame or a fault is what a write may
 * find, and the new frame is never written. Others displace its translation meanwhile.
 */
static void moved_silently(u64 what)
{
    enum { MOVED = 21, OTHERS = 9 };
    static _Alignas(PAGE) u8 other[PAGE];
    u64 folded[2 * OTHERS], at = address(MOVED);
    memset(other, 0, PAGE);
    for (u64 number = 0; number < OTHERS; number++) {
        folded[2 * number] = at ^ (number + 1) << 26;
        folded[2 * number + 1] = at ^ (number + 1) << 26 ^ (number + 1) << 12;
    }
    for (unsigned number = 0; number < 2 * OTHERS; number++)
        map(folded[number], (u64)copies, P | U);
    settle();
    *entry(MOVED) = (u64)other | P | U;
    RING_3(for (unsigned number = 0; number < 2 * OTHERS; number++) (void)read64(folded[number]);
           (void)read64(at); (void)every_third(20, false, 8));
    (void)CATCH(RING_3(write_all(ARRAY, COUNT, 1, what)));
    check("a page that moves silently: the new frame is not written", frame_is(other, 0, 0));
    *entry(MOVED) = (u64)frame(MOVED) | RIGHTS;
    invlpg(address(MOVED));
    RING_3(write_all(ARRAY, COUNT, 1, value[0]));
    check("all is as before", all_written());
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
    read_then_written(1);
    read_then_written(2);
    marks();
    repaired();
    moved_silently(1);
    moved_silently(2);
    keys();
    watchpoints();
}
