/* Fork and exec of a tiny static program, which is this one with an argument to end at once. */

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define CHILDREN 20
#define END "end"

static char *path;

/* How many children ran the program and ended with the code that was asked for. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (int i = 0; i < CHILDREN; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            execl(path, path, END, (char *)NULL);
            _exit(1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            fail("fork");
        right += WIFEXITED(status) && WEXITSTATUS(status) == 7;
    }
    return right;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], END) == 0)
        return 7;
    path = argv[0];
    return measure("exec", work, CHILDREN, 20, argc, argv);
}
