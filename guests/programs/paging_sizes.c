/*
 * Long-mode paging: pages of 4 KiB, 2 MiB and 1 GiB, and the rights that each level gives (SDM vol. 3, 4.5, 4.6).
 */
#include "guest.h"

static void pages_of_every_size(void)
{
    u8 *data = new_pages(1);
    write64((word)data, 0x1122334455667788);
    map(TEST_AREA, (u64)data, P | W);
    check_equal("a 4-KByte page", read64(TEST_AREA), 0x1122334455667788);

    u64 large = TEST_AREA + (4ull << 30);
    *entry_of(large, 2) = ((u64)data & ~0x1fffffull) | P | W | LARGE;
    check_equal("a 2-MByte page", read64(large + ((u64)data & 0x1fffff)), 0x1122334455667788);

    u64 huge = TEST_AREA + (8ull << 30);
    *entry_of(huge, 3) = 0 | P | W | LARGE;
    if (cpuid(0x80000001, 0).d >> 26 & 1)
        check_equal("a 1-GByte page", read64(huge + (u64)data), 0x1122334455667788);
    else
        skip("1-GByte pages");

    map(TEST_AREA_HIGH, (u64)data, P | W);
    check_equal("a page of the upper half", read64(TEST_AREA_HIGH), 0x1122334455667788);
    write64(TEST_AREA_HIGH, 42);
    check_equal("aliases are the same memory", read64(TEST_AREA), 42);
}

static void missing_pages(void)
{
    u64 linear = TEST_AREA + 0x1000;
    volatile u64 *entry = map(linear, 0, 0);
    FAULTS("read of a page that is not present", PF, 0, read8(linear + 0x123));
    check_equal("CR2 is the byte's address", caught.cr2, linear + 0x123);
    FAULTS("write to it", PF, PF_W, write8(linear, 1));
    FAULTS("fetch from it, NXE set", PF, PF_FETCH, ((void (*)(void))linear)());
    check_equal("the fetch's RIP", caught.ip, linear);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
    FAULTS("fetch from it, NXE clear", PF, 0, ((void (*)(void))linear)());
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    FAULTS("read of it at CPL 3", PF, PF_U, RING_3(read8(linear)));
    FAULTS("no PML4E", PF, 0, read8(TEST_AREA + (1ull << 40)));
    *entry = (u64)new_pages(1) | P;
    WORKS("a missing page is looked up again without INVLPG", read8(linear));
}

static void writes(void)
{
    u64 linear = TEST_AREA + 0x2000;
    volatile u64 *entry = map(linear, (u64)new_pages(1), P | U);
    FAULTS("supervisor write to a read-only page, WP set", PF, PF_P | PF_W, write8(linear, 1));
    FAULTS("user write to a read-only page", PF, PF_P | PF_W | PF_U, RING_3(write8(linear, 1)));
    write_cr0(read_cr0() & ~CR0_WP);
    WORKS("supervisor write to a read-only page, WP clear", write8(linear, 1));
    FAULTS("user write, WP clear", PF, PF_P | PF_W | PF_U, RING_3(write8(linear, 1)));
    write_cr0(read_cr0() | CR0_WP);
    FAULTS("supervisor write, WP set again", PF, PF_P | PF_W, write8(linear, 1));
    *entry |= W;
    WORKS("a right added is looked up again without INVLPG", write8(linear, 1));
    *entry_of(linear, 3) &= ~W;
    write_cr3(read_cr3());
    FAULTS("W must be set on every level", PF, PF_P | PF_W, write8(linear, 1));
    *entry_of(linear, 3) |= W;
    write_cr3(read_cr3());
}

static void user_pages(void)
{
    u64 linear = TEST_AREA + 0x3000;
    map(linear, (u64)new_pages(1), P | W);
    WORKS("supervisor access to a supervisor page", read8(linear));
    FAULTS("user read of a supervisor page", PF, PF_P | PF_U, RING_3(read8(linear)));
    FAULTS("user write", PF, PF_P | PF_U | PF_W, RING_3(write8(linear, 1)));
    FAULTS("user fetch", PF, PF_P | PF_U | PF_FETCH, RING_3(((void (*)(void))linear)()));
    map(linear, (u64)new_pages(1), P | W | U);
    WORKS("user access to a user page", RING_3(write8(linear, 1)));
    *entry_of(linear, 2) &= ~U;
    write_cr3(read_cr3());
    FAULTS("U must be set on every level", PF, PF_P | PF_U, RING_3(read8(linear)));
    *entry_of(linear, 2) |= U;
    write_cr3(read_cr3());
}

static void execute_disable(void)
{
    u64 linear = TEST_AREA + 0x4000;
    u8 *page = new_pages(1);
    page[0] = 0xc3;
    volatile u64 *entry = map(linear, (u64)page, P | W | U);
    WORKS("fetch without NX", ((void (*)(void))linear)());
    *entry |= NX;
    invlpg(linear);
    FAULTS("fetch with NX", PF, PF_P | PF_FETCH, ((void (*)(void))linear)());
    WORKS("data access with NX", write8(linear, 0xc3));
    *entry &= ~NX;
    *entry_of(linear, 2) |= NX;
    write_cr3(read_cr3());
    FAULTS("NX on a higher level", PF, PF_P | PF_FETCH, ((void (*)(void))linear)());
    *entry_of(linear, 2) &= ~NX;
    write_cr3(read_cr3());
    *entry |= NX;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
    invlpg(linear);
    FAULTS("NX is reserved without NXE", PF, PF_P | PF_RESERVED, read8(linear));
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void reserved_bits(void)
{
    u64 linear = TEST_AREA + 0x5000, data = (u64)new_pages(1);
    u64 beyond = 1ull << (cpuid(0x80000008, 0).a & 0xff);
    volatile u64 *entry = map(linear, data | beyond, P | W | U);
    FAULTS("an address beyond MAXPHYADDR", PF, PF_P | PF_RESERVED, read8(linear));
    FAULTS("the same, written", PF, PF_P | PF_RESERVED | PF_W, write8(linear, 1));
    FAULTS("the same, at CPL 3", PF, PF_P | PF_RESERVED | PF_U, RING_3(read8(linear)));
    *entry = data | beyond;
    invlpg(linear);
    FAULTS("reserved bits of an entry that is not present do not count", PF, 0, read8(linear));
    *entry = data | P | 7ull << 52 | 0xe00;
    invlpg(linear);
    WORKS("ignored bits", read8(linear));
    u64 large = TEST_AREA + (16ull << 30);
    *entry_of(large, 2) = 0x200000 | 0x2000 | P | LARGE;
    FAULTS("bit 13 of a 2-MByte page", PF, PF_P | PF_RESERVED, read8(large));
    *entry_of(TEST_AREA, 4) |= LARGE;
    write_cr3(read_cr3());
    FAULTS("bit 7 of a PML4E", PF, PF_P | PF_RESERVED, read8(linear));
    *entry_of(TEST_AREA, 4) &= ~LARGE;
    write_cr3(read_cr3());
}

void run(void)
{
    pages_of_every_size();
    missing_pages();
    writes();
    user_pages();
    execute_disable();
    reserved_bits();
}
