/*
 * Two VMCSs that alternate on one processor: each keeps its state and its launch state, whichever is current
 * (SDM vol. 3, 25.1, 25.11.1).
 */
#include "vmx.h"

enum { TURNS = 100 };

static struct guest one, other;

static void make_current(struct guest *which)
{
    if (vmptrld(which->vmcs) != SUCCEED)
        give_up("VMPTRLD failed");
}

/* Enter a guest; it counts in its own register, and its address space. */
static bool turn(struct guest *which)
{
    make_current(which);
    bool exits = enter(which) == EXIT_VMCALL;
    skip_instruction();
    return exits;
}

static void *counting(void) { return CODE("1: add rbx, rbp\n inc qword ptr [rsi]\n vmcall\n jmp 1b"); }

static u64 space_of(u8 *page)
{
    /* All as in the host's own, but one page. */
    u64 *top = new_pages(1);
    memcpy(top, (void *)read_cr3(), PAGE);
    u64 *pointers = new_pages(1), *directory = new_pages(1), *table = new_pages(1);
    top[TEST_AREA >> 39 & 511] = (u64)pointers | P | W | U;
    pointers[0] = (u64)directory | P | W | U;
    directory[0] = (u64)table | P | W | U;
    table[0] = (u64)page | P | W | U;
    return (u64)top;
}

static u64 *begin(struct guest *which, u64 step)
{
    u8 *page = new_pages(1);
    vmcs_begin(which);
    begin_at(which, counting());
    set(GUEST_CR3, space_of(page));
    which->registers = (struct guest_registers){.bp = step, .si = TEST_AREA};
    return (u64 *)page;
}

static void alternate(void)
{
    u64 *first = begin(&one, 1), *second = begin(&other, 1000);
    unsigned good = 0;
    for (unsigned index = 0; index < TURNS; index++)
        good += turn(&one) && turn(&other);
    check_equal("all turns end with VMCALL", good, TURNS);
    check_equal("one counts", one.registers.bx, TURNS);
    check_equal("the other too", other.registers.bx, TURNS * 1000);
    check_equal("one writes its own page", *first, TURNS);
    check_equal("at the same address as the other", *second, TURNS);
}

static void launch_states(void)
{
    make_current(&one);
    one.launched = false;
    check_equal("VMLAUNCH of a launched VMCS that was away", enter(&one), ENTER_FAILED(ERROR_VMLAUNCH_NOT_CLEAR));
    one.launched = true;
    check_equal("VMCLEAR of the other", vmclear(other.vmcs), SUCCEED);
    check("leaves the one launched", turn(&one));
    make_current(&other);
    check_equal("VMRESUME of the other", enter(&other), ENTER_FAILED(ERROR_VMRESUME_NOT_LAUNCHED));
    other.launched = false;
    check_equal("VMLAUNCH of it", enter(&other), EXIT_VMCALL);
    check_equal("goes on where it was", other.registers.bx, (TURNS + 1) * 1000);
}

/* VMCLEAR writes what a processor keeps of a VMCS; a copy of the region is then a VMCS as good. */
static void copies(void)
{
    vmclear(other.vmcs);
    u64 copy = new_vmx_region();
    memcpy((void *)copy, (void *)other.vmcs, PAGE);
    other.vmcs = copy;
    other.launched = false;
    make_current(&other);
    skip_instruction();
    check_equal("a copy of a clear region", enter(&other), EXIT_VMCALL);
    check_equal("is that guest", other.registers.bx, (TURNS + 2) * 1000);
}

/* The error of a failed instruction is of the VMCS that was current. */
static void errors(void)
{
    make_current(&one);
    u64 value = 0;
    vmread(0x69fe, &value);
    check_equal("an error", get(VM_INSTRUCTION_ERROR), ERROR_UNSUPPORTED_FIELD);
    make_current(&other);
    vmptrld(other.vmcs + 8);
    check_equal("another in the other", get(VM_INSTRUCTION_ERROR), ERROR_VMPTRLD_ADDRESS);
    make_current(&one);
    check_equal("each keeps its own", get(VM_INSTRUCTION_ERROR), ERROR_UNSUPPORTED_FIELD);
}

void run(void)
{
    vmx_begin();
    alternate();
    launch_states();
    copies();
    errors();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
