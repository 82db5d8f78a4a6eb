/*
 * What makes a translator forget, thousands of times: CR3, INVLPG, CR4.PGE, rights that change, code that is written.
 * The results must be right, and the program done in time: a storm is no reason to crawl.
 */
#include "guest.h"

enum { ROUNDS = 20000 };

static u64 work(u64 seed)
{
    for (int turn = 0; turn < 8; turn++)
        seed = seed * 6364136223846793005 + 1442695040888963407;
    return seed;
}

/* What the work should come to, without a storm. */
static u64 calm(void)
{
    u64 value = 1;
    for (int round = 0; round < ROUNDS; round++)
        value = work(value);
    return value;
}

#define STORM(name, expected, ...)                                                                                 \
    do {                                                                                                           \
        u64 value = 1;                                                                                             \
        for (int round = 0; round < ROUNDS; round++) {                                                             \
            __VA_ARGS__;                                                                                           \
            value = work(value);                                                                                   \
        }                                                                                                          \
        check_equal(name, value, expected);                                                                        \
    } while (0)

void run(void)
{
    u64 expected = calm();
    STORM("a storm of CR3 writes", expected, write_cr3(read_cr3()));
    STORM("a storm of INVLPG", expected, invlpg((word)work));
    write_cr4(read_cr4() | CR4_PGE);
    STORM("a storm of CR4.PGE", expected, write_cr4(read_cr4() ^ CR4_PGE));
    STORM("a storm of CR0.WP", expected, write_cr0(read_cr0() ^ CR0_WP));
    write_cr0(read_cr0() | CR0_WP);

    volatile u64 *entry = map(TEST_AREA, (u64)new_pages(1), P | W);
    STORM("a storm of remapping", expected, *entry ^= W; invlpg(TEST_AREA); (void)read8(TEST_AREA));

    u8 *code = new_pages(1);
    code[0] = 0xb8, code[5] = 0xc3;
    u64 sum = 0, expected_sum = 0;
    for (u32 round = 0; round < ROUNDS / 4; round++) {
        write32((word)code + 1, round);
        sum += ((u32(*)(void))(word)code)();
        expected_sum += round;
    }
    check_equal("a storm of written code", sum, expected_sum);
}
