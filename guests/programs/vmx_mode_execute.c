/*
 * Mode-based execute control: EPT permits execution at user-mode and at supervisor-mode linear addresses apart, by what
 * the guest's paging says of the address, not by the privilege (SDM vol. 3, 29.3.2, 29.3.3.2, 28.2.1).
 */
#include "vmx.h"

enum {
    IS_READ = 1, IS_FETCH = 4, RIGHTS_SHIFT = 3, EXECUTABLE_BY_USER = 0x40, DEFINED = 0x7f,
    USER_EXECUTE = 0x400, READ_WRITE = EPT_READ | EPT_WRITE,
};
/* Two addresses of a page, which shares no table of EPT with the program itself. */
static const u64 user = TEST_AREA + 0x9000, supervisor = TEST_AREA + 0xa000, page = 0x1400000;

static u64 eptp;
static volatile u64 *entry;

static void have(u64 rights)
{
    *entry = page | rights | EPT_WRITE_BACK;
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
}

static u32 call(u64 address)
{
    begin_at(&guest, CODE("call rax"));
    guest.registers.ax = address;
    return enter(&guest);
}

static void check_violation(const char *name, u32 reason, u64 access, u64 rights)
{
    check_equal(name, reason, EXIT_EPT_VIOLATION);
    check_equal("qualification", get(EXIT_QUALIFICATION) & DEFINED,
                access | (rights & EPT_ALL) << RIGHTS_SHIFT | (rights & USER_EXECUTE ? EXECUTABLE_BY_USER : 0));
    check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS), page);
}

static void addresses(void)
{
    have(EPT_ALL | USER_EXECUTE);
    check_equal("both rights: a user-mode address", call(user), EXIT_VMCALL);
    check_equal("a supervisor-mode address", call(supervisor), EXIT_VMCALL);
    have(EPT_ALL);
    check_violation("for supervisors: a user-mode address", call(user), IS_FETCH, EPT_ALL);
    check_equal("a supervisor-mode address", call(supervisor), EXIT_VMCALL);
    have(READ_WRITE | USER_EXECUTE);
    check_equal("for users: a user-mode address", call(user), EXIT_VMCALL);
    check_violation("a supervisor-mode address", call(supervisor), IS_FETCH, READ_WRITE | USER_EXECUTE);
    have(READ_WRITE);
    check_violation("for nobody: a user-mode address", call(user), IS_FETCH, READ_WRITE);
    check_violation("a supervisor-mode address", call(supervisor), IS_FETCH, READ_WRITE);
    /* What two levels permit. */
    volatile u64 *above = ept_entry(eptp, page, 2);
    *above &= ~(u64)USER_EXECUTE;
    have(EPT_ALL | USER_EXECUTE);
    check_violation("above it, for supervisors", call(user), IS_FETCH, EPT_ALL);
    check_equal("a supervisor-mode address", call(supervisor), EXIT_VMCALL);
    *above |= USER_EXECUTE;
}

static void at_ring_3(void)
{
    have(EPT_ALL);
    begin_at(&guest, CODE("call rax"));
    begin_at_ring_3();
    guest.registers.ax = user;
    check_violation("CPL 3, for supervisors", enter(&guest), IS_FETCH, EPT_ALL);
    have(READ_WRITE | USER_EXECUTE);
    check_equal("for users", enter(&guest), EXIT_VMCALL);
}

static void present(void)
{
    begin_at(&guest, CODE("mov ecx, [rax]"));
    guest.registers.ax = user;
    have(0);
    check_violation("no right", enter(&guest), IS_READ, 0);
    if (!ept_capable(CAPABLE_EXECUTE_ONLY)) {
        skip("execute-only translations");
        return;
    }
    have(USER_EXECUTE);
    check_violation("a page that users execute is present", enter(&guest), IS_READ, USER_EXECUTE);
    check_equal("and executed", call(user), EXIT_VMCALL);
    have(EPT_WRITE | USER_EXECUTE);
    check_equal("with the right to write, it is none", call(user), EXIT_EPT_MISCONFIGURATION);
}

/* Without paging every address is of user mode. */
static void without_paging(void)
{
    u64 control0 = get(GUEST_CR0), control3 = get(GUEST_CR3), control4 = get(GUEST_CR4);
    if (!offered(SECONDARY_CONTROLS, UNRESTRICTED_GUEST)) {
        skip("unrestricted guests");
        return;
    }
    enable(SECONDARY_CONTROLS, UNRESTRICTED_GUEST);
    static const u8 code[] = {0x0f, 0x01, 0xc1}; /* vmcall */
    memcpy((void *)(page + 0x800), code, sizeof code);
    begin_at(&guest, (void *)(page + 0x800));
    begin_protected();
    set(GUEST_CR0, control0 & ~(u64)CR0_PG);
    have(EPT_ALL);
    check_equal("without paging, for supervisors", enter(&guest), EXIT_EPT_VIOLATION);
    have(READ_WRITE | USER_EXECUTE);
    check_equal("for users", enter(&guest), EXIT_VMCALL);
    enable(VM_ENTRY_CONTROLS, IA_32E_MODE_GUEST);
    set(GUEST_CR0, control0);
    set(GUEST_CR3, control3);
    set(GUEST_CR4, control4);
    disable(SECONDARY_CONTROLS, UNRESTRICTED_GUEST);
}

static void without_it(void)
{
    disable(SECONDARY_CONTROLS, MODE_BASED_EXECUTE_CONTROL);
    have(EPT_ALL);
    check_equal("without the control, a user-mode address", call(user), EXIT_VMCALL);
    have(READ_WRITE | USER_EXECUTE);
    check_equal("bit 10 is no right", call(user), EXIT_EPT_VIOLATION);
    have(USER_EXECUTE);
    check_equal("not even to be present", call(user), EXIT_EPT_VIOLATION);
    check_equal("with any", get(EXIT_QUALIFICATION) & EPT_ALL << RIGHTS_SHIFT, 0);
    have(EPT_ALL);
    enable(SECONDARY_CONTROLS, MODE_BASED_EXECUTE_CONTROL);
    invept(SINGLE_EPT, eptp);
}

static const struct broken controls[] = {{"the control without EPT", {CLEAR(SECONDARY_CONTROLS, ENABLE_EPT)}}};

/* All of `new_ept` for users as well. */
static void permit_users(void)
{
    enum { GIGABYTES = 4, LARGE_PAGES = 512 };
    for (u64 gigabyte = 0; gigabyte < GIGABYTES; gigabyte++)
        for (u64 index = 0; index < LARGE_PAGES; index++)
            *ept_entry(eptp, gigabyte << 30 | index << 21, 2) |= USER_EXECUTE;
    for (u64 gigabyte = 0; gigabyte < GIGABYTES; gigabyte++)
        *ept_entry(eptp, gigabyte << 30, 3) |= USER_EXECUTE;
    *ept_entry(eptp, 0, 4) |= USER_EXECUTE;
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT | MODE_BASED_EXECUTE_CONTROL)) {
        check("VMX", true);
        skip("mode-based execute control");
        return;
    }
    eptp = enable_ept();
    write8(page, 0xc3);
    map(user, page, P | W | U);
    map(supervisor, page, P | W);
    permit_users();
    entry = ept_entry(eptp, page, 1);
    *ept_entry(eptp, page, 2) |= USER_EXECUTE;
    enable(SECONDARY_CONTROLS, MODE_BASED_EXECUTE_CONTROL);
    addresses();
    at_ring_3();
    present();
    without_paging();
    without_it();
    ENTRIES_FAIL(controls, ENTER_FAILED(ERROR_CONTROLS));
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
