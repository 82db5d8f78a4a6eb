/* What the programs here share: a clock, and an end when something fails. */

#ifndef TIMING_H
#define TIMING_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Seconds. */
static inline double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

/* End the program unless a system call succeeded. */
static inline void check(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

#endif
