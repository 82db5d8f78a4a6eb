/*
 * Guests with memory of their own: two that have the same addresses and code at different places, with their own
 * page tables, GDT and IDT; and one whose memory comes page by page, as it asks for it (SDM vol. 3, 29.3).
 */
#include "vmx.h"

enum {
    TOP = 0x1000, POINTERS = 0x2000, DIRECTORY = 0x3000, DESCRIPTORS = 0x4000, VECTORS = 0x5000,
    TASK_AT = 0x6000, CODE_AT = 0x8000, STACK_AT = 0x10000, DATA_AT = 0x20000, TURNS = 50,
};
static const u64 places[2] = {0x1000000, 0x1200000};

extern u8 own_code[], own_code_end[], own_handler[];

/* Sums what is at DATA_AT, faults, and goes on where its handler says; the handler adds to RBX. */
asm("own_code:\n"
    "1: mov esi, 0x20000\n mov ecx, 1000\n xor eax, eax\n"
    "2: add rax, [rsi]\n add rsi, 8\n dec ecx\n jnz 2b\n"
    "ud2\n"
    "inc qword ptr [0x20000]\n vmcall\n jmp 1b\n"
    "own_handler:\n add rbx, r12\n add qword ptr [rsp], 2\n iretq\n"
    "own_code_end:\n");

static struct guest guests[2];

static void begin(unsigned number)
{
    u8 *memory = (u8 *)places[number];
    memset(memory, 0, 0x30000);
    *(u64 *)(memory + TOP) = POINTERS | P | W;
    *(u64 *)(memory + POINTERS) = DIRECTORY | P | W;
    *(u64 *)(memory + DIRECTORY) = LARGE | P | W;
    memcpy(memory + DESCRIPTORS, gdt, sizeof gdt);
    u64 handler = CODE_AT + (u64)(own_handler - own_code);
    *(u64 *)(memory + VECTORS + UD * 16) = handler | (u64)KERNEL_CODE << 16 | (u64)(PRESENT | INTERRUPT_GATE) << 40;
    memcpy(memory + CODE_AT, own_code, own_code_end - own_code);
    for (u64 index = 0; index < 1000; index++)
        *(u64 *)(memory + DATA_AT + index * 8) = number + 1;

    struct guest *mine = &guests[number];
    vmcs_begin(mine);
    u64 ept_pointer = enable_ept();
    *ept_entry(ept_pointer, 0, 2) = places[number] | EPT_ALL | EPT_LARGE | EPT_WRITE_BACK;
    begin_at(mine, (void *)(u64)CODE_AT);
    set(GUEST_CR3, TOP);
    set(GUEST_RSP, STACK_AT);
    set(GUEST_GDTR_BASE, DESCRIPTORS);
    set(GUEST_IDTR_BASE, VECTORS);
    set(GUEST_TR_BASE, TASK_AT);
    mine->registers.r12 = number ? 1000 : 1;
}

static void two_guests(void)
{
    begin(0);
    begin(1);
    unsigned good[2] = {0, 0};
    for (unsigned turn = 0; turn < TURNS; turn++)
        for (unsigned number = 0; number < 2; number++) {
            vmptrld(guests[number].vmcs);
            u32 reason = enter(&guests[number]);
            u64 sum = 1000 * (number + 1) + turn;
            good[number] += reason == EXIT_VMCALL && guests[number].registers.ax == sum;
            skip_instruction();
        }
    check_equal("the first sums its own memory", good[0], TURNS);
    check_equal("the second its own", good[1], TURNS);
    check_equal("the first has its own handler's count", guests[0].registers.bx, TURNS);
    check_equal("the second too", guests[1].registers.bx, TURNS * 1000);
    check_equal("each wrote to its own", read64(places[0] + DATA_AT), 1 + TURNS);
    check_equal("at the same address", read64(places[1] + DATA_AT), 2 + TURNS);
}

/* VPIDs that are alike for both: only EPT tells them apart (SDM vol. 3, 29.4.1). */
static void same_vpid(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_VPID)) {
        skip("VPID");
        return;
    }
    unsigned good = 0;
    for (unsigned turn = TURNS; turn < 2 * TURNS; turn++)
        for (unsigned number = 0; number < 2; number++) {
            vmptrld(guests[number].vmcs);
            enable(SECONDARY_CONTROLS, ENABLE_VPID);
            set(VIRTUAL_PROCESSOR_IDENTIFIER, 1);
            good += enter(&guests[number]) == EXIT_VMCALL && guests[number].registers.ax == 1000 * (number + 1) + turn;
            skip_instruction();
        }
    check_equal("with one VPID for both", good, 2 * TURNS);
}

static u64 sum;

/* Touches much of the program's own memory. */
static void touch(void)
{
    u64 total = 0;
    for (u64 address = 0x1000000; address < 0x1000000 + 64 * PAGE; address += PAGE) {
        *(volatile u64 *)address = address;
        total += *(volatile u64 *)address;
    }
    sum = total;
}

static void on_demand(void)
{
    vmcs_begin(&guest);
    u64 ept_pointer = (u64)new_pages(1) | (new_ept() & 0xfff);
    enable(SECONDARY_CONTROLS, ENABLE_EPT);
    set(EPT_POINTER, ept_pointer);
    touch();
    u64 expected = sum;
    sum = 0;
    begin_at(&guest, touch);
    unsigned violations = 0, strange = 0;
    u32 reason;
    while ((reason = enter(&guest)) == EXIT_EPT_VIOLATION && violations < 1000) {
        u64 page = get(GUEST_PHYSICAL_ADDRESS) & -(u64)PAGE;
        volatile u64 *entry = ept_entry(ept_pointer, page, 1);
        strange += *entry != 0;
        *entry = page | EPT_ALL | EPT_WRITE_BACK;
        violations++;
    }
    check_equal("a guest whose memory comes on demand ends", reason, EXIT_VMCALL);
    check_equal("as it should", sum, expected);
    check_equal("no page was asked for twice", strange, 0);
    check("each of those that it touches was", violations > 64 && violations < 128);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        check("VMX", true);
        skip("EPT");
        return;
    }
    two_guests();
    same_vpid();
    on_demand();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
