/*
 * Virtual-processor identifiers: INVVPID of each type, translations of each VPID for itself, and what entries and
 * exits invalidate without VPIDs (SDM vol. 3, 29.4, 31.3 INVVPID).
 */
#include "vmx.h"

enum { FIRST = 1, SECOND = 0xfffe };
static const u64 linear = TEST_AREA + 0x5000;

static u64 pages[4];
static volatile u64 *entry;

static void have(unsigned page, u64 flags) { *entry = pages[page] | P | W | U | flags; }

/* What the guest reads there. */
static u64 reads(void)
{
    begin_at(&guest, CODE("mov rcx, [rax]"));
    guest.registers.ax = linear;
    guest.registers.cx = ~0ull;
    return enter(&guest) == EXIT_VMCALL ? guest.registers.cx : ~0ull;
}

static void without_vpids(void)
{
    have(0, 0);
    check_equal("without VPIDs", reads(), 0);
    have(1, 0);
    check_equal("an entry sees what the host mapped anew", reads(), 1);
    have(2, G);
    check_equal("and again", reads(), 2);
    have(3, G);
    check_equal("global pages too", reads(), 3);
    have(0, 0);
    invlpg(linear);
    check_equal("the host reads", read64(linear), 0);
    begin_at(&guest, CODE("mov [rcx], rdx"));
    guest.registers.cx = (u64)entry;
    guest.registers.dx = pages[1] | P | W | U;
    check_equal("the guest maps anew", enter(&guest), EXIT_VMCALL);
    check_equal("an exit sees that", read64(linear), 1);
}

static void invalidations(void)
{
    static const struct {
        const char *name;
        u64 type, flags;
    } types[] = {
        {"INVVPID of an address", ONE_ADDRESS, 0},
        {"of an address, global", ONE_ADDRESS, G},
        {"of a VPID", ONE_VPID, 0},
        {"of a VPID, global", ONE_VPID, G},
        {"of all", ALL_VPIDS, G},
        {"of a VPID but globals", ONE_VPID_BUT_GLOBALS, 0},
    };
    for (size_t index = 0; index < sizeof types / sizeof *types; index++) {
        if (!ept_capable(1ull << (40 + types[index].type))) {
            skip(types[index].name);
            continue;
        }
        have(0, types[index].flags);
        invvpid(ONE_VPID, FIRST, 0);
        check_equal(types[index].name, reads(), 0);
        have(1, types[index].flags);
        check_equal("succeeds", invvpid(types[index].type, FIRST, linear), SUCCEED);
        check_equal("the guest reads what is mapped now", reads(), 1);
    }
}

static u64 error(enum vm_result result) { return result == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0; }

static void refusals(void)
{
    check_equal("VPID 0", error(invvpid(ONE_VPID, 0, 0)), ERROR_INVALID_OPERAND);
    check_equal("a non-canonical address", error(invvpid(ONE_ADDRESS, FIRST, 1ull << 63)), ERROR_INVALID_OPERAND);
    check_equal("type 4", error(invvpid(4, FIRST, 0)), ERROR_INVALID_OPERAND);
    check_equal("reserved bits", error(invvpid(ONE_VPID, 0x10000 | FIRST, 0)), ERROR_INVALID_OPERAND);
}

/* A space that differs from the host's in the page alone. */
static u64 space_of(unsigned page)
{
    u64 *top = new_pages(1), *pointers = new_pages(1), *directory = new_pages(1), *table = new_pages(1);
    memcpy(top, (void *)read_cr3(), PAGE);
    top[linear >> 39 & 511] = (u64)pointers | P | W | U;
    pointers[linear >> 30 & 511] = (u64)directory | P | W | U;
    directory[linear >> 21 & 511] = (u64)table | P | W | U;
    table[linear >> 12 & 511] = pages[page] | P | W | U | G;
    return (u64)top;
}

static void two_spaces(void)
{
    u64 spaces[2] = {space_of(2), space_of(3)};
    unsigned good = 0;
    invvpid(ALL_VPIDS, 0, 0);
    set(GUEST_CR4, read_cr4() | CR4_PGE);
    for (unsigned turn = 0; turn < 20; turn++) {
        set(VIRTUAL_PROCESSOR_IDENTIFIER, turn & 1 ? FIRST : SECOND);
        set(GUEST_CR3, spaces[turn & 1]);
        good += reads() == 2 + (turn & 1);
    }
    check_equal("each VPID has its own translations, also global ones", good, 20);
    have(0, 0);
    invlpg(linear);
    check_equal("the host has its own", read64(linear), 0);
    set(GUEST_CR3, read_cr3());
    set(GUEST_CR4, read_cr4());
}

static void of_the_guest(void)
{
    invvpid(ALL_VPIDS, 0, 0);
    have(0, 0);
    begin_at(&guest, CODE("mov rbx, [rax]\n mov [rcx], rdx\n invlpg [rax]\n mov rbp, [rax]\n"
                          "mov [rcx], rsi\n mov rdi, cr3\n mov cr3, rdi\n mov r8, [rax]"));
    guest.registers = (struct guest_registers){
        .ax = linear, .cx = (u64)entry, .dx = pages[1] | P | W | U, .si = pages[2] | P | W | U,
    };
    check_equal("a guest that maps anew", enter(&guest), EXIT_VMCALL);
    check_equal("reads", guest.registers.bx, 0);
    check_equal("after INVLPG", guest.registers.bp, 1);
    check_equal("after MOV to CR3", guest.registers.r8, 2);
}

void run(void)
{
    vmx_begin();
    for (u64 index = 0; index < 4; index++) {
        pages[index] = (u64)new_pages(1);
        write64(pages[index], index);
    }
    entry = map(linear, pages[0], P | W | U);
    vmcs_begin(&guest);
    without_vpids();
    if (!offered(SECONDARY_CONTROLS, ENABLE_VPID)) {
        skip("VPID");
        return;
    }
    enable(SECONDARY_CONTROLS, ENABLE_VPID);
    set(VIRTUAL_PROCESSOR_IDENTIFIER, FIRST);
    refusals();
    invalidations();
    two_spaces();
    of_the_guest();
    if (offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        enable_ept();
        of_the_guest();
        two_spaces();
    }
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
