/*
 * Locked instructions by several processors at once: no update is lost, whatever the size and wherever the operand
 * lies: in a cache line, across two, across two pages that are neighbours in RAM or not (SDM vol. 3, 8.1.2).
 */
#include "processors.h"

enum { COUNT = 4, TIMES = 2000 };

static _Alignas(64) u8 area[256];
static volatile u64 *where;
static u64 guarded;
static volatile u32 lock;

static void increment_8(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("lock inc byte ptr [%0]" : : "r"(where) : "memory", "cc");
}

static void increment_16(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("lock add word ptr [%0], 1" : : "r"(where) : "memory", "cc");
}

static void increment_32(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("lock sub dword ptr [%0], -1" : : "r"(where) : "memory", "cc");
}

static void increment_64(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("lock inc qword ptr [%0]" : : "r"(where) : "memory", "cc");
}

static void exchange_and_add(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++) {
        u64 value = 1;
        EMIT("lock xadd [%1], %0" : "+r"(value) : "r"(where) : "memory", "cc");
    }
}

static void compare_and_exchange(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("mov rax, [%0]\n 1: lea rcx, [rax + 1]\n lock cmpxchg [%0], rcx\n jnz 1b"
             : : "r"(where) : "rax", "rcx", "memory", "cc");
}

static void compare_and_exchange_16_bytes(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++)
        EMIT("mov rax, [%0]\n mov rdx, [%0 + 8]\n"
             "1: mov rbx, rax\n mov rcx, rdx\n inc rbx\n dec rcx\n lock cmpxchg16b [%0]\n jnz 1b"
             : : "r"(where) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}

static void count_under_lock(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++) {
        u32 taken;
        do {
            taken = 1;
            EMIT("xchg [%1], %0" : "+r"(taken) : "r"(&lock) : "memory");
        } while (taken);
        guarded++;
        lock = 0;
    }
}

static void count_under_bit_lock(unsigned processor)
{
    (void)processor;
    for (unsigned i = 0; i < TIMES; i++) {
        u8 taken;
        do
            EMIT("lock bts qword ptr [%1], 63\n setc %0" : "=q"(taken) : "r"(where) : "memory", "cc");
        while (taken);
        guarded++;
        EMIT("lock btr qword ptr [%0], 63" : : "r"(where) : "memory", "cc");
    }
}

static u64 counted(work *work, void *place)
{
    where = place;
    *where = 0;
    together(COUNT, work);
    return *where;
}

void run(void)
{
    start_processors(COUNT);
    u64 all = COUNT * TIMES;
    check_equal("bytes", counted(increment_8, area) & 0xff, all & 0xff);
    check_equal("words", counted(increment_16, area) & 0xffff, all);
    check_equal("doublewords", counted(increment_32, area), all);
    check_equal("quadwords", counted(increment_64, area), all);
    check_equal("XADD", counted(exchange_and_add, area), all);
    check_equal("CMPXCHG", counted(compare_and_exchange, area), all);
    write64((word)area + 8, all);
    check_equal("CMPXCHG16B, low half", counted(compare_and_exchange_16_bytes, area), all);
    check_equal("high half", read64((word)area + 8), 0);
    check_equal("across cache lines", counted(increment_64, area + 61), all);
    u8 *frames = new_pages(4);
    check_equal("across pages", counted(increment_64, frames + PAGE - 3), all);
    map(TEST_AREA, (u64)frames + 3 * PAGE, P | W);
    map(TEST_AREA + PAGE, (u64)frames, P | W);
    u8 *apart = (u8 *)TEST_AREA + PAGE - 3;
    check_equal("across pages that lie apart", counted(increment_64, apart), all);
    check_equal("XADD there", counted(exchange_and_add, apart), all);
    together(COUNT, count_under_lock);
    check_equal("a counter under a lock by XCHG", guarded, all);
    guarded = 0;
    where = (volatile u64 *)apart;
    *where = 0;
    together(COUNT, count_under_bit_lock);
    check_equal("and under one by BTS, across pages that lie apart", guarded, all);
}
