/*
 * Several processors as programs use them: threads that meet on futexes, processes that fork, maps that come and go
 * while others use their neighbours. Exits with 0 if nothing was lost.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 8, TIMES = 4000, CHILDREN = 6, GENERATIONS = 12, MAPS = 300, PAGE = 4096 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static long guarded, turn;
static atomic_long counted;

static void fail(const char *what)
{
    printf("lost: %s\n", what);
    exit(1);
}

static void *count(void *unused)
{
    (void)unused;
    for (int i = 0; i < TIMES; i++) {
        pthread_mutex_lock(&mutex);
        guarded++;
        pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&counted, 1);
    }
    return NULL;
}

/* Each waits for its turn: a chain of wake-ups. */
static void *take_turns(void *number)
{
    for (int i = 0; i < TIMES / 16; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != (long)number)
            pthread_cond_wait(&turned, &mutex);
        turn++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* Maps and unmaps: the other processors' TLBs must follow. */
static void *remap(void *number)
{
    for (int i = 0; i < MAPS; i++) {
        unsigned char *place = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (place == MAP_FAILED)
            fail("a map");
        for (int page = 0; page < 4; page++)
            if (place[page * PAGE] != 0)
                fail("a page of zeros");
        memset(place, (int)(long)number + 1, 4 * PAGE);
        mprotect(place, 2 * PAGE, PROT_READ);
        if (place[PAGE] != (long)number + 1 || place[3 * PAGE] != (long)number + 1)
            fail("what was written to a map");
        munmap(place, 4 * PAGE);
    }
    return NULL;
}

static void together(void *(*work)(void *))
{
    pthread_t threads[THREADS];
    for (long number = 0; number < THREADS; number++)
        if (pthread_create(&threads[number], NULL, work, (void *)number))
            fail("a thread");
    for (int number = 0; number < THREADS; number++)
        pthread_join(threads[number], NULL);
}

/* A tree of processes; each leaf writes to pages that it shares by copy on write. */
static void fork_often(void)
{
    static unsigned char shared[16 * PAGE];
    memset(shared, 0x55, sizeof shared);
    for (int generation = 0; generation < GENERATIONS; generation++) {
        for (int child = 0; child < CHILDREN; child++) {
            pid_t pid = fork();
            if (pid < 0)
                fail("a fork");
            if (pid == 0) {
                for (int page = 0; page < 16; page++)
                    shared[page * PAGE] = (unsigned char)child;
                for (int page = 0; page < 16; page++)
                    if (shared[page * PAGE] != child || shared[page * PAGE + 1] != 0x55)
                        _exit(1);
                _exit(0);
            }
        }
        for (int child = 0; child < CHILDREN; child++) {
            int status;
            if (wait(&status) < 0 || status != 0)
                fail("a child");
        }
        if (shared[0] != 0x55)
            fail("a page copied on write");
    }
}

static void *pass_signals(void *unused)
{
    (void)unused;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (int i = 0; i < TIMES / 16; i++) {
        int signal;
        if (sigwait(&set, &signal) || signal != SIGUSR1)
            fail("a signal");
        atomic_fetch_add(&counted, 1);
    }
    return NULL;
}

static void send_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t receiver;
    counted = 0;
    pthread_create(&receiver, NULL, pass_signals, NULL);
    for (long sent = 1; sent <= TIMES / 16; sent++) {
        pthread_kill(receiver, SIGUSR1);
        while (counted < sent)
            sched_yield();
    }
    pthread_join(receiver, NULL);
}

int main(void)
{
    together(count);
    if (guarded != THREADS * TIMES || counted != THREADS * TIMES)
        fail("a count");
    together(take_turns);
    if (turn != THREADS * (TIMES / 16))
        fail("a turn");
    together(remap);
    fork_often();
    send_signals();
    puts("nothing was lost");
    return 0;
}
