/*
 * Extended page tables: violations by right and by access, also of paging structures, misconfigurations, pages of
 * each size, accessed and dirty flags, INVEPT (SDM vol. 3, 29.3, 28.2.1 table 28-7, 31.3 INVEPT).
 */
#include "vmx.h"

enum {
    IS_READ = 1, IS_WRITE = 2, IS_FETCH = 4, RIGHTS_SHIFT = 3, LINEAR_VALID = 0x80, OF_LINEAR = 0x100,
    DEFINED = 0x1bf, /* bit 6 is of another feature, bits 9 to 12 of others */
    MEGABYTES_2 = 0x200000,
};
#define BEYOND (1ull << 51)
static const u64 linear = TEST_AREA + 0x3000, lone = 0x1400000;

static u64 eptp, page, inner_table;
static volatile u64 *entry;

static void invalidate(void)
{
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
}

static void have(u64 value)
{
    *entry = value;
    invalidate();
}

/* Code that ends with VMCALL, after an access to the page; RAX is its linear address. */
static u32 try(void *code)
{
    begin_at(&guest, code);
    guest.registers.ax = linear + 0x18;
    return enter(&guest);
}

static void check_violation(const char *name, u32 reason, u64 access, u64 rights)
{
    check_equal(name, reason, EXIT_EPT_VIOLATION);
    check_equal("qualification", get(EXIT_QUALIFICATION) & DEFINED,
                access | rights << RIGHTS_SHIFT | LINEAR_VALID | OF_LINEAR);
    check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS), page + 0x18);
    check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), linear + 0x18);
}

static void violations(void)
{
    void *read = CODE("mov rcx, [rax]"), *write = CODE("mov [rax], rcx"), *fetch = CODE("call rax");
    have(page | EPT_ALL | EPT_WRITE_BACK);
    *(u64 *)(page + 0x18) = 0xc3;
    check_equal("all rights: reading", try(read), EXIT_VMCALL);
    check_equal("fetching", try(fetch), EXIT_VMCALL);
    guest.registers.cx = 0xc3;
    check_equal("writing", try(write), EXIT_VMCALL);
    have(page | EPT_READ | EPT_EXECUTE | EPT_WRITE_BACK);
    check_violation("no right to write", try(write), IS_WRITE, EPT_READ | EPT_EXECUTE);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)write);
    check_equal("reading", try(read), EXIT_VMCALL);
    check_equal("ADD is a write", try(CODE("add [rax], rcx")), EXIT_EPT_VIOLATION);
    check_equal("to a page that is", get(EXIT_QUALIFICATION) & IS_WRITE, IS_WRITE);
    have(page | EPT_READ | EPT_WRITE | EPT_WRITE_BACK);
    check_violation("no right to execute", try(fetch), IS_FETCH, EPT_READ | EPT_WRITE);
    have(0);
    check_violation("not present: reading", try(read), IS_READ, 0);
    check_violation("writing", try(write), IS_WRITE, 0);
    check_violation("fetching", try(fetch), IS_FETCH, 0);
    have(page | EPT_READ | EPT_WRITE_BACK);
    volatile u64 *above = ept_entry(eptp, page, 2);
    *above &= ~(u64)EPT_WRITE;
    have(page | EPT_ALL | EPT_WRITE_BACK);
    check_violation("rights of two levels", try(write), IS_WRITE, EPT_READ | EPT_EXECUTE);
    *above |= EPT_WRITE;
    have(0);
    try(read);
    /* A violation leaves nothing cached: what is there now is seen without INVEPT. */
    *entry = page | EPT_ALL | EPT_WRITE_BACK;
    check_equal("made present, it goes on", enter(&guest), EXIT_VMCALL);
    if (ept_capable(CAPABLE_EXECUTE_ONLY)) {
        *(u64 *)(page + 0x18) = 0xc3;
        have(page | EPT_EXECUTE | EPT_WRITE_BACK);
        check_equal("execute-only: fetching", try(fetch), EXIT_VMCALL);
        check_violation("reading", try(read), IS_READ, EPT_EXECUTE);
    } else {
        skip("execute-only translations");
    }
    have(page | EPT_ALL | EPT_WRITE_BACK);
}

/* The guest's own page table is a page like any other; its address is not that of the access. */
static void paging_structures(void)
{
    volatile u64 *of_table = ept_entry(eptp, inner_table, 1);
    u64 before = *of_table;
    *of_table = 0;
    invalidate();
    check_equal("a page table that is not there", try(CODE("mov rcx, [rax]")), EXIT_EPT_VIOLATION);
    check_equal("qualification", get(EXIT_QUALIFICATION) & (DEFINED & ~3ull), LINEAR_VALID);
    check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS), inner_table + (linear >> 12 & 511) * 8);
    check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), linear + 0x18);
    *of_table = (before & ~(u64)EPT_WRITE);
    invalidate();
    *entry_of(linear, 1) &= ~(A | D);
    check_equal("setting the accessed flag", try(CODE("invlpg [rax]\n mov rcx, [rax]")), EXIT_EPT_VIOLATION);
    check_equal("writes it", get(EXIT_QUALIFICATION) & (IS_WRITE | OF_LINEAR), IS_WRITE);
    check_equal("nothing is set", *entry_of(linear, 1) & A, 0);
    *of_table = before;
    invalidate();
    check_equal("with the right to", enter(&guest), EXIT_VMCALL);
    check_equal("it is", *entry_of(linear, 1) & A, A);
}

static void misconfigurations(void)
{
    const struct {
        const char *name;
        u64 value;
    } entries[] = {
        {"a right to write, none to read", page | EPT_WRITE | EPT_WRITE_BACK},
        {"the same, with one to execute", page | EPT_WRITE | EPT_EXECUTE | EPT_WRITE_BACK},
        {"an address beyond the physical ones", page | EPT_ALL | EPT_WRITE_BACK | BEYOND},
        {"memory type 2", page | EPT_ALL | 2 << 3},
        {"memory type 3", page | EPT_ALL | 3 << 3},
        {"memory type 7", page | EPT_ALL | 7 << 3},
    };
    for (size_t index = 0; index < sizeof entries / sizeof *entries; index++) {
        have(entries[index].value);
        check_equal(entries[index].name, try(CODE("mov rcx, [rax]")), EXIT_EPT_MISCONFIGURATION);
        check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS), page + 0x18);
    }
    have(page | EPT_ALL | EPT_WRITE_BACK);
    volatile u64 *above = ept_entry(eptp, lone, 2);
    u64 before = *above;
    map(linear, lone, P | W | U);
    *above = before | 0x2000;
    invalidate();
    check_equal("bit 13 of a 2-MByte page", try(CODE("mov rcx, [rax]")), EXIT_EPT_MISCONFIGURATION);
    *above = before | 0x1000;
    invalidate();
    check_equal("bit 12 of a 2-MByte page", try(CODE("mov rcx, [rax]")), EXIT_EPT_MISCONFIGURATION);
    *above = before;
    volatile u64 *top = ept_entry(eptp, 1ull << 39, 4);
    *top = page | EPT_ALL | EPT_LARGE;
    invalidate();
    map(linear, 1ull << 39, P | W | U);
    check_equal("bit 7 of a PML4E", try(CODE("mov rcx, [rax]")), EXIT_EPT_MISCONFIGURATION);
    *top = 0;
    invalidate();
    check_equal("an address that no entry of the top level has", try(CODE("mov rcx, [rax]")), EXIT_EPT_VIOLATION);
    map(linear, page, P | W | U);
    check_equal("and all is well again", try(CODE("mov rcx, [rax]")), EXIT_VMCALL);
}

static void remapping(void)
{
    u64 other = (u64)new_pages(1);
    write64(page + 0x18, 1);
    write64(other + 0x18, 2);
    check_equal("a page", try(CODE("mov rcx, [rax]")), EXIT_VMCALL);
    check_equal("is read", guest.registers.cx, 1);
    have(other | EPT_ALL | EPT_WRITE_BACK);
    check_equal("another after INVEPT", try(CODE("mov rcx, [rax]\n mov qword ptr [rax], 3")), EXIT_VMCALL);
    check_equal("is read", guest.registers.cx, 2);
    check_equal("and written", read64(other + 0x18), 3);
    check_equal("not the first", read64(page + 0x18), 1);
    have(page | EPT_ALL | EPT_WRITE_BACK);
    volatile u64 *large = ept_entry(eptp, lone, 2);
    write64(lone - MEGABYTES_2 + 0x12345 * 8, 4);
    *large -= MEGABYTES_2;
    invalidate();
    begin_at(&guest, CODE("mov rcx, [rax]"));
    guest.registers.ax = lone + 0x12345 * 8;
    check_equal("a 2-MByte page elsewhere", enter(&guest), EXIT_VMCALL);
    check_equal("is read", guest.registers.cx, 4);
    if (ept_capable(CAPABLE_1G)) {
        *ept_entry(eptp, 4ull << 30, 3) = EPT_ALL | EPT_LARGE | EPT_WRITE_BACK;
        map(linear, (4ull << 30) + page, P | W | U);
        check_equal("a 1-GByte page", try(CODE("mov rcx, [rax]")), EXIT_VMCALL);
        check_equal("is read", guest.registers.cx, 1);
        map(linear, page, P | W | U);
    } else {
        skip("1-GByte pages of EPT");
    }
}

static void accessed_and_dirty(void)
{
    if (!ept_capable(CAPABLE_ACCESSED_DIRTY)) {
        skip("accessed and dirty flags for EPT");
        return;
    }
    const u64 flags = EPT_ACCESSED | EPT_DIRTY;
    have(page | EPT_ALL | EPT_WRITE_BACK);
    try(CODE("mov [rax], rcx"));
    check_equal("not asked for, no flag is set", *entry & flags, 0);
    set(EPT_POINTER, eptp |= EPT_POINTER_ACCESSED_DIRTY);
    have(page | EPT_ALL | EPT_WRITE_BACK);
    check_equal("a read", try(CODE("mov rcx, [rax]")), EXIT_VMCALL);
    check_equal("sets accessed", *entry & flags, EPT_ACCESSED);
    u64 above = *ept_entry(eptp, page, 4) & *ept_entry(eptp, page, 3) & *ept_entry(eptp, page, 2);
    check_equal("at all levels", above & flags, EPT_ACCESSED);
    check_equal("a write", try(CODE("mov [rax], rcx")), EXIT_VMCALL);
    check_equal("sets dirty", *entry & flags, flags);
    check_equal("at the lowest level alone", *ept_entry(eptp, page, 2) & flags, EPT_ACCESSED);
    volatile u64 *of_table = ept_entry(eptp, inner_table, 1);
    *of_table &= ~flags;
    invalidate();
    check_equal("a read", try(CODE("mov rcx, [rax]")), EXIT_VMCALL);
    check_equal("writes the guest's paging structures", *of_table & flags, flags);
    *of_table &= ~(u64)EPT_WRITE;
    invalidate();
    check_equal("so that they must be writable", try(CODE("mov rcx, [rax]")), EXIT_EPT_VIOLATION);
    check_equal("for reading and writing", get(EXIT_QUALIFICATION) & (IS_READ | IS_WRITE | OF_LINEAR),
                IS_READ | IS_WRITE);
    *of_table |= EPT_WRITE;
    set(EPT_POINTER, eptp &= ~(u64)EPT_POINTER_ACCESSED_DIRTY);
    invalidate();
}

static void invept_itself(void)
{
    check_equal("INVEPT of all", invept(ALL_EPTS, 0), SUCCEED);
    check_equal("of no type", invept(3, eptp) == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0, ERROR_INVALID_OPERAND);
    check_equal("of type 0", invept(0, eptp) == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0, ERROR_INVALID_OPERAND);
    check_equal("of a bad EPT pointer", invept(SINGLE_EPT, eptp | 0x800) == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0,
                ERROR_INVALID_OPERAND);
}

void run(void)
{
    vmx_begin();
    page = (u64)new_pages(1);
    map(linear, page, P | W | U);
    inner_table = *entry_of(linear, 2) & 0xffffffffff000;
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        check("VMX", true);
        skip("EPT");
        return;
    }
    eptp = enable_ept();
    entry = ept_entry(eptp, page, 1);
    ept_entry(eptp, inner_table, 1);
    RUNS("a guest under EPT", "nop");
    violations();
    paging_structures();
    misconfigurations();
    remapping();
    accessed_and_dirty();
    invept_itself();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
