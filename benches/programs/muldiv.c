/* 64-bit multiplication and division: Fermat's test of numbers near 2^62, by MUL and DIV of 128 bits. */

#include "measure.h"

#define FIRST ((uint64_t)1 << 62 | 1)
#define CANDIDATES 1500
#define PRIMES_AMONG_THEM 78

/* a * b modulo m, of a and b below m: the quotient fits, so DIV cannot fault. */
static uint64_t product(uint64_t a, uint64_t b, uint64_t m)
{
    uint64_t low, high, quotient, remainder;
    __asm__("mulq %3" : "=a"(low), "=d"(high) : "a"(a), "r"(b) : "cc");
    __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "a"(low), "d"(high), "r"(m) : "cc");
    return remainder;
}

static uint64_t power(uint64_t base, uint64_t exponent, uint64_t m)
{
    uint64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1)
            result = product(result, base, m);
        base = product(base, base, m);
    }
    return result;
}

/* How many of the odd numbers from FIRST on look prime to base 2; here all that do are. */
static uint64_t work(void)
{
    uint64_t primes = 0;
    for (uint64_t i = 0; i < CANDIDATES; i++)
        primes += power(2, FIRST + 2 * i - 1, FIRST + 2 * i) == 1;
    return primes;
}

int main(int argc, char **argv)
{
    return measure("muldiv", work, PRIMES_AMONG_THEM, 80, argc, argv);
}
