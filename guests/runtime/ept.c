/* Extended page tables (SDM vol. 3, 29.3). */
#include "vmx.h"

#ifdef __x86_64__

enum { ENTRIES = 512, GIGABYTES = 4, WALK_OF_4 = 3 << 3, WRITE_BACK = 6 };

/* From here on there are devices, to 4 GiB: uncacheable. */
#define DEVICES 0xfec00000ul

static const u64 addresses = 0xffffffffff000;

bool ept_capable(u64 what) { return (rdmsr(MSR_VMX_EPT_VPID_CAP) & what) == what; }

u64 new_ept(void)
{
    u64 *top = new_pages(1), *pointers = new_pages(1);
    top[0] = (u64)pointers | EPT_ALL;
    for (u64 gigabyte = 0; gigabyte < GIGABYTES; gigabyte++) {
        u64 *directory = new_pages(1);
        pointers[gigabyte] = (u64)directory | EPT_ALL;
        for (u64 index = 0; index < ENTRIES; index++) {
            u64 physical = gigabyte << 30 | index << 21, type = physical < DEVICES ? EPT_WRITE_BACK : 0;
            directory[index] = physical | EPT_ALL | EPT_LARGE | type;
        }
    }
    return (u64)top | WALK_OF_4 | WRITE_BACK;
}

/* One level down: 512 pages with the rights and type of the large one. */
static u64 split(u64 entry, int level)
{
    u64 *table = new_pages(1);
    u64 rest = level == 2 ? entry & ~addresses & ~EPT_LARGE : entry & ~addresses;
    for (u64 index = 0; index < ENTRIES; index++)
        table[index] = (entry & addresses) | index << (12 + 9 * (level - 2)) | rest;
    return (u64)table | EPT_ALL;
}

volatile u64 *ept_entry(u64 ept_pointer, u64 physical, int level)
{
    volatile u64 *table = (u64 *)(ept_pointer & addresses);
    for (int at = 4;; at--) {
        volatile u64 *entry = &table[physical >> (12 + 9 * (at - 1)) & (ENTRIES - 1)];
        if (at == level)
            return entry;
        if (*entry & EPT_LARGE && at < 4)
            *entry = split(*entry, at);
        else if (!(*entry & addresses))
            *entry = (u64)new_pages(1) | EPT_ALL;
        table = (volatile u64 *)(*entry & addresses);
    }
}

u64 enable_ept(void)
{
    u64 ept_pointer = new_ept();
    enable(SECONDARY_CONTROLS, ENABLE_EPT);
    set(EPT_POINTER, ept_pointer);
    return ept_pointer;
}

#endif
