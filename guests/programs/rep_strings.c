/*
 * String instructions: every size, DF, overlap, counts of 0, 32-bit addresses, a fault in the middle and its restart,
 * interrupts between iterations (SDM vol. 1, 7.3.9; vol. 2, REP).
 */
#include "apic.h"

enum { SIZE = 64 };

static _Alignas(64) u8 source[4 * SIZE], target[4 * SIZE];

struct string {
    u64 si, di, count;
    word flags;
};

#define STRING(instruction, state)                                                                                 \
    EMIT("push %3\n popf\n" instruction "\n pushf\n pop %3\n cld"                                                  \
         : "+S"((state).si), "+D"((state).di), "+c"((state).count), "+r"((state).flags)                            \
         : "a"(0x1122334455667788) : "memory", "cc")

static void fill(void)
{
    for (unsigned index = 0; index < sizeof source; index++) {
        source[index] = index * 7 + 1;
        target[index] = 0;
    }
}

#define MOVES(name, instruction, width)                                                                            \
    do {                                                                                                           \
        fill();                                                                                                    \
        struct string state = {(word)source, (word)target, 5, FLAG_FIXED};                                         \
        STRING("rep " instruction, state);                                                                         \
        check("REP " name " copies", !memcmp(source, target, 5 * (width)) && target[5 * (width)] == 0);            \
        check_equal("REP " name " advances RDI", state.di - (word)target, 5 * (width));                            \
        check_equal("REP " name " ends with RCX 0", state.count, 0);                                               \
    } while (0)

#define STORES(name, instruction, width)                                                                           \
    do {                                                                                                           \
        static const u64 value = 0x1122334455667788;                                                               \
        fill();                                                                                                    \
        struct string state = {0, (word)target, 3, FLAG_FIXED};                                                    \
        STRING("rep " instruction, state);                                                                         \
        check("REP " name " fills", !memcmp(target + 2 * (width), &value, width) && target[3 * (width)] == 0);     \
        check_equal("REP " name " advances RDI", state.di - (word)target, 3 * (width));                            \
    } while (0)

static void every_size(void)
{
    MOVES("MOVSB", "movsb", 1);
    MOVES("MOVSW", "movsw", 2);
    MOVES("MOVSD", "movsd", 4);
    MOVES("MOVSQ", "movsq", 8);
    STORES("STOSB", "stosb", 1);
    STORES("STOSW", "stosw", 2);
    STORES("STOSD", "stosd", 4);
    STORES("STOSQ", "stosq", 8);
    fill();
    struct string state = {(word)source, 0, 1, FLAG_FIXED};
    u64 loaded;
    EMIT("mov eax, -1\n lodsw" : "=a"(loaded), "+S"(state.si) : : "memory");
    check_equal("LODSW leaves the upper part", loaded, 0xffff0000 | source[1] << 8 | source[0]);
    EMIT("mov rax, -1\n lodsd" : "=a"(loaded), "+S"(state.si) : : "memory");
    check_equal("LODSD clears it", loaded >> 32, 0);
    EMIT("mov ecx, 4\n rep lodsb" : "=a"(loaded), "+S"(state.si) : : "ecx", "memory");
    check_equal("REP LODSB ends with the last byte", loaded & 0xff, source[9]);
}

static void comparing(void)
{
    fill();
    memcpy(target, source, SIZE);
    target[10] ^= 0x80;
    struct string state = {(word)source, (word)target, SIZE, FLAG_FIXED};
    STRING("repe cmpsb", state);
    check_equal("REPE CMPSB stops behind the difference", state.si - (word)source, 11);
    check_equal("with what is left in RCX", state.count, SIZE - 11);
    check_equal("and ZF clear", state.flags & FLAG_ZF, 0);
    state = (struct string){(word)source, (word)target, 10, FLAG_FIXED};
    STRING("repe cmpsb", state);
    check_equal("REPE CMPSB to the end: ZF set", state.flags & FLAG_ZF, FLAG_ZF);
    state = (struct string){(word)source, (word)target, 4, FLAG_FIXED};
    STRING("repe cmpsd", state);
    check_equal("REPE CMPSD", state.count, 1);
    memset(target, 0, sizeof target);
    target[20] = 0x88;
    state = (struct string){0, (word)target, 100, FLAG_FIXED};
    STRING("repne scasb", state);
    check_equal("REPNE SCASB finds AL", state.di - (word)target, 21);
    check_equal("and sets ZF", state.flags & FLAG_ZF, FLAG_ZF);
    state = (struct string){0, (word)target, 5, FLAG_FIXED};
    STRING("repe scasw", state);
    check_equal("REPE SCASW stops at once", state.count, 4);
    state = (struct string){(word)source, (word)target, 0, FLAG_FIXED | FLAG_ZF | FLAG_CF};
    STRING("repne cmpsb", state);
    check_equal("a count of 0 leaves the flags", state.flags & (FLAG_ZF | FLAG_CF), FLAG_ZF | FLAG_CF);
}

static void backwards(void)
{
    fill();
    struct string state = {(word)source + 15, (word)target + 15, 16, FLAG_FIXED | FLAG_DF};
    STRING("rep movsb", state);
    check("DF: REP MOVSB copies downwards", !memcmp(source, target, 16));
    check_equal("DF: RSI ends below", state.si, (word)source - 1);
    state = (struct string){(word)source + 24, (word)target + 24, 4, FLAG_FIXED | FLAG_DF};
    STRING("rep movsq", state);
    check("DF: REP MOVSQ", !memcmp(source, target, 32) && state.di == (word)target - 8);
    state = (struct string){0, (word)target + 16, 3, FLAG_FIXED | FLAG_DF};
    STRING("rep stosd", state);
    check_equal("DF: REP STOSD", read32((word)target + 8), 0x55667788);
    check_equal("DF is kept", state.flags & FLAG_DF, FLAG_DF);
}

static void overlapping(void)
{
    fill();
    source[0] = 0xaa;
    struct string state = {(word)source, (word)source + 1, 20, FLAG_FIXED};
    STRING("rep movsb", state);
    check("source before target: a fill", source[20] == 0xaa && source[1] == 0xaa && source[21] != 0xaa);
    fill();
    u32 last = read32((word)source + 36);
    state = (struct string){(word)source, (word)source + 4, 5, FLAG_FIXED};
    STRING("rep movsq", state);
    check_equal("in eights, half over itself: its last half", read32((word)source + 40), last);
    fill();
    state = (struct string){(word)source + 3, (word)source, 20, FLAG_FIXED};
    STRING("rep movsb", state);
    check("source behind target: a move", source[0] == 22 && source[19] == (u8)(22 * 7 + 1));
}

static void short_addresses(void)
{
    fill();
    struct string state = {(word)source | 1ull << 40, (word)target | 1ull << 41, 7ull << 32 | 4, FLAG_FIXED};
    STRING("addr32 rep movsb", state);
    check("32-bit addresses: the upper halves do not count", !memcmp(source, target, 4) && !target[4]);
    check_equal("32-bit addresses: RSI is zero-extended", state.si, (word)source + 4);
    check_equal("32-bit addresses: ECX counts", state.count, 0);
    state = (struct string){1ull << 40, 1ull << 41, 7ull << 32, FLAG_FIXED};
    STRING("addr32 rep movsb", state);
    check_equal("32-bit addresses: a count of 0 in ECX does nothing", state.di >> 41, 1);
}

/*
 * Two pages that a TLB indexed by the page number's low bits, folded or not, must keep in one place: what needs both at
 * once has to end.
 */
static void far_apart(u64 distance)
{
    enum { PAGES = 3 };
    u64 near = TEST_AREA, far = TEST_AREA + distance;
    u8 *copied = new_pages(PAGES);
    for (unsigned page = 0; page < PAGES; page++) {
        map(near + page * PAGE, (u64)new_pages(1), P | W);
        map(far + page * PAGE, (u64)copied + page * PAGE, P | W);
    }
    for (u64 at = 0; at < PAGES * PAGE; at += 8)
        write64(near + at, at * 0x0101010101);
    struct string state = {near, far, PAGES * PAGE / 8, FLAG_FIXED};
    STRING("rep movsq", state);
    check("REP MOVSQ between pages of one place", !memcmp((void *)near, copied, PAGES * PAGE));
    state = (struct string){near, far, PAGES * PAGE, FLAG_FIXED};
    STRING("repe cmpsb", state);
    check_equal("REPE CMPSB", state.count, 0);
    EMIT("xchg rsp, %0\n push qword ptr [%1]\n xchg rsp, %0" : : "r"(far + 32), "r"(near + PAGE) : "memory");
    check_equal("PUSH from memory", read64((word)copied + 24), read64(near + PAGE));
}

static struct frame stopped;
static u64 missing;
static void supply(struct frame *frame)
{
    stopped = *frame;
    map(missing, (u64)new_pages(1), P | W);
}

static void restarts(void)
{
    u64 area = TEST_AREA + 0x10000;
    missing = area + PAGE;
    map(area, (u64)new_pages(1), P | W);
    handlers[PF] = supply;
    struct string state = {(word)source, missing - 16, 32, FLAG_FIXED};
    fill();
    STRING("rep movsb", state);
    check_equal("the fault comes after the iterations before it: RCX", stopped.cx, 16);
    check_equal("RDI", stopped.di, missing);
    check_equal("RSI", stopped.si, (word)source + 16);
    check("after the handler it goes on", !memcmp((void *)(missing - 16), source, 32) && state.count == 0);
    *entry_of(missing, 1) = 0;
    invlpg(missing);
    state = (struct string){(word)source, missing - 12, 4, FLAG_FIXED};
    STRING("rep movsq", state);
    check_equal("an element across the boundary is not begun", stopped.cx, 3);
    check("and is made whole later", !memcmp((void *)(missing - 12), source, 32));
    missing = area;
    *entry_of(missing, 1) = 0;
    invlpg(missing);
    state = (struct string){(word)source + 31, missing + PAGE + 15, 32, FLAG_FIXED | FLAG_DF};
    STRING("rep movsb", state);
    check_equal("downwards too", stopped.cx, 16);
    check("and completed", !memcmp((void *)(missing + PAGE - 16), source, 32));
    missing = area + 5 * PAGE;
    map(area + 4 * PAGE, (u64)new_pages(1), P | W);
    memset(target, 0, sizeof target);
    state = (struct string){missing - 100, (word)target, 104, FLAG_FIXED};
    STRING("repe cmpsb", state);
    check_equal("a comparison that faults", stopped.cx, 4);
    check_equal("and goes on", state.count, 0);
    handlers[PF] = NULL;
    map(area + 9 * PAGE, 0, 0);
    u64 beyond = area + 9 * PAGE;
    map(area + 8 * PAGE, (u64)new_pages(1), P | W);
    state = (struct string){0, beyond - 8, 100, FLAG_FIXED};
    FAULTS("REP STOSB into a missing page", PF, PF_W, STRING("rep stosb", state));
    check("what came before is written", read8(beyond - 1) == 0x88);
    FAULTS("REP MOVSB at CPL 3", PF, PF_U | PF_W,
           RING_3(state = (struct string){(word)source, area + 9 * PAGE, 4, FLAG_FIXED}; STRING("rep movsb", state)));
}

static volatile unsigned interrupts;
static volatile u64 least_count = ~0ull;
static void tick(struct frame *frame)
{
    interrupts++;
    if (frame->cx && frame->cx < least_count)
        least_count = frame->cx;
    apic_end_of_interrupt();
}

static void interrupted(void)
{
    static const u64 size = 4 << 20;
    apic_enable();
    handlers[0x40] = tick;
    apic_timer(APIC_PERIODIC, 0x40, 20000);
    for (int turn = 0; turn < 200 && (least_count == ~0ull || turn < 3); turn++) {
        struct string state = {0x800000, 0x1000000, size, FLAG_FIXED | FLAG_IF};
        STRING("rep movsb", state);
        if (state.count || state.di != 0x1000000 + size)
            give_up("an interrupted REP ended wrong");
    }
    EMIT("cli");
    apic_write(APIC_INITIAL_COUNT, 0);
    check("a long REP is interrupted between iterations", least_count < size);
}

static void through_segments(void)
{
    static u8 byte = 0x5a;
    wrmsr(MSR_FS_BASE, (word)&byte);
    fill();
    EMIT("mov rdi, %0\n xor esi, esi\n movsb byte ptr [rdi], byte ptr fs:[rsi]"
         : : "r"(target) : "rdi", "rsi", "memory");
    check_equal("MOVS takes its source from FS", target[0], 0x5a);
}

void run(void)
{
    every_size();
    comparing();
    backwards();
    overlapping();
    short_addresses();
    far_apart(1ull << 22);
    far_apart(1ull << 26);
    far_apart(1ull << 38 | 1ull << 24);
    restarts();
    interrupted();
    through_segments();
}
