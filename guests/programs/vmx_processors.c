/*
 * VMX on two processors: each has its own VMX operation and guest; INIT and NMIs as exits, the wait for a start-up
 * IPI as a state of guests (SDM vol. 3, 24.8, 26.2, 27.3.1.5, 28.2).
 */
#include "processors.h"
#include "vmx.h"

enum { COUNTS = 1000, VECTOR = 0x51 };

static struct guest guests[2];
static u64 vmxon_regions[2];
static volatile u32 reasons[2];
static volatile u64 qualifications[2], information[2], entered;
static volatile bool waits;

/* new_pages is for one processor at a time. */
static void begin_each(unsigned processor)
{
    vmx_prepare();
    if (vmxon(vmxon_regions[processor]) != SUCCEED)
        give_up("VMXON failed");
    vmcs_begin(&guests[processor]);
}

static void count(unsigned processor)
{
    struct guest *mine = &guests[processor];
    begin_at(mine, CODE("1: inc rbx\n vmcall\n jmp 1b"));
    mine->registers.bx = processor * 0x10000;
    meet(2);
    for (unsigned index = 0; index < COUNTS; index++) {
        reasons[processor] = enter(mine);
        skip_instruction();
    }
}

/* Processor 1: a guest that says that it runs, and waits for what ends it. */
static void wait_in_guest(unsigned processor)
{
    struct guest *mine = &guests[processor];
    begin_at(mine, CODE("1: inc qword ptr [rsi]\n pause\n jmp 1b"));
    mine->registers.si = (u64)&entered;
    reasons[processor] = enter(mine);
    information[processor] = get(VM_EXIT_INTERRUPTION_INFORMATION);
    qualifications[processor] = get(EXIT_QUALIFICATION);
}

static void wait_until_it_runs(void)
{
    u64 start = entered;
    while (entered == start)
        pause();
}

static void init(void)
{
    begin_work(1, wait_in_guest);
    wait_until_it_runs();
    send_ipi(1, APIC_INIT);
    wait_for_processor(1);
    check_equal("INIT is an exit", reasons[1], EXIT_INIT);
}

static void take_nmis(unsigned processor)
{
    enable(PIN_BASED_CONTROLS, NMI_EXITING | EXTERNAL_INTERRUPT_EXITING);
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    wait_in_guest(processor);
    (void)CATCH(EMIT("ud2")); /* its IRET unblocks NMIs */
}

static void wait_enabled(unsigned processor)
{
    struct guest *mine = &guests[processor];
    begin_at(mine, CODE("1: inc qword ptr [rsi]\n pause\n jmp 1b"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    mine->registers.si = (u64)&entered;
    reasons[processor] = enter(mine);
    information[processor] = get(VM_EXIT_INTERRUPTION_INFORMATION);
    apic_end_of_interrupt();
}

static void events(void)
{
    begin_work(1, take_nmis);
    wait_until_it_runs();
    send_ipi(1, APIC_NMI);
    wait_for_processor(1);
    check_equal("an NMI is an exit", reasons[1], EXIT_EXCEPTION_OR_NMI);
    check_equal("and told", information[1], INTERRUPTION_VALID | TYPE_NMI | NMI);
    begin_work(1, wait_enabled);
    wait_until_it_runs();
    send_ipi(1, VECTOR);
    wait_for_processor(1);
    check_equal("an interrupt is an exit", reasons[1], EXIT_EXTERNAL_INTERRUPT);
    check_equal("and told", information[1], INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | VECTOR);
}

static void wait_for_start(unsigned processor)
{
    struct guest *mine = &guests[processor];
    begin_at(mine, CODE("nop"));
    set(GUEST_ACTIVITY_STATE, WAIT_FOR_SIPI);
    waits = true;
    reasons[processor] = enter(mine);
    qualifications[processor] = get(EXIT_QUALIFICATION);
    information[processor] = get(GUEST_ACTIVITY_STATE);
}

static void start_up(void)
{
    if (!(rdmsr(MSR_VMX_MISC) >> 8 & 1)) {
        skip("the wait for a start-up IPI in guests");
        return;
    }
    begin_work(1, wait_for_start);
    while (!waits)
        pause();
    /* A start-up IPI that comes too early is lost: send until one is taken. */
    reasons[1] = ~0u;
    while (reasons[1] == ~0u) {
        send_ipi(1, APIC_START_UP | 0x77);
        for (unsigned turns = 0; turns < 1000; turns++)
            pause();
    }
    wait_for_processor(1);
    check_equal("a start-up IPI is an exit", reasons[1], EXIT_STARTUP_IPI);
    check_equal("the qualification is its vector", qualifications[1], 0x77);
    check_equal("the guest still waits", information[1], WAIT_FOR_SIPI);
}

/* In VMX root operation INIT waits: until a guest runs, or VMXOFF. */
static volatile u32 alive;

static void live(unsigned processor)
{
    alive = 1;
    while (alive != 2)
        pause();
    wait_in_guest(processor);
    alive = 3;
}

static void init_in_root(void)
{
    begin_work(1, live);
    while (alive != 1)
        pause();
    send_ipi(1, APIC_INIT);
    for (volatile unsigned turns = 0; turns < 10000; turns++)
        ;
    alive = 2;
    wait_for_processor(1);
    check_equal("INIT in VMX root operation waits", alive, 3);
    check_equal("for the guest, which exits", reasons[1], EXIT_INIT);
}

static void leave_and_return(unsigned processor)
{
    u64 vmcs = guests[processor].vmcs;
    guests[processor].launched = false;
    reasons[processor] = vmclear(vmcs) + vmxoff() + vmxon(vmxon_regions[processor]) + vmptrld(vmcs);
}

void run(void)
{
    start_processors(2);
    for (unsigned processor = 0; processor < 2; processor++)
        vmxon_regions[processor] = new_vmx_region();
    begin_each(0);
    begin_work(1, begin_each);
    wait_for_processor(1);
    check("VMXON on both", true);
    together(2, count);
    for (unsigned processor = 0; processor < 2; processor++) {
        check_equal("a guest on each", reasons[processor], EXIT_VMCALL);
        check_equal("counts for itself", guests[processor].registers.bx, processor * 0x10000 + COUNTS);
    }
    events();
    start_up();
    together(2, leave_and_return);
    check_equal("VMXOFF and VMXON on both", reasons[0] | reasons[1], SUCCEED);
    init();
    init_in_root();
}
