/*
 * What every program here does: a fixed amount of work, checked, between two readings of the clock.
 * gcc -O2 -static -D_GNU_SOURCE builds each of them from its one file.
 */

#ifndef MEASURE_H
#define MEASURE_H

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static inline double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Of this process and its children that were waited for. */
static inline double processor_seconds_now(void)
{
    struct rusage self, children;
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    struct timeval parts[] = {self.ru_utime, self.ru_stime, children.ru_utime, children.ru_stime};
    double seconds = 0;
    for (int i = 0; i < 4; i++)
        seconds += (double)parts[i].tv_sec + (double)parts[i].tv_usec * 1e-6;
    return seconds;
}

/* Stay on one processor, with all children to come: guests have one, and natively it is to be no different. */
static inline void use_one_processor(void)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    if (sched_setaffinity(0, sizeof here, &here) != 0)
        perror("sched_setaffinity");
}

/*
 * Call `work` `repetitions` times (or as often as the first argument says) and compare each answer with the
 * known one. "start NAME" and "result NAME SECONDS PROCESSOR_SECONDS REPETITIONS" stand around it, so that
 * whoever reads the lines can time it by a clock of their own. Returns the program's exit code.
 */
static inline int measure_anywhere(const char *name, uint64_t (*work)(void), uint64_t known, long repetitions,
                          int argc, char **argv)
{
    uint64_t (*volatile opaque)(void) = work; /* or the compiler would do equal work only once */
    if (argc > 1)
        repetitions = atol(argv[1]);
    printf("start %s\n", name);
    fflush(stdout);
    (void)tcdrain(STDOUT_FILENO); /* a serial line sends while we work; an error means it is no terminal */
    double start = seconds_now(), processor_start = processor_seconds_now();
    for (long i = 0; i < repetitions; i++) {
        uint64_t answer = opaque();
        if (answer != known) {
            printf("wrong %s %#llx, not %#llx\n", name, (unsigned long long)answer, (unsigned long long)known);
            return 1;
        }
    }
    double seconds = seconds_now() - start, processor_seconds = processor_seconds_now() - processor_start;
    printf("result %s %.6f %.6f %ld\n", name, seconds, processor_seconds, repetitions);
    return 0;
}

/* The same on one processor. */
static inline int measure(const char *name, uint64_t (*work)(void), uint64_t known, long repetitions,
                          int argc, char **argv)
{
    use_one_processor();
    return measure_anywhere(name, work, known, repetitions, argc, argv);
}

/* Have all pages of memory there before it is measured: page faults have a row of their own. */
static inline void touch(void *memory, size_t length)
{
    for (size_t at = 0; at < length; at += 4096)
        ((volatile char *)memory)[at] = 0;
}

/* Say that this processor lacks what the program is about. Returns the program's exit code. */
static inline int skip(const char *name, const char *missing)
{
    printf("skip %s the processor has no %s\n", name, missing);
    return 0;
}

/* Say that a system call failed, and end the program. */
static inline void fail(const char *what)
{
    perror(what);
    printf("wrong %s failed\n", what);
    exit(1);
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
