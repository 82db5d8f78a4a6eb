/*
 * Virtualization exceptions: EPT violations that the guest gets as #VE, what the information area tells of them, and
 * those that remain VM exits (SDM vol. 3, 26.5.7).
 */
#include "vmx.h"

enum {
    VE = 20, IS_READ = 1, IS_WRITE = 2, IS_FETCH = 4, RIGHTS_SHIFT = 3, LINEAR_VALID = 0x80, OF_LINEAR = 0x100,
    OFFSET = 0x18, VECTOR = 0x91, SWITCHING = 1,
};
#define SUPPRESS (1ull << 63)
static const u64 linear = TEST_AREA + 0x9000;

static struct {
    u32 reason, busy;
    u64 qualification, linear, physical;
    u16 index;
} volatile *area;

static u64 eptp, page, inner_table;
static volatile u64 *entry;

static void have(u64 value)
{
    *entry = value;
    area->busy = 0;
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
}

static void reads(void) { FAULTS("reading is #VE", VE, 0, read32(linear + OFFSET)); }
static void writes(void) { FAULTS("writing is #VE", VE, 0, write32(linear + OFFSET, 1)); }
static void calls(void) { FAULTS("executing is #VE", VE, 0, ((void (*)(void))(linear + OFFSET))()); }

static void check_area(u64 qualification, u64 physical)
{
    check_equal("the reason", area->reason, EXIT_EPT_VIOLATION);
    check_equal("the busy word", area->busy, 0xffffffff);
    check_equal("the qualification", area->qualification & 0x1bf, qualification);
    check_equal("the linear address", area->linear, linear + OFFSET);
    check_equal("the guest-physical address", area->physical, physical);
}

static void exceptions(void)
{
    const u64 about = LINEAR_VALID | OF_LINEAR;
    have(0);
    run_guest("a page that is not there", reads);
    check_area(IS_READ | about, page + OFFSET);
    have(page | EPT_READ | EPT_EXECUTE | EPT_WRITE_BACK);
    run_guest("a read-only page", writes);
    check_area(IS_WRITE | (EPT_READ | EPT_EXECUTE) << RIGHTS_SHIFT | about, page + OFFSET);
    have(page | EPT_READ | EPT_WRITE | EPT_WRITE_BACK);
    run_guest("a page without the right to execute", calls);
    check_area(IS_FETCH | (EPT_READ | EPT_WRITE) << RIGHTS_SHIFT | about, page + OFFSET);
    have(page | EPT_ALL | EPT_WRITE_BACK);
    volatile u64 *of_table = ept_entry(eptp, inner_table, 1);
    u64 before = *of_table;
    *of_table = 0;
    invept(SINGLE_EPT, eptp);
    run_guest("a page table that is not there", reads);
    check_equal("is told as such", area->qualification & OF_LINEAR, 0);
    check_equal("with the address of its entry", area->physical, inner_table + (linear >> 12 & 511) * 8);
    *of_table = before;
    have(0);
    set(EPTP_INDEX, 7);
    run_guest("the index of the EPT pointer", reads);
    check_equal("is told", area->index, 7);
}

static u32 try(void *code)
{
    begin_at(&guest, code);
    guest.registers.ax = linear + OFFSET;
    return enter(&guest);
}

static void exits(void)
{
    void *read = CODE("mov ecx, [rax]"), *write = CODE("mov [rax], ecx");
    have(0);
    area->busy = 1;
    area->physical = 0x77;
    check_equal("while the area is busy", try(read), EXIT_EPT_VIOLATION);
    check_equal("nothing is written to it", area->physical, 0x77);
    have(SUPPRESS);
    check_equal("suppressed where nothing is", try(read), EXIT_EPT_VIOLATION);
    check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), linear + OFFSET);
    check_equal("the area is left alone", area->busy, 0);
    have(page | EPT_READ | EPT_WRITE_BACK | SUPPRESS);
    check_equal("suppressed at a page", try(write), EXIT_EPT_VIOLATION);
    have(page | EPT_READ | EPT_WRITE_BACK);
    volatile u64 *above = ept_entry(eptp, page, 2);
    *above |= SUPPRESS;
    invept(SINGLE_EPT, eptp);
    run_guest("bit 63 of a table does not count", writes);
    u64 before = *above;
    *above = SUPPRESS;
    have(page | EPT_READ | EPT_WRITE_BACK);
    check_equal("but where there is no table", try(read), EXIT_EPT_VIOLATION);
    *above = before & ~SUPPRESS;
    have(page | EPT_WRITE | EPT_WRITE_BACK);
    check_equal("a misconfiguration is a VM exit", try(read), EXIT_EPT_MISCONFIGURATION);
    have(0);
    disable(SECONDARY_CONTROLS, EPT_VIOLATION_EXCEPTION);
    check_equal("without the control", try(read), EXIT_EPT_VIOLATION);
    enable(SECONDARY_CONTROLS, EPT_VIOLATION_EXCEPTION);
}

static void intercepted(void)
{
    void *read = CODE("mov ecx, [rax]");
    have(0);
    set(EXCEPTION_BITMAP, 1 << VE);
    check_equal("intercepted", try(read), EXIT_EXCEPTION_OR_NMI);
    check_equal("it is an exception", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | VE);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)read);
    check_equal("and told in the area", area->busy, 0xffffffff);
    set(EXCEPTION_BITMAP, 0);
    have(0);
    begin_at(&guest, CODE("lea rsp, [rax + 0x800]\n int 0x91"));
    guest.registers.ax = linear;
    check_equal("while an event is delivered", enter(&guest), EXIT_EPT_VIOLATION);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_SOFTWARE_INTERRUPT | VECTOR);
    check_equal("the area is left alone", area->busy, 0);
}

/* VMFUNC notes the index of what it switches to. */
static void switched(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_VM_FUNCTIONS) || !(rdmsr(MSR_VMX_VMFUNC) & SWITCHING)) {
        skip("EPTP switching");
        return;
    }
    u64 *list = new_pages(1);
    list[5] = eptp;
    set(EPTP_LIST_ADDRESS, (u64)list);
    set(VM_FUNCTION_CONTROLS, SWITCHING);
    enable(SECONDARY_CONTROLS, ENABLE_VM_FUNCTIONS);
    begin_at(&guest, CODE("vmfunc"));
    guest.registers.ax = 0;
    guest.registers.cx = 5;
    check_equal("VMFUNC", enter(&guest), EXIT_VMCALL);
    check_equal("notes the index", get(EPTP_INDEX), 5);
    have(0);
    run_guest("after it", reads);
    check_equal("it is told", area->index, 5);
}

static const struct broken controls[] = {
    {"an area that is no page", {BE(VIRTUALIZATION_EXCEPTION_ADDRESS, 8)}},
    {"an area beyond physical addresses", {OR(VIRTUALIZATION_EXCEPTION_ADDRESS, 1ull << 51)}},
};

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT | EPT_VIOLATION_EXCEPTION)) {
        check("VMX", true);
        skip("virtualization exceptions");
        return;
    }
    eptp = enable_ept();
    page = (u64)new_pages(1);
    map(linear, page, P | W | U);
    entry = ept_entry(eptp, page, 1);
    inner_table = *entry_of(linear, 2) & 0xffffffffff000;
    ept_entry(eptp, inner_table, 1);
    area = new_pages(1);
    set(VIRTUALIZATION_EXCEPTION_ADDRESS, (u64)area);
    set(EPTP_INDEX, 0);
    enable(SECONDARY_CONTROLS, EPT_VIOLATION_EXCEPTION);
    exceptions();
    exits();
    intercepted();
    switched();
    ENTRIES_FAIL(controls, ENTER_FAILED(ERROR_CONTROLS));
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
