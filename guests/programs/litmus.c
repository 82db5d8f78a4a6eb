/*
 * Memory ordering among processors: the litmus tests of SDM vol. 3, 8.2.3, and their kin. What the manual forbids is
 * never seen; that stores may pass later loads (SB, R) is allowed and not looked for.
 */
#include "processors.h"

enum { CELLS = 1024, ROUNDS = 16, MOST = 4 };

/* One location for each try, in a cache line of its own. */
struct cell {
    volatile u64 value;
    u8 rest[56];
};
static _Alignas(64) struct cell x[CELLS], y[CELLS];
static volatile u8 seen[MOST][CELLS];
/* Local to each processor: what LOCK as a fence writes. */
static struct cell own[MOST];

typedef void step(unsigned i);
static struct test {
    const char *name;
    unsigned processors;
    step *steps[MOST];
    bool (*forbidden)(unsigned i);
} const *current;

#define STEP(name, ...) static void name(unsigned i) { __VA_ARGS__; }
#define FORBIDDEN(name, what) static bool name(unsigned i) { return what; }
#define FENCE asm volatile("mfence" : : : "memory")
#define EXCHANGE(cell, new) __atomic_exchange_n(&(cell)[i].value, new, __ATOMIC_SEQ_CST)
#define LOCKED_ADD(p) asm volatile("lock add qword ptr [%0], 0" : : "r"(&own[p]) : "memory", "cc")

STEP(store_x, x[i].value = 1)
STEP(store_y, y[i].value = 1)
STEP(store_x_y, x[i].value = 1; y[i].value = 1)

STEP(message, seen[0][i] = y[i].value; seen[1][i] = x[i].value)
FORBIDDEN(message_lost, seen[0][i] == 1 && seen[1][i] == 0)

STEP(load_x_store_y, seen[0][i] = x[i].value; y[i].value = 1)
STEP(load_y_store_x, seen[1][i] = y[i].value; x[i].value = 1)
FORBIDDEN(both_early, seen[0][i] == 1 && seen[1][i] == 1)

STEP(fenced_x, x[i].value = 1; FENCE; seen[0][i] = y[i].value)
STEP(fenced_y, y[i].value = 1; FENCE; seen[1][i] = x[i].value)
FORBIDDEN(both_late, seen[0][i] == 0 && seen[1][i] == 0)
STEP(exchanged_x, EXCHANGE(x, 1); seen[0][i] = y[i].value)
STEP(exchanged_y, EXCHANGE(y, 1); seen[1][i] = x[i].value)
STEP(locked_x, x[i].value = 1; LOCKED_ADD(0); seen[0][i] = y[i].value)
STEP(locked_y, y[i].value = 1; LOCKED_ADD(1); seen[1][i] = x[i].value)

STEP(read_x_y, seen[0][i] = x[i].value; seen[1][i] = y[i].value)
STEP(read_y_x, seen[2][i] = y[i].value; seen[3][i] = x[i].value)
FORBIDDEN(disagree, seen[0][i] == 1 && seen[1][i] == 0 && seen[2][i] == 1 && seen[3][i] == 0)
STEP(exchange_x, EXCHANGE(x, 1))
STEP(exchange_y, EXCHANGE(y, 1))

STEP(x1_y2, x[i].value = 1; y[i].value = 2)
STEP(y1_x2, y[i].value = 1; x[i].value = 2)
FORBIDDEN(both_first, x[i].value == 1 && y[i].value == 1)

STEP(x2_y1, x[i].value = 2; y[i].value = 1)
STEP(load_y_then_x1, seen[0][i] = y[i].value; x[i].value = 1)
FORBIDDEN(overwritten, seen[0][i] == 1 && x[i].value == 2)

STEP(y2_fence_load_x, y[i].value = 2; FENCE; seen[0][i] = x[i].value)
FORBIDDEN(read_too_early, y[i].value == 2 && seen[0][i] == 0)

STEP(load_x_twice, seen[0][i] = x[i].value; seen[1][i] = x[i].value)
FORBIDDEN(went_back, seen[0][i] == 1 && seen[1][i] == 0)

STEP(pass_on, u8 value = x[i].value; seen[0][i] = value; y[i].value = value)
STEP(receive, seen[1][i] = y[i].value; seen[2][i] = x[i].value)
FORBIDDEN(not_transitive, seen[1][i] == 1 && seen[2][i] == 0)

STEP(halves, x[i].value = ~0ull)
STEP(read_halves, u64 value = x[i].value; seen[0][i] = value == 0 || value == ~0ull)
FORBIDDEN(torn, !seen[0][i])
STEP(unaligned, *(volatile u64 *)((u8 *)&x[i] + 3) = ~0ull)
STEP(read_unaligned, u64 value = *(volatile u64 *)((u8 *)&x[i] + 3); seen[0][i] = value == 0 || value == ~0ull)

static const struct test tests[] = {
    {"MP: stores are seen in their order", 2, {store_x_y, message}, message_lost},
    {"LB: stores do not pass earlier loads", 2, {load_x_store_y, load_y_store_x}, both_early},
    {"SB with MFENCE", 2, {fenced_x, fenced_y}, both_late},
    {"SB with XCHG", 2, {exchanged_x, exchanged_y}, both_late},
    {"SB with a locked addition", 2, {locked_x, locked_y}, both_late},
    {"IRIW: stores are seen in one order by all others", 4, {store_x, store_y, read_x_y, read_y_x}, disagree},
    {"IRIW with XCHG", 4, {exchange_x, exchange_y, read_x_y, read_y_x}, disagree},
    {"2+2W", 2, {x1_y2, y1_x2}, both_first},
    {"S", 2, {x2_y1, load_y_then_x1}, overwritten},
    {"R with MFENCE", 2, {store_x_y, y2_fence_load_x}, read_too_early},
    {"CoRR: a location does not go back", 2, {store_x, load_x_twice}, went_back},
    {"WRC: stores are transitively visible", 3, {store_x, pass_on, receive}, not_transitive},
    {"an aligned quadword is written at once", 2, {halves, read_halves}, torn},
    {"so is an unaligned one within a cache line", 2, {unaligned, read_unaligned}, torn},
};

static void take_part(unsigned processor)
{
    step *step = current->steps[processor];
    meet(current->processors);
    for (unsigned i = 0; i < CELLS; i++)
        step(i);
}

static void clear(struct cell *cells)
{
    u64 count = CELLS * sizeof *cells / 8;
    EMIT("rep stosq" : "+D"(cells), "+c"(count) : "a"(0) : "memory");
}

static unsigned violations(void)
{
    unsigned count = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        clear(x);
        clear(y);
        together(current->processors, take_part);
        for (unsigned i = 0; i < CELLS; i++)
            count += current->forbidden(i);
    }
    return count;
}

void run(void)
{
    start_processors(MOST);
    for (unsigned number = 0; number < sizeof tests / sizeof *tests; number++) {
        current = &tests[number];
        check_equal(current->name, violations(), 0);
    }
}
