/* Blocks moved and filled by REP MOVS and REP STOS: 4 KiB to 1 MiB, in bytes and in quadwords. */

#include "measure.h"

#define LARGEST (1u << 20)
#define SMALLEST (1u << 12)

static uint64_t blocks[2][LARGEST / 8] __attribute__((aligned(4096)));

static void move_bytes(void *to, const void *from, size_t count)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void move_quadwords(void *to, const void *from, size_t count)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void fill_bytes(void *to, unsigned char with, size_t count)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(with) : "memory");
}

static void fill_quadwords(void *to, uint64_t with, size_t count)
{
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(with) : "memory");
}

/* As many bytes with each size of block, in turn: there by bytes, back by quadwords, and two fills. */
static uint64_t work(void)
{
    uint64_t sum = 0;
    for (size_t size = SMALLEST; size <= LARGEST; size *= 4)
        for (size_t at = 0; at < LARGEST; at += size) {
            char *here = (char *)blocks[0] + at, *there = (char *)blocks[1] + at;
            fill_quadwords(here, at + size, size / 8);
            move_bytes(there, here, size);
            fill_bytes(here, (unsigned char)(size >> 12), size);
            move_quadwords(here, there, size / 8);
            sum += blocks[0][at / 8] + blocks[0][(at + size) / 8 - 1];
        }
    return sum;
}

static uint64_t expected(void)
{
    uint64_t sum = 0;
    for (uint64_t size = SMALLEST; size <= LARGEST; size *= 4)
        for (uint64_t at = 0; at < LARGEST; at += size)
            sum += 2 * (at + size);
    return sum;
}

int main(int argc, char **argv)
{
    touch(blocks, sizeof blocks);
    return measure("rep_movs", work, expected(), 15, argc, argv);
}
