/* Code rewritten and called: the immediate operand of a function's instruction changes before every call. */

#include "code.h"

#define CALLS 10000

static unsigned char *code;

/* How many calls returned the number that was just written. */
static uint64_t work(void)
{
    uint64_t right = 0;
    for (uint32_t i = 0; i < CALLS; i++) {
        memcpy(code + 1, &i, sizeof i);
        right += call(code) == i;
    }
    return right;
}

int main(int argc, char **argv)
{
    code = map_code(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    write_function(code, 0);
    return measure("rewrite", work, CALLS, 20, argc, argv);
}
