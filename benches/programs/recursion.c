/* Deep recursion: Ackermann's function, thousands of calls deep, far beyond a processor's return stack. */

#include "measure.h"

#define N 8

/* Every call a call: tail calls made into jumps and copies within itself would leave little to return from. */
__attribute__((noinline, optimize("no-optimize-sibling-calls"))) static uint64_t ackermann(uint64_t m, uint64_t n)
{
    if (m == 0)
        return n + 1;
    if (n == 0)
        return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

static uint64_t work(void)
{
    return ackermann(3, N);
}

int main(int argc, char **argv)
{
    return measure("recursion", work, (1u << (N + 3)) - 3, 30, argc, argv);
}
