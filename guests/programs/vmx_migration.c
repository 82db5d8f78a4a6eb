/*
 * Guests and their memory on two processors: a VMCS that moves from one to the other, and EPT that one processor
 * changes under the guest of another (SDM vol. 3, 25.1, 25.11.1, 29.4.3.4).
 */
#include "processors.h"
#include "vmx.h"

enum { MOVES = 20, CHANGES = 20, VECTOR = 0x51 };
static const u64 linear = TEST_AREA + 0xb000;

static u64 vmxon_regions[2], eptp, pages[2];
static struct guest moving;
static volatile u32 good;

/* new_pages is for one processor at a time: regions and guests are made by the first. */
static void begin_each(unsigned processor)
{
    vmx_prepare();
    if (vmxon(vmxon_regions[processor]) != SUCCEED)
        give_up("VMXON failed");
}

static void run_once(unsigned processor)
{
    (void)processor;
    moving.launched = false;
    /* The host's state is alike on both. */
    if (vmptrld(moving.vmcs) == SUCCEED && enter(&moving) == EXIT_VMCALL)
        good++;
    skip_instruction();
    if (vmclear(moving.vmcs) != SUCCEED)
        give_up("VMCLEAR failed");
}

static void moves(void)
{
    vmcs_begin(&moving);
    begin_at(&moving, CODE("1: inc rbx\n inc qword ptr [rsi]\n vmcall\n jmp 1b"));
    u64 *counter = new_pages(1);
    moving.registers.si = (u64)counter;
    vmclear(moving.vmcs);
    for (unsigned turn = 0; turn < MOVES; turn++) {
        if (turn & 1) {
            begin_work(1, run_once);
            wait_for_processor(1);
        } else {
            run_once(0);
        }
    }
    check_equal("a VMCS that moves between processors runs on each", good, MOVES);
    check_equal("and keeps its registers", moving.registers.bx, MOVES);
    check_equal("and its memory", *counter, MOVES);
}

static volatile u64 observed;
static volatile bool ends;

/* Processor 1: a guest that tells what it reads; an interrupt has it forget what EPT was. */
static void observe(unsigned processor)
{
    (void)processor;
    vmptrld(guest.vmcs);
    guest.launched = false;
    while (!ends) {
        u32 reason = enter(&guest);
        if (reason != EXIT_EXTERNAL_INTERRUPT) {
            observed = 0xbad00000 | reason;
            break;
        }
        apic_end_of_interrupt();
        invept(SINGLE_EPT, eptp);
    }
    vmclear(guest.vmcs);
}

static void changes(void)
{
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        skip("EPT");
        return;
    }
    eptp = enable_ept();
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    volatile u64 *entry = ept_entry(eptp, pages[0], 1);
    begin_at(&guest, CODE("1: mov rax, [rsi]\n mov [rdi], rax\n pause\n jmp 1b"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    guest.registers.si = linear;
    guest.registers.di = (u64)&observed;
    vmclear(guest.vmcs);
    begin_work(1, observe);
    unsigned seen = 0;
    for (unsigned change = 0; change < CHANGES; change++) {
        u64 value = 1 + (change & 1);
        *entry = pages[change & 1] | EPT_ALL | EPT_WRITE_BACK;
        send_ipi(1, VECTOR);
        while (observed != value && observed < 0xbad00000)
            pause();
        seen += observed == value;
    }
    ends = true;
    send_ipi(1, VECTOR);
    wait_for_processor(1);
    check_equal("what EPT leads to, changed by the other processor, is seen", seen, CHANGES);
}

static void leave(unsigned processor)
{
    (void)processor;
    vmxoff();
}

void run(void)
{
    start_processors(2);
    for (unsigned index = 0; index < 2; index++) {
        vmxon_regions[index] = new_vmx_region();
        pages[index] = (u64)new_pages(1);
        write64(pages[index], index + 1);
    }
    map(linear, pages[0], P | W | U);
    together(2, begin_each);
    moves();
    changes();
    together(2, leave);
    check("VMXOFF on both", true);
}
