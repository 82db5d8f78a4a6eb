/* Two processes at the same time, each with the same integer work: as fast as one if there are processors. */

#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define PROCESSES 2
#define STEPS 100000000
#define ANSWER 21

/* xorshift64 from a seed, long enough to be work; the lowest byte fits an exit code. */
static int mixed(void)
{
    uint64_t state = 88172645463325252, sum = 0;
    for (int i = 0; i < STEPS; i++)
        sum += next_random(&state) & 0xffff;
    return (int)(sum & 0xff);
}

/* How many processes came to the answer. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (int i = 0; i < PROCESSES; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(mixed());
        if (child < 0)
            fail("fork");
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        if (wait(&status) < 0)
            fail("wait");
        right += WIFEXITED(status) && WEXITSTATUS(status) == ANSWER;
    }
    return right;
}

int main(int argc, char **argv)
{
    return measure_anywhere("parallel", work, PROCESSES, 1, argc, argv);
}
