/* A three-point blur of bytes with SSE2: unaligned 128-bit loads, widening, additions and packing. */

#include <emmintrin.h>
#include <string.h>

#include "measure.h"

#define WIDTH 4096
#define PASSES 60

static unsigned char original[WIDTH + 32], row[2][WIDTH + 32], wanted[WIDTH + 32];

/* (left + 2 * middle + right + 2) / 4 for 16 neighbours at once. */
static __m128i blurred(const unsigned char *at)
{
    __m128i zero = _mm_setzero_si128(), two = _mm_set1_epi16(2);
    __m128i left = _mm_loadu_si128((const __m128i *)(at - 1));
    __m128i middle = _mm_loadu_si128((const __m128i *)at);
    __m128i right = _mm_loadu_si128((const __m128i *)(at + 1));
    __m128i low = _mm_add_epi16(_mm_unpacklo_epi8(left, zero), _mm_unpacklo_epi8(right, zero));
    __m128i high = _mm_add_epi16(_mm_unpackhi_epi8(left, zero), _mm_unpackhi_epi8(right, zero));
    low = _mm_add_epi16(low, _mm_add_epi16(_mm_slli_epi16(_mm_unpacklo_epi8(middle, zero), 1), two));
    high = _mm_add_epi16(high, _mm_add_epi16(_mm_slli_epi16(_mm_unpackhi_epi8(middle, zero), 1), two));
    return _mm_packus_epi16(_mm_srli_epi16(low, 2), _mm_srli_epi16(high, 2));
}

/* 1 if blurring gave what the plain loop in `main` gave. */
static uint64_t work(void)
{
    memcpy(row[0], original, sizeof original);
    memcpy(row[1], original, sizeof original);
    for (int pass = 0; pass < PASSES; pass++)
        for (int i = 16; i < WIDTH + 16; i += 16)
            _mm_storeu_si128((__m128i *)(row[~pass & 1] + i), blurred(row[pass & 1] + i));
    return memcmp(row[PASSES & 1], wanted, sizeof wanted) == 0;
}

int main(int argc, char **argv)
{
    uint64_t state = 99;
    for (int i = 0; i < WIDTH + 32; i++)
        wanted[i] = original[i] = (unsigned char)next_random(&state);
    for (int pass = 0; pass < PASSES; pass++) {
        unsigned char before[WIDTH + 32];
        memcpy(before, wanted, sizeof before);
        for (int i = 16; i < WIDTH + 16; i++)
            wanted[i] = (unsigned char)((before[i - 1] + 2 * before[i] + before[i + 1] + 2) / 4);
    }
    return measure("blur", work, 1, 2500, argc, argv);
}
