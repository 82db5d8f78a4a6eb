/* Extended precision on the x87's stack: an integral by Simpson's rule, with a square root and a division. */

#include <math.h>
#include <string.h>

#include "measure.h"

#define STEPS 100000
#define MANTISSAS_AT_END 0x284c4420842bc920

/* Its integral from 0 to 1 is pi / 4. */
static long double integrand(long double x)
{
    return 1 / (1 + x * x);
}

static uint64_t mantissa(long double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The mantissas of pi and of a sum of distances; with rounding to 64 bits they are the same everywhere. */
static uint64_t work(void)
{
    long double sum = integrand(0) + integrand(1), distances = 0;
    for (int i = 1; i < STEPS; i++) {
        long double x = (long double)i / STEPS;
        sum += (i & 1 ? 4 : 2) * integrand(x);
        distances += sqrtl(x * x + 1 / x);
    }
    return mantissa(sum / 3 / STEPS * 4) * 31 + mantissa(distances);
}

int main(int argc, char **argv)
{
    return measure("x87", work, MANTISSAS_AT_END, 30, argc, argv);
}
