/* Bits counted with AVX2: a table in a vector by VPSHUFB, sums by VPSADBW, integers in 256-bit vectors. */

#include <immintrin.h>

#include "measure.h"

#define WORDS 2048 /* 16 KiB */
#define PASSES 300

static uint64_t words[WORDS] __attribute__((aligned(32)));

__attribute__((target("avx2"))) static __m256i bits_of_bytes(__m256i bytes)
{
    __m256i of_nibble = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(bytes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(of_nibble, low), _mm256_shuffle_epi8(of_nibble, high));
}

/* The bits that are 1 in all words, of every pass with the words turned by another amount. */
__attribute__((target("avx2"))) static uint64_t work(void)
{
    __m256i sum = _mm256_setzero_si256();
    for (int pass = 0; pass < PASSES; pass++) {
        __m256i turn = _mm256_set1_epi8((char)pass);
        for (int i = 0; i < WORDS; i += 4) {
            __m256i four = _mm256_xor_si256(_mm256_load_si256((const __m256i *)(words + i)), turn);
            sum = _mm256_add_epi64(sum, _mm256_sad_epu8(bits_of_bytes(four), _mm256_setzero_si256()));
        }
    }
    return (uint64_t)_mm256_extract_epi64(sum, 0) + (uint64_t)_mm256_extract_epi64(sum, 1) +
           (uint64_t)_mm256_extract_epi64(sum, 2) + (uint64_t)_mm256_extract_epi64(sum, 3);
}

static uint64_t expected(void)
{
    uint64_t sum = 0;
    for (uint64_t pass = 0; pass < PASSES; pass++)
        for (int i = 0; i < WORDS; i++)
            sum += (uint64_t)__builtin_popcountll(words[i] ^ (pass & 255) * 0x0101010101010101);
    return sum;
}

int main(int argc, char **argv)
{
    uint64_t seed = 5;
    if (!__builtin_cpu_supports("avx2"))
        return skip("avx2", "AVX2");
    for (int i = 0; i < WORDS; i++)
        words[i] = next_random(&seed);
    return measure("avx2", work, expected(), 90, argc, argv);
}
