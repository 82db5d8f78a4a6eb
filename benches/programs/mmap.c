/* Mapping and unmapping: 64 KiB of anonymous memory of which two pages are touched. */

#include <sys/mman.h>

#include "measure.h"

#define MAPPINGS 1000
#define LENGTH 65536

/* How many mappings held what was written to both ends. */
static uint64_t work(void)
{
    uint64_t held = 0;
    for (int i = 0; i < MAPPINGS; i++) {
        volatile unsigned char *memory =
            mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            fail("mmap");
        memory[0] = 1;
        memory[LENGTH - 1] = 2;
        held += memory[0] + memory[LENGTH - 1] == 3;
        if (munmap((void *)memory, LENGTH) != 0)
            fail("munmap");
    }
    return held;
}

int main(int argc, char **argv)
{
    return measure("mmap", work, MAPPINGS, 5, argc, argv);
}
