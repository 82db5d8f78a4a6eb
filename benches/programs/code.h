/* A page of code that a program writes for itself: MOV EAX, number; RET. */

#ifndef CODE_H
#define CODE_H

#include <string.h>
#include <sys/mman.h>

#include "measure.h"

#define PAGE 4096

static unsigned char *map_code(size_t length, int protection)
{
    unsigned char *memory = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    return memory;
}

static inline void write_function(unsigned char *at, uint32_t number)
{
    at[0] = 0xb8;
    memcpy(at + 1, &number, sizeof number);
    at[5] = 0xc3;
}

static inline uint32_t call(const unsigned char *at)
{
    uint32_t (*function)(void);
    memcpy(&function, &at, sizeof function);
    return function();
}

#endif
