/* A guest's disk: all of it in order by 1 MiB, as any program reads it, and past the guest's page cache; then 4 KiB at
 * random by sixteen threads, past the cache. Prints MB/s, MB/s and reads a second. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "timing.h"

enum { MIB = 1 << 20, PAGE = 4096, THREADS = 16, READS = 1000 };

static int disk;
static unsigned long pages;

static void *buffer(size_t size)
{
	void *at;
	if (posix_memalign(&at, PAGE, size))
		exit(1);
	return at;
}

static void take(void *at, size_t size, off_t offset)
{
	if (pread(disk, at, size, offset) != (ssize_t)size) {
		perror("pread");
		exit(1);
	}
}

static void *at_random(void *number)
{
	unsigned long state = (unsigned long)number + 1;
	void *at = buffer(PAGE);
	for (int read = 0; read < READS; read++) {
		state = state * 6364136223846793005UL + 1442695040888963407UL;
		take(at, PAGE, (off_t)((state >> 20) % pages) * PAGE);
	}
	return NULL;
}

/* Seconds that it takes to read all of the disk in order. */
static double in_order(off_t size, void *at)
{
	double start = now();
	for (off_t offset = 0; offset < size; offset += MIB)
		take(at, MIB, offset);
	return now() - start;
}

int main(void)
{
	pthread_t threads[THREADS];
	disk = open("/dev/vda", O_RDONLY);
	if (disk < 0 || posix_fadvise(disk, 0, 0, POSIX_FADV_DONTNEED)) {
		perror("/dev/vda");
		return 1;
	}
	off_t size = lseek(disk, 0, SEEK_END);
	void *at = buffer(MIB);
	double cached = in_order(size, at);
	close(disk);
	disk = open("/dev/vda", O_RDONLY | O_DIRECT);
	if (disk < 0) {
		perror("/dev/vda");
		return 1;
	}
	pages = (unsigned long)size / PAGE;
	double direct = in_order(size, at);
	double start = now();
	for (unsigned long number = 0; number < THREADS; number++)
		if (pthread_create(&threads[number], NULL, at_random, (void *)number))
			return 1;
	for (int number = 0; number < THREADS; number++)
		pthread_join(threads[number], NULL);
	double random = now() - start, megabytes = (double)size / 1e6;
	printf("disk %.1f %.1f %.0f\n", megabytes / cached, megabytes / direct, THREADS * READS / random);
	return 0;
}
