/* Fork: a child that ends at once, of a process with a little memory of its own. */

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define CHILDREN 100

static char memory[1 << 20];

/* How many children ended with the code that was their number. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (int i = 0; i < CHILDREN; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(i);
        if (child < 0 || waitpid(child, &status, 0) != child)
            fail("fork");
        right += WIFEXITED(status) && WEXITSTATUS(status) == i;
    }
    return right;
}

int main(int argc, char **argv)
{
    memset(memory, 1, sizeof memory);
    return measure("fork", work, CHILDREN, 10, argc, argv);
}
