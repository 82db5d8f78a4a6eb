/* Compression by earlier matches (after Lempel and Ziv, 1977) and back: hashing, byte loads, short copies. */

#include <string.h>

#include "measure.h"

#define LENGTH 1000000
#define HASH_BITS 14
#define SHORTEST 4
#define LONGEST (SHORTEST + 127)
#define FARTHEST 65535

static unsigned char text[LENGTH], packed[LENGTH + LENGTH / 128 + 16], unpacked[LENGTH];
static uint32_t last_seen[1 << HASH_BITS];

static uint32_t four_bytes(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t hash(uint32_t value)
{
    return value * 2654435761u >> (32 - HASH_BITS);
}

/* Literal bytes behind a token with their number less one: 0 to 127. */
static unsigned char *put_literals(unsigned char *to, const unsigned char *from, const unsigned char *end)
{
    while (from < end) {
        size_t count = end - from < 128 ? (size_t)(end - from) : 128;
        *to++ = (unsigned char)(count - 1);
        for (size_t i = 0; i < count; i++)
            *to++ = *from++;
    }
    return to;
}

/* A token of 128 and the length beyond the shortest, then the distance back in two bytes. */
static unsigned char *put_match(unsigned char *to, size_t length, size_t distance)
{
    *to++ = (unsigned char)(128 + length - SHORTEST);
    *to++ = (unsigned char)distance;
    *to++ = (unsigned char)(distance >> 8);
    return to;
}

static size_t match_length(const unsigned char *at, const unsigned char *earlier)
{
    size_t most = text + LENGTH - at < LONGEST ? (size_t)(text + LENGTH - at) : LONGEST, length = 0;
    while (length < most && at[length] == earlier[length])
        length++;
    return length;
}

static size_t compress(void)
{
    unsigned char *to = packed;
    const unsigned char *at = text + 1, *pending = text;
    memset(last_seen, 0, sizeof last_seen);
    while (at < text + LENGTH - SHORTEST) {
        uint32_t *slot = &last_seen[hash(four_bytes(at))];
        const unsigned char *earlier = text + *slot;
        *slot = (uint32_t)(at - text);
        size_t length = at - earlier <= FARTHEST ? match_length(at, earlier) : 0;
        if (length < SHORTEST) {
            at++;
            continue;
        }
        to = put_literals(to, pending, at);
        to = put_match(to, length, (size_t)(at - earlier));
        pending = at += length;
    }
    return (size_t)(put_literals(to, pending, text + LENGTH) - packed);
}

static size_t decompress(size_t packed_length)
{
    unsigned char *to = unpacked;
    for (const unsigned char *at = packed; at < packed + packed_length;) {
        unsigned token = *at++;
        if (token < 128) {
            for (unsigned i = 0; i <= token; i++)
                *to++ = *at++;
        } else {
            const unsigned char *from = to - (at[0] | at[1] << 8);
            at += 2;
            for (unsigned i = 0; i < token - 128 + SHORTEST; i++)
                *to++ = *from++;
        }
    }
    return (size_t)(to - unpacked);
}

/* 1 if what was compressed is a good deal shorter and comes back the same. */
static uint64_t work(void)
{
    size_t length = compress();
    memset(unpacked, 0, sizeof unpacked);
    return length < LENGTH * 3 / 4 && decompress(length) == LENGTH && memcmp(text, unpacked, LENGTH) == 0;
}

/* Words of a language of 4096 words, the low numbers more often than the high ones. */
static void write_text(void)
{
    uint64_t seed = 31337;
    for (size_t at = 0; at < LENGTH;) {
        uint64_t draw = next_random(&seed) >> 16;
        uint64_t word = (draw & 4095) * (draw >> 12 & 4095) >> 12;
        for (uint64_t letters = word * word + 77; letters && at < LENGTH; letters /= 23)
            text[at++] = (unsigned char)('a' + letters % 23);
        if (at < LENGTH)
            text[at++] = ' ';
    }
}

int main(int argc, char **argv)
{
    write_text();
    return measure("compress", work, 1, 30, argc, argv);
}
