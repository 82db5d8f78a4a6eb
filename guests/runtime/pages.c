/* Page tables of 64-bit programs, beside the identity map that long_mode.S makes. */
#include "guest.h"

#ifdef __x86_64__
enum { POOL_PAGES = 256, ENTRIES = 512, DIRECTORIES = 4 };

extern u64 pml4[ENTRIES], identity_directories[DIRECTORIES * ENTRIES];
static _Alignas(PAGE) u8 pool[POOL_PAGES * PAGE];
static size_t used;

void *new_pages(size_t count)
{
    if (used + count > POOL_PAGES)
        give_up("the pool of pages is empty");
    u8 *pages = pool + used * PAGE;
    used += count;
    return pages;
}

volatile u64 *entry_of(u64 linear, int level)
{
    volatile u64 *table = pml4;
    for (int at = 4;; at--) {
        volatile u64 *entry = &table[linear >> (12 + 9 * (at - 1)) & (ENTRIES - 1)];
        if (at == level)
            return entry;
        if (!(*entry & P))
            *entry = (u64)new_pages(1) | P | W | U;
        table = (volatile u64 *)(*entry & 0xffffffffff000);
    }
}

volatile u64 *map(u64 linear, u64 physical, u64 flags)
{
    volatile u64 *entry = entry_of(linear, 1);
    *entry = physical | flags;
    invlpg(linear);
    return entry;
}

void identity_is_user(bool user)
{
    for (size_t index = 0; index < DIRECTORIES * ENTRIES; index++)
        identity_directories[index] = user ? identity_directories[index] | U : identity_directories[index] & ~U;
    write_cr3(read_cr3());
}
#endif
