/* Page faults: fresh anonymous pages of 4 KiB touched, given back, and touched again. */

#include <sys/mman.h>

#include "measure.h"

#define PAGES 1024
#define PAGE 4096

static volatile unsigned char *memory;

/* How many pages were zero again when they were touched. */
static uint64_t work(void)
{
    uint64_t zero = 0;
    for (int i = 0; i < PAGES; i++)
        {
            zero += memory[i * PAGE] == 0;
            memory[i * PAGE] = 1;
        }
    if (madvise((void *)memory, PAGES * PAGE, MADV_DONTNEED) != 0)
        fail("madvise");
    return zero;
}

int main(int argc, char **argv)
{
    memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    /* An error means a kernel without huge pages. */
    (void)madvise((void *)memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    return measure("page_fault", work, PAGES, 50, argc, argv);
}
