/* Ping-pong: a byte to another process through a pipe and back through a second one; two switches a turn. */

#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define TURNS 1000

static int there[2], back[2];

static void answer(void)
{
    unsigned char ball;
    close(there[1]);
    while (read(there[0], &ball, 1) == 1) {
        ball++;
        if (write(back[1], &ball, 1) != 1)
            _exit(1);
    }
    _exit(0);
}

/* How many answers were the ball's successor. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (int i = 0; i < TURNS; i++) {
        unsigned char ball = (unsigned char)i, answer = 0;
        if (write(there[1], &ball, 1) != 1 || read(back[0], &answer, 1) != 1)
            fail("pipe");
        right += answer == (unsigned char)(i + 1);
    }
    return right;
}

int main(int argc, char **argv)
{
    use_one_processor();
    if (pipe(there) != 0 || pipe(back) != 0)
        fail("pipe");
    pid_t child = fork();
    if (child == 0)
        answer();
    int code = measure("pipe", work, TURNS, 10, argc, argv);
    close(there[1]);
    waitpid(child, NULL, 0);
    return code;
}
