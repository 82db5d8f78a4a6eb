/* A walk along a cycle of pointers that fits the first-level cache: nothing but dependent loads. */

#include "measure.h"

#define LINKS 2048 /* 16 KiB */
#define STEPS 60000000

static void *links[LINKS];

/* One cycle through all links in random order (Sattolo's algorithm). */
static void tie(void)
{
    uint32_t order[LINKS];
    uint64_t state = 7;
    for (uint32_t i = 0; i < LINKS; i++)
        order[i] = i;
    for (uint32_t i = LINKS - 1; i > 0; i--) {
        uint32_t other = (uint32_t)(next_random(&state) % i), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (uint32_t i = 0; i < LINKS; i++)
        links[order[i]] = &links[order[(i + 1) % LINKS]];
}

/* How many links lie between the start and where the steps end, counted along the cycle. */
static uint64_t work(void)
{
    void **at = links;
    uint64_t distance = 0;
    for (int i = 0; i < STEPS; i++)
        at = *at;
    for (void **from = links; from != at; from = *from)
        distance++;
    return distance;
}

int main(int argc, char **argv)
{
    tie();
    return measure("chase", work, STEPS % LINKS, 5, argc, argv);
}
