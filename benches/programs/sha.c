/* SHA-256 (FIPS 180-4) of a million letters "a" with the SHA instructions. */

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

#include "measure.h"

#define LENGTH 1000000

#define TARGET __attribute__((target("sha,sse4.1,ssse3")))

static const uint32_t round_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static unsigned char message[LENGTH + 128];
static size_t padded_length;

struct state {
    __m128i abef, cdgh; /* the order that SHA256RNDS2 wants */
};

/* The schedule's next four words from its last sixteen. */
TARGET static __m128i next_words(__m128i a, __m128i b, __m128i c, __m128i d)
{
    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8(d, c, 4));
    return _mm_sha256msg2_epu32(sum, d);
}

TARGET static void four_rounds(struct state *state, __m128i words, int round)
{
    __m128i sums = _mm_add_epi32(words, _mm_load_si128((const __m128i *)(round_constants + round)));
    state->cdgh = _mm_sha256rnds2_epu32(state->cdgh, state->abef, sums);
    state->abef = _mm_sha256rnds2_epu32(state->abef, state->cdgh, _mm_shuffle_epi32(sums, 0x0e));
}

TARGET static void compress(struct state *state, const unsigned char *block)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    struct state before = *state;
    __m128i words[4];
    for (int i = 0; i < 4; i++) {
        words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), big_endian);
        four_rounds(state, words[i], 4 * i);
    }
    for (int i = 4; i < 16; i++) {
        __m128i next = next_words(words[i & 3], words[(i + 1) & 3], words[(i + 2) & 3], words[(i + 3) & 3]);
        words[i & 3] = next;
        four_rounds(state, next, 4 * i);
    }
    state->abef = _mm_add_epi32(state->abef, before.abef);
    state->cdgh = _mm_add_epi32(state->cdgh, before.cdgh);
}

/* The first and the last word of the digest. */
TARGET static uint64_t work(void)
{
    struct state state = {
        _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c),
        _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19),
    };
    for (size_t at = 0; at < padded_length; at += 64)
        compress(&state, message + at);
    return (uint64_t)(uint32_t)_mm_extract_epi32(state.abef, 3) << 32 | (uint32_t)_mm_extract_epi32(state.cdgh, 0);
}

static void pad(void)
{
    memset(message, 'a', LENGTH);
    message[LENGTH] = 0x80;
    padded_length = (LENGTH + 9 + 63) / 64 * 64;
    for (int i = 0; i < 8; i++)
        message[padded_length - 1 - i] = (unsigned char)((uint64_t)LENGTH * 8 >> 8 * i);
}

/* CPUID leaf 7, EBX bit 29. */
static int has_sha(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx >> 29 & 1;
}

int main(int argc, char **argv)
{
    if (!has_sha())
        return skip("sha", "SHA instructions");
    pad();
    /* The first and the last word of the digest that FIPS 180-2's appendix B.3 gives. */
    return measure("sha", work, 0xcdc76e5cc7112cd0, 60, argc, argv);
}
