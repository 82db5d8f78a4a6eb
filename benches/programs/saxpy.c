/* y = a*x + y in single precision with AVX2's 256-bit vectors and fused multiply-add, in the first cache. */

#include <immintrin.h>

#include "measure.h"

#define COUNT 2048
#define PASSES 4000

static float x[COUNT] __attribute__((aligned(32)));
static float y[COUNT] __attribute__((aligned(32)));

__attribute__((target("avx2,fma"))) static void saxpy(float a)
{
    __m256 factor = _mm256_set1_ps(a);
    for (int i = 0; i < COUNT; i += 16) {
        __m256 low = _mm256_fmadd_ps(factor, _mm256_load_ps(x + i), _mm256_load_ps(y + i));
        __m256 high = _mm256_fmadd_ps(factor, _mm256_load_ps(x + i + 8), _mm256_load_ps(y + i + 8));
        _mm256_store_ps(y + i, low);
        _mm256_store_ps(y + i + 8, high);
    }
}

/* The sum of y; all values are whole numbers below 2^24, so single precision holds them exactly. */
static uint64_t work(void)
{
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(i % 7), y[i] = (float)i;
    for (int pass = 0; pass < PASSES; pass++)
        saxpy((float)(pass % 3));
    for (int i = 0; i < COUNT; i++)
        sum += (double)y[i];
    return (uint64_t)sum;
}

int main(int argc, char **argv)
{
    uint64_t sum_of_x = 0, factors = 0;
    for (uint64_t i = 0; i < COUNT; i++)
        sum_of_x += i % 7;
    for (uint64_t pass = 0; pass < PASSES; pass++)
        factors += pass % 3;
    return measure("saxpy", work, factors * sum_of_x + (uint64_t)COUNT * (COUNT - 1) / 2, 120, argc, argv);
}
