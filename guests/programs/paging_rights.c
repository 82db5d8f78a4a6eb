/*
 * SMEP, SMAP with STAC and CLAC, implicit supervisor accesses, and protection keys (SDM vol. 3, 4.6, 4.6.2).
 */
#include "guest.h"

static const u64 linear = TEST_AREA + 0x1000;

static void call(u64 address) { ((void (*)(void))address)(); }

static void smep(void)
{
    if (!(cpuid(7, 0).b >> 7 & 1)) {
        skip("SMEP");
        return;
    }
    write_cr4(read_cr4() | CR4_SMEP);
    FAULTS("SMEP: supervisor fetch from a user page", PF, PF_P | PF_FETCH, call(linear));
    WORKS("SMEP: supervisor data access to a user page", write8(linear + 1, 1));
    write_cr0(read_cr0() & ~CR0_WP);
    FAULTS("SMEP: does not depend on WP", PF, PF_P | PF_FETCH, call(linear));
    write_cr0(read_cr0() | CR0_WP);
    *entry_of(linear, 3) &= ~U;
    write_cr3(read_cr3());
    WORKS("SMEP: one level without U makes a supervisor page", call(linear));
    *entry_of(linear, 3) |= U;
    write_cr4(read_cr4() & ~CR4_SMEP);
    WORKS("SMEP cleared takes effect at once", call(linear));
}

static void smap(void)
{
    if (!(cpuid(7, 0).b >> 20 & 1)) {
        skip("SMAP");
        return;
    }
    write_cr4(read_cr4() | CR4_SMAP);
    set_flags(FLAG_FIXED);
    FAULTS("SMAP: supervisor read of a user page", PF, PF_P, read8(linear));
    FAULTS("SMAP: supervisor write", PF, PF_P | PF_W, write8(linear, 1));
    WORKS("SMAP: fetch is SMEP's business", call(linear));
    EMIT("stac");
    check("STAC sets AC", flags() & FLAG_AC);
    WORKS("SMAP: with AC set", EMIT("stac"); write8(linear + 1, 1));
    EMIT("clac");
    check("CLAC clears AC", !(flags() & FLAG_AC));
    FAULTS("SMAP: with AC clear again", PF, PF_P, read8(linear));
    WORKS("SMAP: AC set by POPF", set_flags(FLAG_FIXED | FLAG_AC); write8(linear + 1, 1));
    set_flags(FLAG_FIXED);
    write_cr0(read_cr0() & ~CR0_WP);
    FAULTS("SMAP: does not depend on WP", PF, PF_P | PF_W, write8(linear, 1));
    write_cr0(read_cr0() | CR0_WP);
    write_cr4(read_cr4() & ~CR4_SMAP);
    WORKS("SMAP cleared takes effect at once", read8(linear));
}

static void implicit_access(void)
{
    if (!(cpuid(7, 0).b >> 20 & 1))
        return;
    /* A descriptor table in a user page: the processor's own accesses ignore AC. */
    write64(linear + 0x808, descriptor(0, 0xfffff, DATA | PRESENT, BIG | PAGES));
    set_system_descriptor(LOCAL_TABLE, linear + 0x800, 15, LDT);
    asm volatile("lldt %0" : : "r"((u16)LOCAL_TABLE));
    WORKS("a local descriptor table in a user page", EMIT("mov eax, 0xc\n mov fs, eax" : : : "eax"));
    write_cr4(read_cr4() | CR4_SMAP);
    FAULTS("SMAP: implicit access with AC set", PF, PF_P,
           EMIT("stac\n mov eax, 0xc\n mov fs, eax" : : : "eax"));
    check_equal("which is to the descriptor", caught.cr2, linear + 0x808);
    write_cr4(read_cr4() & ~CR4_SMAP);
    set_flags(FLAG_FIXED);
}

static void write_pkru(u32 value) { asm volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory"); }

static void protection_keys(void)
{
    if (!(cpuid(7, 0).c >> 3 & 1)) {
        skip("protection keys");
        return;
    }
    FAULTS("WRPKRU without CR4.PKE", UD, 0, write_pkru(0));
    check("OSPKE is clear", !(cpuid(7, 0).c >> 4 & 1));
    write_cr4(read_cr4() | CR4_PKE);
    check("OSPKE mirrors CR4.PKE", cpuid(7, 0).c >> 4 & 1);
    *entry_of(linear, 1) |= 5ull << 59;
    invlpg(linear);
    WORKS("a key with all rights", write_pkru(0); write8(linear + 1, 1));
    FAULTS("access disabled, read", PF, PF_P | PF_KEY, write_pkru(1u << 10); read8(linear));
    WORKS("access disabled does not concern fetches", call(linear));
    FAULTS("write disabled, write", PF, PF_P | PF_W | PF_KEY, write_pkru(2u << 10); write8(linear, 1));
    WORKS("write disabled, read", read8(linear));
    write_cr0(read_cr0() & ~CR0_WP);
    WORKS("write disabled, supervisor write with WP clear", write8(linear + 1, 1));
    write_cr0(read_cr0() | CR0_WP);
    u32 value, high;
    asm volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
    check_equal("RDPKRU", value, 2u << 10);
    FAULTS("WRPKRU with ECX not 0", GP, 0, EMIT("wrpkru" : : "a"(0), "c"(1), "d"(0)));
    write_pkru(0);
    write_cr4(read_cr4() & ~CR4_PKE);
}

void run(void)
{
    u8 *page = new_pages(1);
    page[0] = 0xc3;
    map(linear, (u64)page, P | W | U);
    if (cpuid(7, 0).b >> 20 & 1)
        FAULTS("STAC at CPL 3", UD, 0, RING_3(EMIT("stac")));
    identity_is_user(false);
    smep();
    smap();
    implicit_access();
    protection_keys();
}
