/* AES-128 (FIPS 197) with the AES instructions: four chains of blocks enciphered, then deciphered again. */

#include <immintrin.h>
#include <string.h>

#include "measure.h"

#define ROUNDS 10
#define LANES 4
#define BLOCKS 20000 /* in each chain */

#define TARGET __attribute__((target("aes,sse4.1")))

static __m128i encipher_keys[ROUNDS + 1], decipher_keys[ROUNDS + 1];

/* FIPS 197, section 5.2: each word of a round key is the exclusive or of all before it in the earlier one. */
TARGET static __m128i next_key(__m128i key, __m128i assist)
{
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, _mm_shuffle_epi32(assist, 0xff));
}

#define EXPAND(round, constant) \
    encipher_keys[round] = \
        next_key(encipher_keys[(round) - 1], _mm_aeskeygenassist_si128(encipher_keys[(round) - 1], constant))

TARGET static void expand(__m128i key)
{
    encipher_keys[0] = key;
    EXPAND(1, 0x01), EXPAND(2, 0x02), EXPAND(3, 0x04), EXPAND(4, 0x08), EXPAND(5, 0x10);
    EXPAND(6, 0x20), EXPAND(7, 0x40), EXPAND(8, 0x80), EXPAND(9, 0x1b), EXPAND(10, 0x36);
    for (int i = 0; i <= ROUNDS; i++) {
        __m128i reversed = encipher_keys[ROUNDS - i];
        decipher_keys[i] = i == 0 || i == ROUNDS ? reversed : _mm_aesimc_si128(reversed);
    }
}

TARGET static void encipher(__m128i lanes[LANES])
{
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = _mm_xor_si128(lanes[lane], encipher_keys[0]);
    for (int i = 1; i < ROUNDS; i++)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = _mm_aesenc_si128(lanes[lane], encipher_keys[i]);
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = _mm_aesenclast_si128(lanes[lane], encipher_keys[ROUNDS]);
}

TARGET static void decipher(__m128i lanes[LANES])
{
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = _mm_xor_si128(lanes[lane], decipher_keys[0]);
    for (int i = 1; i < ROUNDS; i++)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = _mm_aesdec_si128(lanes[lane], decipher_keys[i]);
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = _mm_aesdeclast_si128(lanes[lane], decipher_keys[ROUNDS]);
}

static const unsigned char key[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const unsigned char enciphered[16] = {0x69, 0xc4, 0xe0, 0xd8, 0x6a, 0x7b, 0x04, 0x30,
                                             0xd8, 0xcd, 0xb7, 0x80, 0x70, 0xb4, 0xc5, 0x5a};

/* 1 if the example of FIPS 197's appendix C.1 comes out, and every chain comes back to its start. */
TARGET static uint64_t work(void)
{
    __m128i lanes[LANES], start[LANES];
    for (int lane = 0; lane < LANES; lane++)
        start[lane] = _mm_set_epi64x((long long)0xffeeddccbbaa9988 - lane, 0x7766554433221100);
    memcpy(lanes, start, sizeof lanes);
    encipher(lanes);
    int right = memcmp(lanes, enciphered, sizeof enciphered) == 0;
    for (int i = 1; i < BLOCKS; i++)
        encipher(lanes);
    for (int i = 0; i < BLOCKS; i++)
        decipher(lanes);
    return right && memcmp(lanes, start, sizeof start) == 0;
}

TARGET int main(int argc, char **argv)
{
    if (!__builtin_cpu_supports("aes"))
        return skip("aes", "AES instructions");
    expand(_mm_loadu_si128((const __m128i *)key));
    return measure("aes", work, 1, 40, argc, argv);
}
