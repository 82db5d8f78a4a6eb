/* The shortest system call: getppid, past any cache in the library. */

#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

#define CALLS 100000

static uint64_t work(void)
{
    uint64_t right = 0;
    long parent = getppid();
    for (int i = 0; i < CALLS; i++)
        right += syscall(SYS_getppid) == parent;
    return right;
}

int main(int argc, char **argv)
{
    return measure("syscall", work, CALLS, 10, argc, argv);
}
