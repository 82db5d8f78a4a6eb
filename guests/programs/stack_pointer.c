/*
 * RSP as a register like any other: for half a second it holds anything but a stack, so that whatever the host does
 * meanwhile (signals, above all) must not take it for one. tests/guest/test_host_signals.py sends some.
 */
#include "guest.h"

enum { STEPS = 10000, HALF_A_SECOND = 500000000 /* our counter has 1 GHz */ };
#define FACTOR 6364136223846793005

static u64 in_stack_pointer(u64 seed)
{
    u64 value;
    EMIT("mov rbx, rsp\n mov rsp, %1\n mov ecx, %2\n 1: imul rsp, %3\n add rsp, rcx\n dec rcx\n jnz 1b\n"
         "mov %0, rsp\n mov rsp, rbx"
         : "=&r"(value) : "r"(seed), "i"(STEPS), "r"(FACTOR) : "rbx", "rcx", "cc");
    return value;
}

static u64 in_memory(u64 seed)
{
    for (u64 count = STEPS; count; count--)
        seed = seed * FACTOR + count;
    return seed;
}

void run(void)
{
    u64 start = rdtsc(), seed = 1;
    bool right = true;
    while (rdtsc() - start < HALF_A_SECOND) {
        right &= in_stack_pointer(seed) == in_memory(seed);
        seed = in_memory(seed);
    }
    check("RSP computes", right);
}
