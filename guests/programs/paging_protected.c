/*
 * Paging in protected mode: 32-bit (4 KiB, 4 MiB) and PAE (PDPTEs loaded with CR3, 4 KiB, 2 MiB, NX), switched on and
 * off under running code (SDM vol. 3, 4.3, 4.4).
 */
#include "guest.h"

enum { LINEAR = 0x40000000, OTHER = 0x40001000, BIG_LINEAR = 0x50000000 };

static _Alignas(PAGE) u32 directory[1024], table[1024];
static _Alignas(32) u64 pdpt[4];
static _Alignas(PAGE) u64 directories[4][512], pae_table[512];
static _Alignas(PAGE) u8 data[2 * PAGE];

static void paging(bool on) { write_cr0(on ? read_cr0() | CR0_PG | CR0_WP : read_cr0() & ~CR0_PG); }
static void flush(void) { write_cr3(read_cr3()); }

static void prepare_legacy(void)
{
    write_cr4(CR4_PSE);
    for (u32 index = 0; index < 16; index++)
        directory[index] = index << 22 | P | W | U | LARGE;
    directory[LINEAR >> 22] = (u32)table | P | W | U;
    directory[BIG_LINEAR >> 22] = P | W | LARGE;
    table[0] = (u32)data | P | W | U;
    write_cr3((u32)directory);
    paging(true);
}

static void legacy(void)
{
    prepare_legacy();
    write32((word)data, 0x12345678);
    check_equal("32-bit: a 4-KByte page", read32(LINEAR), 0x12345678);
    check_equal("32-bit: a 4-MByte page", read32(BIG_LINEAR + (u32)data), 0x12345678);
    check_equal("32-bit: A in the directory", directory[LINEAR >> 22] & A, A);
    check_equal("32-bit: A in the table", table[0] & (A | D), A);
    write32(LINEAR, 1);
    check_equal("32-bit: D in the table", table[0] & (A | D), A | D);
    directory[BIG_LINEAR >> 22] &= ~(u32)(A | D);
    flush();
    write32(BIG_LINEAR + (u32)data, 2);
    check_equal("32-bit: D of a 4-MByte page", directory[BIG_LINEAR >> 22] & (A | D), A | D);
    FAULTS("32-bit: a missing page", PF, PF_W, write8(OTHER, 1));
    check_equal("32-bit: CR2", caught.cr2, OTHER);
    FAULTS("32-bit: a missing table", PF, 0, read8(0x60000000));
    FAULTS("32-bit: fetch sets no I bit without NXE", PF, 0, ((void (*)(void))OTHER)());
    table[0] &= ~W;
    flush();
    FAULTS("32-bit: read-only for the supervisor, WP set", PF, PF_P | PF_W, write8(LINEAR, 1));
    write_cr0(read_cr0() & ~CR0_WP);
    WORKS("32-bit: read-only for the supervisor, WP clear", write8(LINEAR, 1));
    FAULTS("32-bit: read-only for the user", PF, PF_P | PF_W | PF_U, RING_3(write8(LINEAR, 1)));
    table[0] &= ~U;
    flush();
    FAULTS("32-bit: a supervisor page", PF, PF_P | PF_U, RING_3(read8(LINEAR)));
    /* PSE-36: bits 20:13 are address bits 39:32; bit 21 is reserved. */
    directory[BIG_LINEAR >> 22] = 1 << 21 | P | LARGE;
    flush();
    FAULTS("32-bit: bit 21 of a 4-MByte page", PF, PF_P | PF_RESERVED, read8(BIG_LINEAR));
}

static void without_pse(void)
{
    static _Alignas(PAGE) u32 low_tables[2][1024];
    paging(false);
    for (u32 page = 0; page < 2048; page++)
        low_tables[page >> 10][page & 1023] = page << 12 | P | W | U;
    memset(directory, 0, sizeof directory);
    directory[0] = (u32)low_tables[0] | P | W | U | LARGE;
    directory[1] = (u32)low_tables[1] | P | W | U;
    directory[LINEAR >> 22] = (u32)table | P | W | LARGE;
    table[0] = (u32)data | P | W;
    write_cr4(0);
    write_cr3((u32)directory);
    paging(true);
    write32((word)data, 77);
    check_equal("32-bit: bit 7 is ignored without PSE", read32(LINEAR), 77);
    paging(false);
}

static void prepare_pae(void)
{
    write_cr4(CR4_PAE);
    for (u64 index = 0; index < 32; index++)
        directories[0][index] = index << 21 | P | W | U | LARGE;
    directories[1][0] = (u32)pae_table | P | W | U;
    directories[1][128] = P | W | LARGE;
    pae_table[0] = (u32)data | P | W | U;
    pdpt[0] = (u32)directories[0] | P;
    pdpt[1] = (u32)directories[1] | P;
    write_cr3((u32)pdpt);
    paging(true);
}

static void pae(void)
{
    prepare_pae();
    write32((word)data, 0x9abcdef0);
    check_equal("PAE: a 4-KByte page", read32(LINEAR), 0x9abcdef0);
    check_equal("PAE: a 2-MByte page", read32(BIG_LINEAR + (u32)data), 0x9abcdef0);
    check_equal("PAE: A in the table", pae_table[0] & (A | D), A);
    write32(LINEAR, 1);
    check_equal("PAE: D in the table", pae_table[0] & (A | D), A | D);
    FAULTS("PAE: a missing page", PF, 0, read8(OTHER));
    FAULTS("PAE: a missing PDPTE", PF, PF_W, write8(0x80000000, 1));
    pae_table[1] = (1ull << 51) | P;
    FAULTS("PAE: a reserved address bit", PF, PF_P | PF_RESERVED, read8(OTHER));
    pae_table[1] = (u32)data | P | W | NX;
    flush();
    FAULTS("PAE: NX is reserved without NXE", PF, PF_P | PF_RESERVED, read8(OTHER));
    if (cpuid(0x80000001, 0).d >> 20 & 1) {
        wrmsr(MSR_EFER, EFER_NXE);
        flush();
        data[0] = 0xc3;
        FAULTS("PAE: fetch with NX", PF, PF_P | PF_FETCH, ((void (*)(void))OTHER)());
        WORKS("PAE: fetch without NX", ((void (*)(void))LINEAR)());
        FAULTS("PAE: fetch of a missing page", PF, PF_FETCH, ((void (*)(void))(OTHER + PAGE))());
        wrmsr(MSR_EFER, 0);
    } else {
        skip("NX");
    }
}

static void pdptes(void)
{
    pdpt[2] = (u32)directories[1] | P;
    FAULTS("PAE: PDPTEs are loaded with CR3 only", PF, 0, read8(0x80000000));
    flush();
    WORKS("PAE: the new one is, with CR3", read8(0x80000000));
    pdpt[2] = 0;
    invlpg(0x80000000);
    WORKS("PAE: and kept until the next load", read8(0x80000000));
    pdpt[2] = (u32)directories[1] | P | W;
    FAULTS("PAE: reserved bits of a PDPTE are refused by CR3", GP, 0, flush());
    pdpt[2] = 0;
    flush();
    FAULTS("PAE: PDPTE gone", PF, 0, read8(0x80000000));
    paging(false);
    write_cr4(0);
    check_equal("paging off again", read32((word)data + 4), 0);
}

void run(void)
{
    legacy();
    without_pse();
    pae();
    pdptes();
}
