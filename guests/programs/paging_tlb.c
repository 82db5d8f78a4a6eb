/*
 * What a processor may remember of page tables and what must be forgotten: INVLPG, CR3, PCID with NOFLUSH, INVPCID's
 * four types, global pages, CR4.PGE (SDM vol. 3, 4.10). A stale translation may legally be gone at any time, so only
 * its absence after a flush is checked, and that what must not be shared is not.
 */
#include "guest.h"

static const u64 linear = TEST_AREA;

/* What lies so far apart may share a place in a TLB. */
#define DISPLACED (4ul << 20)

static u64 *one, *other;
static volatile u64 *entry;

/* Let the TLB hold a translation to `one`, then change the table to `other`. */
static void leave_stale(u64 flags)
{
    *entry = (u64)one | P | W | flags;
    invlpg(linear);
    (void)read64(linear);
    *entry = (u64)other | P | W | flags;
}

static void expect_fresh(const char *name) { check_equal(name, read64(linear), 2); }

static void plain(void)
{
    leave_stale(0);
    invlpg(linear + 0xfff);
    expect_fresh("INVLPG of any byte of the page");
    leave_stale(0);
    write_cr3(read_cr3());
    expect_fresh("a write of CR3");
    leave_stale(G);
    invlpg(linear);
    expect_fresh("INVLPG of a global page");

    write_cr4(read_cr4() | CR4_PGE);
    leave_stale(G);
    write_cr4(read_cr4() & ~CR4_PGE);
    expect_fresh("CR4.PGE cleared drops global pages");
    leave_stale(G);
    write_cr4(read_cr4() | CR4_PGE);
    expect_fresh("CR4.PGE set drops global pages");
    leave_stale(0);
    write_cr3(read_cr3());
    expect_fresh("a write of CR3 with PGE set drops the others");
    map(linear + DISPLACED, (u64)other, P | W | G);
    leave_stale(0);
    check_equal("a global page that may displace it", read64(linear + DISPLACED), 2);
    (void)read64(linear);
    write_cr3(read_cr3());
    expect_fresh("a write of CR3 drops what was displaced and came back");
    write_cr0(read_cr0() & ~CR0_WP);
    write_cr0(read_cr0() | CR0_WP);
    write_cr4(read_cr4() ^ CR4_PGE);
    write_cr4(read_cr4() ^ CR4_PGE);
    expect_fresh("a toggle of CR4.PGE drops everything");

    *entry = 0;
    invlpg(linear);
    FAULTS("a page taken away", PF, 0, read8(linear));
    *entry_of(linear, 2) &= ~P;
    *entry = (u64)one | P;
    invlpg(linear);
    FAULTS("INVLPG drops cached upper levels too", PF, 0, read8(linear));
    *entry_of(linear, 2) |= P;
    WORKS("invlpg of a non-canonical address does nothing", invlpg(1ull << 63));
    FAULTS("INVLPG at CPL 3", GP, 0, RING_3(invlpg(linear)));
}

/* Another root, in which `linear` leads to `other` at all times. */
static u64 second_root(void)
{
    extern u64 pml4[512];
    u64 *root = new_pages(1), *pdpt = new_pages(1), *directory = new_pages(1), *table = new_pages(1);
    memcpy(root, pml4, PAGE);
    root[linear >> 39 & 511] = (u64)pdpt | P | W | U;
    pdpt[0] = (u64)directory | P | W | U;
    directory[0] = (u64)table | P | W | U;
    table[0] = (u64)other | P | W;
    return (u64)root;
}

static void invpcid(u64 type, u64 pcid, u64 address)
{
    u64 operand[2] = {pcid, address};
    asm volatile("invpcid %0, [%1]" : : "r"(type), "r"(operand) : "memory");
}

#define NOFLUSH (1ull << 63)

static void process_contexts(void)
{
    u64 root = read_cr3(), second = second_root();
    FAULTS("CR4.PCIDE while CR3 has a PCID", GP, 0, write_cr3(root | 1); write_cr4(read_cr4() | CR4_PCIDE));
    write_cr3(root);
    FAULTS("CR3 bit 63 without PCIDE", GP, 0, write_cr3(root | NOFLUSH));
    write_cr4(read_cr4() | CR4_PCIDE);
    FAULTS("paging off with PCIDE", GP, 0, write_cr0(read_cr0() & ~CR0_PG));

    *entry = (u64)one | P | W;
    invlpg(linear);
    write_cr3(root | 1);
    check_equal("PCID 1 sees its page", read64(linear), 1);
    write_cr3(second | 2);
    check_equal("PCID 2 sees its own", read64(linear), 2);
    write_cr3(root | 1 | NOFLUSH);
    check_equal("PCID 1 once more, NOFLUSH", read64(linear), 1);
    check("CR3 does not keep bit 63", read_cr3() == (root | 1));
    write_cr3(second | 2 | NOFLUSH);
    check_equal("PCID 2 once more, NOFLUSH", read64(linear), 2);

    write_cr3(root | 1);
    leave_stale(0);
    write_cr3(second | 2);
    write_cr3(root | 1);
    expect_fresh("CR3 without NOFLUSH drops its PCID");
    leave_stale(0);
    write_cr3(root | 3);
    expect_fresh("another PCID does not share");
    write_cr3(root | 1 | NOFLUSH);
    invlpg(linear);
    expect_fresh("INVLPG in the PCID that is current");
}

static void invpcid_types(void)
{
    u64 root = read_cr3() & ~0xfffull;
    write_cr3(root | 1);
    leave_stale(0);
    write_cr3(root | 2);
    invpcid(0, 1, linear);
    write_cr3(root | 1 | NOFLUSH);
    expect_fresh("INVPCID 0: one address of another PCID");
    leave_stale(0);
    invpcid(1, 1, 0);
    expect_fresh("INVPCID 1: one PCID");
    leave_stale(G);
    write_cr3(root | 2);
    invpcid(2, 0, 0);
    write_cr3(root | 1 | NOFLUSH);
    expect_fresh("INVPCID 2: everything with global pages");
    leave_stale(0);
    write_cr3(root | 2);
    invpcid(3, 0, 0);
    write_cr3(root | 1 | NOFLUSH);
    expect_fresh("INVPCID 3: everything but global pages");
    FAULTS("INVPCID of type 4", GP, 0, invpcid(4, 0, 0));
    FAULTS("INVPCID with reserved bits", GP, 0, invpcid(1, 0x1000, 0));
    FAULTS("INVPCID 0 of a non-canonical address", GP, 0, invpcid(0, 0, 1ull << 63));
    FAULTS("INVPCID at CPL 3", GP, 0, RING_3(invpcid(2, 0, 0)));
    write_cr3(root);
    write_cr4(read_cr4() & ~CR4_PCIDE);
    WORKS("INVPCID 2 without PCIDE", invpcid(2, 0, 0));
    FAULTS("INVPCID 1 of PCID 1 without PCIDE", GP, 0, invpcid(1, 1, 0));
}

void run(void)
{
    one = new_pages(1), other = new_pages(1);
    *one = 1, *other = 2;
    entry = map(linear, (u64)one, P | W);
    plain();
    if (!(cpuid(1, 0).c >> 17 & 1)) {
        skip("PCID");
        return;
    }
    process_contexts();
    if (cpuid(7, 0).b >> 10 & 1)
        invpcid_types();
    else
        skip("INVPCID");
}
