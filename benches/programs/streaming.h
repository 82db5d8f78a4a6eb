/* Streams of doubles through memory: copy, scale and triad over arrays that no second-level cache holds. */

#include "measure.h"

/* Who includes this defines NAME, COUNT (elements of an array) and PASSES. */

/* The loops as written: a call of memcpy in place of one would be the row of REP MOVS. */
#define LOOP __attribute__((noinline, optimize("no-tree-loop-distribute-patterns")))

/* One after the other, so that their size decides how they lie to each other. */
static struct {
    double a[COUNT], b[COUNT], c[COUNT];
} arrays __attribute__((aligned(4096)));

LOOP static void copy(double *restrict to, const double *restrict from)
{
    for (int i = 0; i < COUNT; i++)
        to[i] = from[i];
}

LOOP static void scale(double *restrict to, const double *restrict from, double by)
{
    for (int i = 0; i < COUNT; i++)
        to[i] = by * from[i];
}

LOOP static void triad(double *restrict to, const double *restrict left, const double *restrict right, double by)
{
    for (int i = 0; i < COUNT; i++)
        to[i] = left[i] + by * right[i];
}

/* Seven times the sum of a, which every pass of copy, scale and triad leaves as it was. */
static uint64_t work(void)
{
    double sum = 0, *a = arrays.a, *b = arrays.b, *c = arrays.c;
    for (int i = 0; i < COUNT; i++)
        a[i] = i & 1023;
    for (int pass = 0; pass < PASSES; pass++) {
        copy(c, a);
        scale(b, c, 2);
        triad(a, b, c, -1);
    }
    triad(c, a, b, 3);
    for (int i = 0; i < COUNT; i++)
        sum += c[i];
    return (uint64_t)sum;
}

int main(int argc, char **argv)
{
    uint64_t sum = 0;
    touch(&arrays, sizeof arrays);
    for (uint64_t i = 0; i < COUNT; i++)
        sum += i & 1023;
    /* A pass: c = a, b = 2c, a = b - c. At the end c = a + 3b. */
    return measure(NAME, work, 7 * sum, 1, argc, argv);
}
