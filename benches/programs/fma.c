/* Polynomials by Horner's rule in single precision, with fused multiply-add in 256-bit vectors. */

#include <immintrin.h>

#include "measure.h"

#define COUNT 2048
#define DEGREE 15
#define PASSES 1000
#define AT_ONCE 8 /* vectors, so that one's latency is another's work */

static float x[COUNT] __attribute__((aligned(32)));
static float y[COUNT] __attribute__((aligned(32)));

/* y += polynomial(x), where the coefficient of x to the power of k is k + 1. */
__attribute__((target("avx,fma"))) static void add_polynomials(void)
{
    for (int i = 0; i < COUNT; i += 8 * AT_ONCE) {
        __m256 sums[AT_ONCE];
#pragma GCC unroll 8
        for (int k = 0; k < AT_ONCE; k++)
            sums[k] = _mm256_set1_ps(DEGREE + 1);
        for (int power = DEGREE - 1; power >= 0; power--) {
            __m256 coefficient = _mm256_set1_ps((float)(power + 1));
#pragma GCC unroll 8
            for (int k = 0; k < AT_ONCE; k++)
                sums[k] = _mm256_fmadd_ps(sums[k], _mm256_load_ps(x + i + 8 * k), coefficient);
        }
#pragma GCC unroll 8
        for (int k = 0; k < AT_ONCE; k++)
            _mm256_store_ps(y + i + 8 * k, _mm256_add_ps(_mm256_load_ps(y + i + 8 * k), sums[k]));
    }
}

/* -1, 0 or 1: all sums stay whole numbers below 2^24, which single precision holds exactly. */
static int argument(int i)
{
    return i % 3 - 1;
}

/* The sum of y. */
static uint64_t work(void)
{
    int64_t sum = 0;
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)argument(i), y[i] = 0;
    for (int pass = 0; pass < PASSES; pass++)
        add_polynomials();
    for (int i = 0; i < COUNT; i++)
        sum += (int64_t)y[i];
    return (uint64_t)sum;
}

static uint64_t expected(void)
{
    int64_t sum = 0;
    for (int i = 0; i < COUNT; i++) {
        int64_t value = 0;
        for (int power = DEGREE; power >= 0; power--)
            value = value * argument(i) + power + 1;
        sum += PASSES * value;
    }
    return (uint64_t)sum;
}

int main(int argc, char **argv)
{
    if (!__builtin_cpu_supports("fma"))
        return skip("fma", "FMA");
    return measure("fma", work, expected(), 10, argc, argv);
}
