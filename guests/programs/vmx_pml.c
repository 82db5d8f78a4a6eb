/*
 * Page-modification logging: what makes a page dirty is logged once, the VM exit when the log is full, before
 * anything is written (SDM vol. 3, 29.3.6, 28.2.1, 28.2.4).
 */
#include "vmx.h"

enum { LAST = 511, BEYOND = 0xffff, VECTOR = 0x91, FLAGS = EPT_ACCESSED | EPT_DIRTY };
static const u64 linear = TEST_AREA + 0x9000, lone = 0x1400000;

static u64 eptp, pages[2], inner_table;
static volatile u64 *entries[2], *logged;

/* Nothing has been written to these pages; the log begins at an index. */
static void begin_log(u64 index)
{
    *entries[0] = pages[0] | EPT_ALL | EPT_ACCESSED | EPT_WRITE_BACK;
    *entries[1] = pages[1] | EPT_ALL | EPT_ACCESSED | EPT_WRITE_BACK;
    memset((void *)logged, 0, PAGE);
    set(GUEST_PML_INDEX, index);
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
}

static u32 try(void *code, u64 address)
{
    begin_at(&guest, code);
    guest.registers.ax = address;
    return enter(&guest);
}

/* What the guest uses beside the pages is dirty from now on. */
static void warm_up(void)
{
    begin_log(LAST);
    void *code = CODE("push rcx\n pop rcx\n mov [rax], ecx\n mov [rax + 0x1000], ecx");
    check_equal("a guest whose pages are logged", try(code, linear), EXIT_VMCALL);
}

static void once(void)
{
    void *write = CODE("mov [rax], ecx\n mov [rax + 8], ecx"), *read = CODE("mov ecx, [rax]");
    begin_log(LAST);
    check_equal("a read", try(read, linear + 0x123), EXIT_VMCALL);
    check_equal("is not logged", get(GUEST_PML_INDEX), LAST);
    check_equal("a write", try(write, linear + 0x123), EXIT_VMCALL);
    check_equal("is, once", get(GUEST_PML_INDEX), LAST - 1);
    check_equal("by the page", logged[LAST], pages[0]);
    check_equal("which is dirty", *entries[0] & FLAGS, FLAGS);
    check_equal("another write", try(write, linear + 0x456), EXIT_VMCALL);
    check_equal("is not", get(GUEST_PML_INDEX), LAST - 1);
    *entries[0] &= ~(u64)EPT_DIRTY;
    invept(SINGLE_EPT, eptp);
    check_equal("clean again, a write", try(write, linear), EXIT_VMCALL);
    check_equal("is logged again", logged[LAST - 1], pages[0]);
    check_equal("at the next place", get(GUEST_PML_INDEX), LAST - 2);
}

static void across_pages(void)
{
    begin_log(LAST);
    check_equal("a write across pages", try(CODE("mov [rax], rcx"), linear + PAGE - 4), EXIT_VMCALL);
    check_equal("makes two entries", get(GUEST_PML_INDEX), LAST - 2);
    check_equal("of the pages", logged[LAST] + logged[LAST - 1], pages[0] + pages[1]);
    begin_log(0);
    write64(linear + PAGE - 4, 0xffffffff);
    check_equal("with room for one", try(CODE("lock inc qword ptr [rax]"), linear + PAGE - 4), EXIT_LOG_FULL);
    check_equal("nothing is written", read64(linear + PAGE - 4), 0xffffffff);
    set(GUEST_PML_INDEX, LAST);
    check_equal("with more", enter(&guest), EXIT_VMCALL);
    check_equal("it is written once", read64(linear + PAGE - 4), 0x100000000);
}

static void large_page(void)
{
    volatile u64 *large = ept_entry(eptp, lone, 2);
    begin_log(LAST);
    *large &= ~(u64)FLAGS;
    check_equal("a 2-MByte page", try(CODE("mov [rax], ecx\n mov [rax + 0x5000], ecx"), lone + 0x12345), EXIT_VMCALL);
    check_equal("is logged once", get(GUEST_PML_INDEX), LAST - 1);
    check_equal("by the 4 KByte that were written", logged[LAST], lone + 0x12000);
}

static void paging_structure(void)
{
    volatile u64 *of_table = ept_entry(eptp, inner_table, 1);
    try(CODE("mov ecx, [rax]"), linear);
    begin_log(LAST);
    *of_table &= ~(u64)EPT_DIRTY;
    invept(SINGLE_EPT, eptp);
    check_equal("a read by way of a page table", try(CODE("mov ecx, [rax]"), linear), EXIT_VMCALL);
    check_equal("logs that", logged[LAST], inner_table);
    check_equal("and no more", get(GUEST_PML_INDEX), LAST - 1);
}

static void full(void)
{
    void *write = CODE("mov dword ptr [rax], 0x11");
    begin_log(0);
    write32(linear, 0);
    check_equal("the last entry", try(write, linear + PAGE), EXIT_VMCALL);
    check_equal("is at index 0", logged[0], pages[1]);
    check_equal("behind which there is none", get(GUEST_PML_INDEX), BEYOND);
    check_equal("a page that is dirty already", try(write, linear + PAGE), EXIT_VMCALL);
    check_equal("another page", try(write, linear), EXIT_LOG_FULL);
    check_equal("qualification", get(EXIT_QUALIFICATION) & 0x1000, 0);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)write);
    check_equal("nothing is written", read32(linear), 0);
    check_equal("nor marked", *entries[0] & EPT_DIRTY, 0);
    check_equal("the index stays", get(GUEST_PML_INDEX), BEYOND);
    set(GUEST_PML_INDEX, LAST + 1);
    check_equal("index 512", enter(&guest), EXIT_LOG_FULL);
    set(GUEST_PML_INDEX, LAST);
    check_equal("index 511", enter(&guest), EXIT_VMCALL);
    check_equal("it is written", read32(linear), 0x11);
    check_equal("and logged", logged[LAST], pages[0]);
    begin_log(BEYOND);
    *entries[0] &= ~(u64)EPT_ACCESSED;
    check_equal("an accessed flag to be set", try(CODE("mov ecx, [rax]"), linear), EXIT_LOG_FULL);
    *entries[0] |= EPT_ACCESSED;
    check_equal("set, it can be read", enter(&guest), EXIT_VMCALL);
}

static void delivery(void)
{
    set_gate(VECTOR, (u64)CODE("mov ebx, 0x77"), KERNEL_CODE, INTERRUPT_GATE);
    begin_log(BEYOND);
    check_equal("INT with a stack to be logged", try(CODE("lea rsp, [rax + 0x800]\n int 0x91"), linear), EXIT_LOG_FULL);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_SOFTWARE_INTERRUPT | VECTOR);
    check_equal("RSP is as it was", get(GUEST_RSP), linear + 0x800);
    set(GUEST_PML_INDEX, LAST);
    check_equal("with room", enter(&guest), EXIT_VMCALL);
    check_equal("it is delivered", guest.registers.bx, 0x77);
    check_equal("and logged", logged[LAST], pages[0]);
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE);
}

static void without_flags(void)
{
    set(EPT_POINTER, eptp & ~(u64)EPT_POINTER_ACCESSED_DIRTY);
    begin_log(BEYOND);
    check_equal("without accessed and dirty flags", try(CODE("mov [rax], ecx"), linear), EXIT_VMCALL);
    check_equal("nothing is logged", get(GUEST_PML_INDEX), BEYOND);
    set(EPT_POINTER, eptp);
}

static const struct broken controls[] = {
    {"a log that is no page", {BE(PML_ADDRESS, 0x800)}},
    {"a log beyond physical addresses", {OR(PML_ADDRESS, 1ull << 51)}},
    {"a log without EPT", {CLEAR(SECONDARY_CONTROLS, ENABLE_EPT)}},
};

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT | ENABLE_PML) || !ept_capable(CAPABLE_ACCESSED_DIRTY)) {
        check("VMX", true);
        skip("page-modification logging");
        return;
    }
    eptp = enable_ept() | EPT_POINTER_ACCESSED_DIRTY;
    set(EPT_POINTER, eptp);
    enable(SECONDARY_CONTROLS, ENABLE_PML);
    logged = new_pages(1);
    set(PML_ADDRESS, (u64)logged);
    for (unsigned index = 0; index < 2; index++) {
        pages[index] = (u64)new_pages(1);
        map(linear + index * PAGE, pages[index], P | W | U);
        entries[index] = ept_entry(eptp, pages[index], 1);
    }
    inner_table = *entry_of(linear, 2) & 0xffffffffff000;
    ept_entry(eptp, inner_table, 1);
    warm_up();
    once();
    across_pages();
    large_page();
    paging_structure();
    full();
    delivery();
    without_flags();
    set(GUEST_PML_INDEX, LAST);
    ENTRIES_FAIL(controls, ENTER_FAILED(ERROR_CONTROLS));
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
