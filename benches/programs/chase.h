/* A walk along a cycle of pointers in random order: nothing but dependent loads. */

#include "measure.h"

/* Who includes this defines NAME, LINKS, STRIDE (bytes of a link, at least 16) and STEPS. */
struct link {
    struct link *next;
    uint64_t place; /* how far along the cycle from the first link */
    char unused[STRIDE - 16]; /* its size may be 0 */
};

static struct link links[LINKS] __attribute__((aligned(4096)));
static uint32_t order[LINKS];

/* One cycle through all links in random order (Fisher and Yates shuffle the order). */
static void tie(void)
{
    uint64_t state = 7;
    for (uint32_t i = 0; i < LINKS; i++)
        order[i] = i;
    for (uint32_t i = LINKS - 1; i > 1; i--) {
        uint32_t other = 1 + (uint32_t)(next_random(&state) % i), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (uint32_t i = 0; i < LINKS; i++) {
        links[order[i]].next = &links[order[(i + 1) % LINKS]];
        links[order[i]].place = i;
    }
}

/* Where the steps end. */
static uint64_t work(void)
{
    struct link *at = links;
    for (int i = 0; i < STEPS; i++)
        at = at->next;
    return at->place;
}

int main(int argc, char **argv)
{
    tie();
    return measure(NAME, work, STEPS % LINKS, 1, argc, argv);
}
