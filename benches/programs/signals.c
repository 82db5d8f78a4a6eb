/* Signals: a process signals itself; the kernel builds a frame, the handler counts, SIGRETURN goes back. */

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

#define SIGNALS 10000

static volatile uint64_t handled;

static void count(int number)
{
    handled += number == SIGUSR1;
}

static uint64_t work(void)
{
    pid_t self = getpid();
    handled = 0;
    for (int i = 0; i < SIGNALS; i++)
        kill(self, SIGUSR1);
    return handled;
}

int main(int argc, char **argv)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = count;
    if (sigaction(SIGUSR1, &action, NULL) != 0)
        fail("sigaction");
    return measure("signals", work, SIGNALS, 3, argc, argv);
}
