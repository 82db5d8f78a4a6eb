/* Checks, and the line that each prints. */
#include "guest.h"

enum { DEBUG_CONSOLE = 0xe9, DEBUG_EXIT = 0xf4, BOCHS_SHUTDOWN = 0x8900, OK = 0, FAILED = 1, GAVE_UP = 2 };

static unsigned failures;
static unsigned checks;

void print(const char *text)
{
    while (*text)
        out8(DEBUG_CONSOLE, *text++);
}

void print_hex(u64 value)
{
    print("0x");
    int shift = 60;
    while (shift > 0 && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        out8(DEBUG_CONSOLE, "0123456789abcdef"[value >> shift & 15]);
}

void check_equal(const char *name, u64 got, u64 expected)
{
    checks++;
    if (got == expected) {
        print("ok ");
        print(name);
    } else {
        failures++;
        print("FAIL ");
        print(name);
        print(": got ");
        print_hex(got);
        print(" expected ");
        print_hex(expected);
    }
    print("\n");
}

void check(const char *name, bool holds) { check_equal(name, holds, true); }

void skip(const char *what)
{
    print("skip: the processor has no ");
    print(what);
    print("\n");
}

static void leave(u8 code)
{
    out8(DEBUG_EXIT, code);
    /* Where that is not the end, this may be. */
    for (const char *text = "Shutdown"; *text; text++)
        out8(BOCHS_SHUTDOWN, *text);
    for (;;)
        asm volatile("cli\n hlt");
}

void give_up(const char *why)
{
    print("GAVE UP: ");
    print(why);
    print("\n");
    leave(GAVE_UP);
    __builtin_unreachable();
}

/* The program is done: it failed too if it checked nothing. */
void finish(void) { leave(failures || !checks ? FAILED : OK); }

void *memcpy(void *to, const void *from, size_t count)
{
    u8 *target = to;
    for (const u8 *source = from; count; count--)
        *target++ = *source++;
    return to;
}

void *memset(void *to, int value, size_t count)
{
    for (u8 *target = to; count; count--)
        *target++ = value;
    return to;
}

int memcmp(const void *one, const void *other, size_t count)
{
    const u8 *left = one, *right = other;
    for (; count; count--, left++, right++)
        if (*left != *right)
            return *left - *right;
    return 0;
}
