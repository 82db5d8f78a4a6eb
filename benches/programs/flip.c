/* A compiler's page: made writable, written, made executable, called. */

#include "code.h"

#define FLIPS 1000

static unsigned char *code;

/* How many calls returned the number that was just written. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (uint32_t i = 0; i < FLIPS; i++) {
        if (mprotect(code, PAGE, PROT_READ | PROT_WRITE) != 0)
            fail("mprotect");
        write_function(code, i);
        if (mprotect(code, PAGE, PROT_READ | PROT_EXEC) != 0)
            fail("mprotect");
        right += call(code) == i;
    }
    return right;
}

int main(int argc, char **argv)
{
    code = map_code(PAGE, PROT_READ | PROT_WRITE);
    return measure("flip", work, FLIPS, 30, argc, argv);
}
