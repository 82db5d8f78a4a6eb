/* See scattered.h. */
#include "scattered.h"

#ifdef __x86_64__

unsigned place_of(enum order order, unsigned number, unsigned count)
{
    switch (order) {
    case DESCENDING:
        return count - 1 - number;
    case SHUFFLED:
        return (number * 37 + 11) % count;
    case PAIRS:
        return number / 2 * 37 % (count / 2) * 2 + number % 2;
    default:
        return number;
    }
}

void lay_out(u64 linear, u8 *frames, unsigned count, enum order order, u64 rights)
{
    for (unsigned number = 0; number < count; number++)
        map(linear + number * PAGE, (u64)frames + place_of(order, number, count) * PAGE, rights);
}

u64 read_all(u64 linear, unsigned count, unsigned rounds)
{
    u64 sum = 0;
    for (; rounds; rounds--)
        for (u64 at = linear; at != linear + count * PAGE; at += STRIDE)
            sum = sum * 3 + read64(at);
    return sum;
}

void add_to_all(u64 linear, unsigned count, unsigned rounds, u64 what)
{
    for (; rounds; rounds--)
        for (u64 at = linear; at != linear + count * PAGE; at += STRIDE)
            *(volatile u64 *)at += what;
}

void write_all(u64 linear, unsigned count, unsigned rounds, u64 what)
{
    for (; rounds; rounds--)
        for (u64 at = linear; at != linear + count * PAGE; at += STRIDE)
            write64(at, what);
}

bool frame_is(const u8 *frame, u64 value, u64 rest)
{
    for (unsigned at = 0; at < PAGE; at += 8)
        if (*(const volatile u64 *)(frame + at) != (at % STRIDE ? rest : value))
            return false;
    return true;
}
#endif
