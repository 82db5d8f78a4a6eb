/*
 * The time-stamp counter of guests: offset and multiplier, by each way of reading it; loops of PAUSE that exit
 * (SDM vol. 3, 25.6.5, 25.6.13, 26.3, 26.1.3). What is read is compared with what the host reads before and after.
 */
#include "vmx.h"

static u64 before, after;

/* The counter as the guest reads it, between two readings of the host's. */
static u64 reads(void *code)
{
    begin_at(&guest, code);
    before = rdtsc();
    u32 reason = enter(&guest);
    after = rdtsc();
    return reason == EXIT_VMCALL ? guest.registers.dx << 32 | (u32)guest.registers.ax : 0;
}

/* value * multiplier / 2^48. */
static u64 scaled(u64 value, u64 multiplier) { return (unsigned __int128)value * multiplier >> 48; }

static void check_reading(const char *name, void *code, u64 multiplier, u64 offset)
{
    u64 value = reads(code) - offset;
    check(name, value >= scaled(before, multiplier) && value <= scaled(after, multiplier));
}

static const u64 one = 1ull << 48;

static void all(const char *name, u64 multiplier, u64 offset)
{
    check_reading(name, CODE("rdtsc"), multiplier, offset);
    check_reading("RDMSR too", CODE("mov ecx, 0x10\n rdmsr"), multiplier, offset);
    if (!offered(SECONDARY_CONTROLS, ENABLE_RDTSCP)) {
        skip("RDTSCP in guests");
        return;
    }
    enable(SECONDARY_CONTROLS, ENABLE_RDTSCP);
    wrmsr(MSR_TSC_AUX, 0x77);
    check_reading("RDTSCP too", CODE("rdtscp"), multiplier, offset);
    check_equal("with IA32_TSC_AUX", guest.registers.cx, 0x77);
    disable(SECONDARY_CONTROLS, ENABLE_RDTSCP);
}

static void offsets(void)
{
    set(TSC_OFFSET, 1ull << 60);
    all("the counter as it is", one, 0);
    enable(PRIMARY_CONTROLS, USE_TSC_OFFSETTING);
    all("with an offset", one, 1ull << 60);
    set(TSC_OFFSET, -(1ull << 40));
    all("with a negative one", one, -(1ull << 40));
}

static void scaling(void)
{
    set(TSC_OFFSET, 1ull << 50);
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, USE_TSC_SCALING, "TSC scaling");
    set(TSC_MULTIPLIER, 0);
    begin_at(&guest, CODE("nop"));
    check_equal("a multiplier of 0", enter(&guest), ENTER_FAILED(ERROR_CONTROLS));
    set(TSC_MULTIPLIER, one);
    all("a multiplier of 1", one, 1ull << 50);
    set(TSC_MULTIPLIER, 3 * one);
    all("of 3, before the offset is added", 3 * one, 1ull << 50);
    set(TSC_MULTIPLIER, one / 7);
    all("of a seventh", one / 7, 1ull << 50);
    disable(PRIMARY_CONTROLS, USE_TSC_OFFSETTING);
    all("without offsetting none of both", one, 0);
    disable(SECONDARY_CONTROLS, USE_TSC_SCALING);
}

static void spin_at_ring_3(void)
{
    to_ring_3();
    for (unsigned turns = 0; turns < 10000; turns++)
        asm volatile("pause");
    to_ring_0();
}

static void pause_loops(void)
{
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, PAUSE_LOOP_EXITING, "PAUSE-loop exiting");
    set(PLE_GAP, 0x7fffffff);
    set(PLE_WINDOW, 1000);
    begin_at(&guest, CODE("1: pause\n jmp 1b"));
    check_equal("a loop of PAUSE, longer than the window", enter(&guest), EXIT_PAUSE);
    check_equal("one PAUSE", get(VM_EXIT_INSTRUCTION_LENGTH), 2);
    run_guest("at CPL 3 there is no such exit", spin_at_ring_3);
    /* The first after a VM entry begins a loop, whenever the last one was. */
    RUNS("nor for one PAUSE", "pause");
    disable(SECONDARY_CONTROLS, PAUSE_LOOP_EXITING);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    set(MSR_BITMAPS, (u64)new_pages(1));
    enable(PRIMARY_CONTROLS, USE_MSR_BITMAPS);
    offsets();
    scaling();
    pause_loops();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
