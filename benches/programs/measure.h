/* What every program here does: a fixed amount of work, checked, between two readings of the clock. */

#ifndef MEASURE_H
#define MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/*
 * Call `work` `repetitions` times (or as often as the first argument says), compare each answer with the
 * known one, and print "result NAME SECONDS REPETITIONS". Returns the program's exit code.
 */
static inline int measure(const char *name, uint64_t (*work)(void), uint64_t known, long repetitions,
                          int argc, char **argv)
{
    uint64_t (*volatile opaque)(void) = work; /* or the compiler would do equal work only once */
    if (argc > 1)
        repetitions = atol(argv[1]);
    double start = seconds_now();
    for (long i = 0; i < repetitions; i++) {
        uint64_t answer = opaque();
        if (answer != known) {
            printf("wrong %s %#llx, not %#llx\n", name, (unsigned long long)answer, (unsigned long long)known);
            return 1;
        }
    }
    printf("result %s %.6f %ld\n", name, seconds_now() - start, repetitions);
    return 0;
}

/* A generator of test data: xorshift64 (Marsaglia, 2003). */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
