/*
 * The same code in host and guest, under controls that change, at addresses that lead elsewhere, and rewritten: what
 * was run often before must not decide what it does now (SDM vol. 3, 26.1, 29.3, 29.4.3.3).
 */
#include "vmx.h"

enum { OFTEN = 3000 };
static const u64 linear = TEST_AREA + 0x7000;

static u64 eptp;

/* Run in the host and the guest. */
__attribute__((noinline)) static u64 round(void)
{
    u64 sum = cpuid(0, 0).a;
    asm volatile("" : "+r"(sum));
    return sum + 1;
}

static u64 rounds(u64 count)
{
    u64 sum = 0;
    while (count--)
        sum += round() != 0;
    return sum;
}

static volatile u64 result;

static void all_rounds(void) { result = rounds(20); }

static void in_both(void)
{
    check_equal("the host runs CPUID often", rounds(OFTEN), OFTEN);
    begin_at(&guest, all_rounds);
    unsigned exits = 0;
    u32 reason;
    while ((reason = enter(&guest)) == EXIT_CPUID) {
        exits++;
        guest.registers.ax = 5;
        skip_instruction();
    }
    check_equal("the guest runs the same to its end", reason, EXIT_VMCALL);
    check_equal("where each exits", exits, 20);
    check_equal("and does what it is told", result, 20);
    check_equal("the host's do not", rounds(OFTEN), OFTEN);
}

/* Code that reads the counter `rcx` times. */
static void *reads_counter(void) { return CODE("1: rdtsc\n mov cr2, rax\n loop 1b"); }

static void controls(void)
{
    void *code = reads_counter();
    for (unsigned turn = 0; turn < 3; turn++) {
        begin_at(&guest, code);
        guest.registers.cx = OFTEN;
        disable(PRIMARY_CONTROLS, RDTSC_EXITING);
        check_equal("no RDTSC exiting, often", enter(&guest), EXIT_VMCALL);
        check_equal("to its end", guest.registers.cx, 0);
        begin_at(&guest, code);
        guest.registers.cx = OFTEN;
        enable(PRIMARY_CONTROLS, RDTSC_EXITING);
        check_equal("RDTSC exiting", enter(&guest), EXIT_RDTSC);
        check_equal("at the first", guest.registers.cx, OFTEN);
    }
    disable(PRIMARY_CONTROLS, RDTSC_EXITING);
    /* In the middle of a loop that is hot. */
    begin_at(&guest, CODE("1: rdtsc\n dec ecx\n test ecx, 0x3ff\n jnz 1b\n vmcall\n jmp 1b"));
    guest.registers.cx = 0x1400;
    check_equal("part of a loop", enter(&guest), EXIT_VMCALL);
    skip_instruction();
    enable(PRIMARY_CONTROLS, RDTSC_EXITING);
    check_equal("the rest, under exits", enter(&guest), EXIT_RDTSC);
    check_equal("stops at once", guest.registers.cx, 0x1000);
    disable(PRIMARY_CONTROLS, RDTSC_EXITING);
    check_equal("and goes on without", enter(&guest), EXIT_VMCALL);
    check_equal("to the next part", guest.registers.cx, 0xc00);
}

/* mov eax, value; ret */
static void write_code(u64 page, u32 value)
{
    write8(page, 0xb8);
    write32(page + 1, value);
    write8(page + 5, 0xc3);
}

static u64 call(void) { return ((u64(*)(void))linear)(); }

/* What the code at `linear` returns in the guest, which calls it often. */
static u64 guest_calls(void)
{
    begin_at(&guest, CODE("mov r12d, 2000\n 1: call rbx\n dec r12d\n jnz 1b"));
    guest.registers.bx = linear;
    guest.registers.ax = 0;
    return enter(&guest) == EXIT_VMCALL ? guest.registers.ax : ~0ull;
}

static void elsewhere(void)
{
    u64 pages[3];
    for (u32 index = 0; index < 3; index++) {
        pages[index] = (u64)new_pages(1);
        write_code(pages[index], index + 1);
    }
    map(linear, pages[0], P | W | U);
    check_equal("code in the host", call(), 1);
    check_equal("and in the guest", guest_calls(), 1);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        skip("EPT");
        return;
    }
    eptp = enable_ept();
    volatile u64 *entry = ept_entry(eptp, pages[0], 1);
    for (unsigned turn = 0; turn < 6; turn++) {
        u64 page = pages[turn % 3];
        *entry = page | EPT_ALL | EPT_WRITE_BACK;
        invept(SINGLE_EPT, eptp);
        check_equal("the guest runs what EPT leads to", guest_calls(), turn % 3 + 1);
        check_equal("the host what it has there", call(), 1);
    }
    /* Two EPT hierarchies, with nothing invalidated in between. */
    u64 second = new_ept();
    *entry = pages[1] | EPT_ALL | EPT_WRITE_BACK;
    invept(ALL_EPTS, 0);
    *ept_entry(second, pages[0], 1) = pages[2] | EPT_ALL | EPT_WRITE_BACK;
    for (unsigned turn = 0; turn < 6; turn++) {
        set(EPT_POINTER, turn & 1 ? second : eptp);
        check_equal("each hierarchy leads to its own", guest_calls(), turn & 1 ? 3 : 2);
    }
    set(EPT_POINTER, eptp);
    *entry = pages[0] | EPT_READ | EPT_WRITE | EPT_WRITE_BACK;
    invept(SINGLE_EPT, eptp);
    guest_calls();
    check_equal("the right to execute, taken away from what is hot", get(EXIT_REASON), EXIT_EPT_VIOLATION);
    check_equal("stops it", guest.registers.ax, 0);
    *entry = pages[0] | EPT_ALL | EPT_WRITE_BACK;
    check_equal("until it has it again", guest_calls(), 1);
}

static void rewritten(void)
{
    u64 page = *entry_of(linear, 1) & 0xffffffffff000;
    for (u32 turn = 10; turn < 14; turn++) {
        write_code(page, turn);
        check_equal("code that the host rewrites", guest_calls(), turn);
    }
    begin_at(&guest, CODE("mov [rbx + 1], ecx\n call rbx\n inc ecx\n mov [rbx + 1], ecx\n mov esi, eax\n call rbx"));
    guest.registers.bx = linear;
    guest.registers.cx = 20;
    check_equal("that the guest rewrites", enter(&guest), EXIT_VMCALL);
    check_equal("is new at once", guest.registers.si, 20);
    check_equal("and again", guest.registers.ax, 21);
    check_equal("also for the host", call(), 21);
    begin_at(&guest, CODE("mov [rbx + 1], ecx"));
    guest.registers.bx = page;
    guest.registers.cx = 30;
    check_equal("by another address", enter(&guest), EXIT_VMCALL);
    check_equal("too", call(), 30);
    check_equal("for both", guest_calls(), 30);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    in_both();
    controls();
    elsewhere();
    rewritten();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
