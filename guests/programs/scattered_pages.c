/*
 * Programs at CPL 3 do not see where their pages lie: whatever they do to an array whose frames are scattered gives
 * byte for byte what the same does, at CPL 0, to one in a row (SDM vol. 3, 4.5).
 */
#include "scattered.h"

enum { COUNT = 70, SIZE = COUNT * PAGE };

static _Alignas(PAGE) u8 frames[SIZE], wanted[SIZE];
static u64 array;
static enum order order;
static bool wide;


static void store(u8 *at, unsigned size, u64 value)
{
    switch (size) {
    case 1:
        write8((word)at, value);
        break;
    case 2:
        write16((word)at, value);
        break;
    case 4:
        write32((word)at, value);
        break;
    case 8:
        write64((word)at, value);
        break;
    case 16:
        EMIT("movq xmm0, %1\n pshufd xmm1, xmm0, 0x1b\n punpcklqdq xmm0, xmm1\n movups [%0], xmm0"
             : : "r"(at), "r"(value) : "memory");
        break;
    default:
        EMIT("vmovq xmm0, %1\n vpshufd xmm1, xmm0, 0x1b\n vpunpcklqdq xmm0, xmm0, xmm1\n vpshufd xmm2, xmm0, 0x39\n"
             "vinsertf128 ymm0, ymm0, xmm2, 1\n vmovups [%0], ymm0" : : "r"(at), "r"(value) : "memory");
    }
}

static u64 load(const u8 *at, unsigned size)
{
    u64 value;
    switch (size) {
    case 1:
        return read8((word)at);
    case 2:
        return read16((word)at);
    case 4:
        return read32((word)at);
    case 8:
        return read64((word)at);
    case 16:
        EMIT("movups xmm0, [%1]\n movhlps xmm1, xmm0\n paddq xmm0, xmm1\n movq %0, xmm0"
             : "=r"(value) : "r"(at) : "memory");
        return value;
    default:
        EMIT("vmovups ymm0, [%1]\n vextractf128 xmm1, ymm0, 1\n vpaddq xmm0, xmm0, xmm1\n vpsrldq xmm1, xmm0, 8\n"
             "vpsubq xmm0, xmm0, xmm1\n vmovq %0, xmm0" : "=r"(value) : "r"(at) : "memory");
        return value;
    }
}

/* Elements that follow each other, or are `step` bytes apart, from an offset on that has them cross pages. */
#define LOOPS(size)                                                                                                \
    __attribute__((noinline)) static void fill_##size(u8 *to, unsigned from, unsigned step, u64 seed)              \
    {                                                                                                              \
        for (u8 *at = to + from; at <= to + SIZE - size; at += step)                                               \
            store(at, size, seed = seed * 6364136223846793005 + 1442695040888963407);                              \
    }                                                                                                              \
    __attribute__((noinline)) static u64 sum_##size(const u8 *array, unsigned from, unsigned step, u64 sum)        \
    {                                                                                                              \
        for (const u8 *at = array + from; at <= array + SIZE - size; at += step)                                   \
            sum = sum * 5 + load(at, size);                                                                        \
        return sum;                                                                                                \
    }
LOOPS(1)
LOOPS(2)
LOOPS(4)
LOOPS(8)
LOOPS(16)
LOOPS(32)

static bool is_wanted(void)
{
    bool same = true;
    for (unsigned page = 0; page < COUNT; page++) {
        const u8 *is = frames + place_of(order, page, COUNT) * PAGE, *should = wanted + page * PAGE;
        bool equal;
        EMIT("mov ecx, 512\n repe cmpsq" : "+S"(is), "+D"(should), "=@cce"(equal) : : "rcx", "memory");
        same &= equal;
    }
    return same;
}

#define STREAM(size, rounds)                                                                                       \
    do {                                                                                                           \
        bool sums = true;                                                                                          \
        for (unsigned round = 0; round < rounds; round++) {                                                        \
            unsigned from = round * 3 % size, step = round % 2 || size < 8 ? 2 * size + 7 : size;                              \
            u64 mine;                                                                                              \
            RING_3(fill_##size((u8 *)array, from, step, round); mine = sum_##size((u8 *)array, from, step, round));\
            fill_##size(wanted, from, step, round);                                                                \
            sums &= mine == sum_##size(wanted, from, step, round);                                                 \
        }                                                                                                          \
        check("reads of " #size " bytes", sums);                                                                   \
        check("writes of " #size " bytes", is_wanted());                                                           \
    } while (0)

static void streams(void)
{
    STREAM(1, 2);
    STREAM(2, 2);
    STREAM(4, 2);
    STREAM(8, 2);
    STREAM(16, 3);
    if (wide)
        STREAM(32, 5);
}

/* Every kind of read-modify-write, at each distance from a page's end. */
__attribute__((noinline)) static u64 modify(u8 *array, unsigned rounds)
{
    u64 sum = 0;
    for (; rounds; rounds--)
        for (u8 *at = array + rounds; at <= array + SIZE - 32; at += 39)
            EMIT("mov ecx, 1\n add qword ptr [%1], 77\n not dword ptr [%1 + 3]\n xor byte ptr [%1 + 9], 0x5a\n"
                 "inc word ptr [%1 + 11]\n lock add qword ptr [%1 + 13], 3\n mov rax, %0\n xadd [%1 + 17], rax\n"
                 "add %0, rax\n bts word ptr [%1 + 20], 5\n adc %0, [%1 + 2]\n mov rax, [%1 + 21]\n"
                 "lock cmpxchg [%1 + 21], %0\n xchg ecx, [%1 + 6]\n add %0, rcx\n rol dword ptr [%1 + 25], 3\n"
                 "neg byte ptr [%1 + 30]\n sbb qword ptr [%1 + 22], 1\n add %0, [%1]"
                 : "+r"(sum) : "r"(at) : "rax", "rcx", "memory", "cc");
    return sum;
}

/* Sixteen quadwords in a row, which one check may cover. */
__attribute__((noinline)) static void shift_lines(u8 *array, unsigned rounds)
{
    for (; rounds; rounds--)
        for (u8 *at = array + rounds % 8; at <= array + SIZE - 128; at += 120)
            EMIT("mov rax, [%0]\n mov rcx, [%0 + 24]\n add [%0 + 120], rax\n mov rdx, [%0 + 64]\n add [%0 + 8], rcx\n"
                 "mov [%0 + 32], rdx\n xor [%0 + 96], rax\n mov rax, [%0 + 112]\n mov [%0 + 16], rax"
                 : : "r"(at) : "rax", "rcx", "rdx", "memory", "cc");
}

/* Base and index, scale and displacement; and a base register that moves on. */
__attribute__((noinline)) static u64 index(u8 *array, unsigned rounds)
{
    u64 sum = 0;
    for (; rounds; rounds--)
        for (u64 at = 0; at + 16 < SIZE / 8; at += 13) {
            u8 *end = array + SIZE;
            u64 back = at - SIZE / 8;
            EMIT("mov rax, [%1 + %2 * 8 + 5]\n add [%3 + %4 * 8], rax\n mov ecx, [%1 + %2 * 4 + 0x1000]\n add %0, rcx\n"
                 "lea rdx, [%1 + %2 * 8]\n add [rdx], cl\n add rdx, 100\n mov [rdx - 7], %0"
                 : "+r"(sum) : "r"(array), "r"(at), "r"(end), "r"(back) : "rax", "rcx", "rdx", "memory", "cc");
        }
    return sum;
}

__attribute__((noinline)) static u64 by_segments(u64 rounds)
{
    u64 sum = 0;
    for (; rounds; rounds--)
        for (u64 at = 1; at < SIZE - 16; at += 61)
            EMIT("mov rax, fs:[%1]\n add gs:[%1 + 3], rax\n add %0, fs:[%1 + 5]\n inc byte ptr gs:[%1 + 2]"
                 : "+r"(sum) : "r"(at) : "rax", "memory", "cc");
    return sum;
}

__attribute__((noinline)) static void move_strings(u8 *array)
{
    for (unsigned at = 100; at + 3000 < SIZE / 2; at += 2999) {
        u8 *from = array + at, *to = array + SIZE - 3000 - at;
        u64 count = 371;
        EMIT("rep movsq\n mov ecx, 9\n rep movsb\n mov ecx, 3\n rep stosd"
             : "+S"(from), "+D"(to), "+c"(count) : "a"(at) : "memory");
    }
}

#define SAME(name, call)                                                                                           \
    do {                                                                                                           \
        u8 *where = (u8 *)array;                                                                                   \
        u64 mine, its;                                                                                             \
        RING_3(mine = (call));                                                                                     \
        where = wanted;                                                                                            \
        its = (call);                                                                                              \
        check_equal(name ": what is read", mine, its);                                                             \
        check(name ": what is written", is_wanted());                                                              \
    } while (0)

static void other_addresses(void)
{
    SAME("lines", (shift_lines(where, 12), 0));
    SAME("base and index", index(where, 10));
    SAME("strings", (move_strings(where), 0));
    wrmsr(MSR_FS_BASE, array);
    wrmsr(MSR_GS_BASE, array);
    u64 mine, its;
    RING_3(mine = by_segments(8));
    wrmsr(MSR_FS_BASE, (u64)wanted);
    wrmsr(MSR_GS_BASE, (u64)wanted);
    its = by_segments(8);
    check("by FS and GS", mine == its && is_wanted());
}

/* Push, call and return all the way down the array and up again, from a stack pointer that may be odd. */
__attribute__((noinline)) static u64 use_stack(u8 *array, unsigned rounds)
{
    u64 sum = 0;
    for (; rounds; rounds--) {
        u8 *top = array + SIZE - 16 - rounds % 9;
        u64 count = SIZE / 64 - 2;
        EMIT("mov r8, rsp\n mov r10, rbp\n mov rsp, %1\n mov r9, %2\n mov ebp, 7\n xor eax, eax\n"
             "1: push r9\n call 3f\n push [rsp + 8]\n push 5\n pop [rsp - 16]\n pushf\n pop rax\n push rbp\n mov rbp, rsp\n"
             "sub rsp, 16\n mov [rbp - 8], r9\n add [rbp - 16], r9\n leave\n push rax\n push cx\n lea rsp, [rsp - 38]\n"
             "dec r9\n jnz 1b\n mov r9, %2\n"
             "2: lea rsp, [rsp + 38]\n pop ax\n add %0, rax\n pop rax\n pop rdx\n add %0, rdx\n pop rdx\n imul rdx, r9\n"
             "add %0, rdx\n dec r9\n jnz 2b\n mov rsp, r8\n mov rbp, r10\n jmp 4f\n"
             "3: mov rcx, [rsp]\n xor ecx, r9d\n ret\n 4:"
             : "+b"(sum) : "S"(top), "D"(count) : "rax", "rcx", "rdx", "r8", "r9", "r10", "memory", "cc");
    }
    return sum;
}

enum { NODES = COUNT * 60 };

/* Nodes in no order; some lie across pages. */
static u64 offset_of_node(unsigned number)
{
    return (number * 1021ul % NODES) * ((SIZE - 24) / NODES);
}

__attribute__((noinline)) static u64 chase(u64 node, unsigned rounds)
{
    u64 sum = 0;
    for (u64 count = (u64)rounds * NODES; count; count--) {
        sum = sum * 3 + read64(node + 8);
        ++*(volatile u64 *)(node + 16);
        node = read64(node);
    }
    return sum;
}

static void link(u8 *array, u64 address)
{
    for (unsigned number = 0; number < NODES; number++) {
        u8 *node = array + offset_of_node(number);
        write64((word)node, address + offset_of_node((number + 1) % NODES));
        write64((word)node + 8, number);
        write64((word)node + 16, 0);
    }
}

static void chases(void)
{
    u64 mine;
    RING_3(link((u8 *)array, array); mine = chase(array, 8));
    link(wanted, (u64)wanted);
    check_equal("pointers are followed", mine, chase((u64)wanted, 8));
    for (unsigned number = 0; number < NODES; number++)
        write64((word)wanted + offset_of_node(number), array + offset_of_node((number + 1) % NODES));
    check("and every node is counted", is_wanted());
}

/* The same frames at two places, in two orders: what is written at one is read at the other at once. */
__attribute__((noinline)) static u64 echo(u64 one, u64 other, unsigned rounds)
{
    u64 wrong = 0;
    for (; rounds; rounds--)
        for (u64 page = 0; page < COUNT; page++)
            for (u64 at = rounds & 7; at < PAGE - 8; at += 504) {
                u64 there = other + (COUNT - 1 - page) * PAGE + at;
                write64(one + page * PAGE + at, page * rounds + at);
                wrong += read64(there) != page * rounds + at;
                ++*(volatile u64 *)there;
                wrong += read64(one + page * PAGE + at) != page * rounds + at + 1;
            }
    return wrong;
}

static void aliases(u64 other)
{
    u64 wrong;
    lay_out(array, frames, COUNT, ASCENDING, P | W | U);
    lay_out(other, frames, COUNT, DESCENDING, P | W | U);
    RING_3(wrong = echo(array, other, 60));
    check_equal("two mappings of the same frames show the same", wrong, 0);
    lay_out(array, frames, COUNT, SHUFFLED, P | W | U);
    for (unsigned page = 0; page < COUNT; page++)
        map(other + (COUNT - 1 - page) * PAGE, (u64)frames + place_of(SHUFFLED, page, COUNT) * PAGE, P | W | U);
    RING_3(wrong = echo(array, other, 60));
    check_equal("also in other orders", wrong, 0);
}

static void array_at(const char *where_it_is, u64 linear, enum order its_order)
{
    print("ok ---- ");
    print(where_it_is);
    print("\n");
    array = linear, order = its_order;
    lay_out(array, frames, COUNT, order, P | W | U);
    memset(wanted, 0, SIZE);
    memset(frames, 0, SIZE);
    SAME("a stack", use_stack(where, 5));
    SAME("read-modify-writes", modify(where, 4));
    chases();
}

static void enable_vectors(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    struct cpuid one = cpuid(1, 0);
    wide = one.c >> 26 & 1 && one.c >> 28 & 1;
    if (!wide) {
        skip("AVX");
        return;
    }
    write_cr4(read_cr4() | CR4_OSXSAVE);
    EMIT("xsetbv" : : "a"(7), "d"(0), "c"(0));
}

void run(void)
{
    enable_vectors();
    array_at("shuffled frames, across a GByte's end", TEST_AREA + (3ul << 30) - 31 * PAGE, SHUFFLED);
    streams();
    array_at("descending frames", TEST_AREA, DESCENDING);
    other_addresses();
    array_at("pairs of frames, at the end of the lower half", 0x800000000000 - SIZE, PAIRS);
    array_at("shuffled frames, in the upper half", TEST_AREA_HIGH, SHUFFLED);
    array_at("ascending frames, there", TEST_AREA_HIGH + (1ul << 30) - 5 * PAGE, ASCENDING);
    array = TEST_AREA;
    aliases(TEST_AREA + (1ul << 30) - 9 * PAGE);
}
