/*
 * Guests with PAE paging: where their PDPTEs come from, without EPT and with it, and which are refused
 * (SDM vol. 3, 25.4.2, 27.3.1.6, 27.3.2.4, 28.3.4).
 */
#include "vmx.h"

enum { QUALIFICATION_PDPTE = 2 };
#define RESERVED 0x6ull
/* Linear addresses from 1 GiB on are mapped once more, to 0 or further. */
#define SECOND_GIGABYTE 0x40000000ul

static u64 *pointers, *others, data;

static u64 directory(u64 first)
{
    u64 *entries = new_pages(1);
    for (u64 index = 0; index < 512; index++)
        entries[index] = (first + (index << 21)) | LARGE | P | W | U;
    return (u64)entries | P;
}

static void begin(void *code)
{
    begin_at(&guest, code);
    begin_protected();
    set(GUEST_CR3, (u64)pointers);
    set(GUEST_CR4, CR4_VMXE | CR4_PAE);
    guest.registers.ax = SECOND_GIGABYTE + data;
    guest.registers.dx = (u64)others;
}

static void have_pdptes(const u64 *entries)
{
    for (unsigned index = 0; index < 4; index++)
        set(GUEST_PDPTE0 + 2 * index, entries[index]);
}

static void without_ept(void)
{
    void *read = CODE("mov ecx, [rax]");
    begin(read);
    check_equal("a guest with PAE paging", enter(&guest), EXIT_VMCALL);
    check_equal("reads where its PDPTEs say", (u32)guest.registers.cx, 1);
    pointers[3] = P | RESERVED;
    begin(read);
    check_equal("reserved bits of a PDPTE in memory", enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    check_equal("qualification", get(EXIT_QUALIFICATION), QUALIFICATION_PDPTE);
    pointers[3] = RESERVED;
    begin(read);
    check_equal("not if it is not present", enter(&guest), EXIT_VMCALL);
    pointers[3] = 0;
    set(EXCEPTION_BITMAP, 1 << GP);
    others[3] = P | RESERVED;
    begin(CODE("mov cr3, rdx"));
    check_equal("MOV to CR3 of such", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    others[3] = 0;
    set(EXCEPTION_BITMAP, 0);
    begin(CODE("mov cr3, rdx\n mov ecx, [rax]"));
    check_equal("MOV to CR3", enter(&guest), EXIT_VMCALL);
    check_equal("loads others", (u32)guest.registers.cx, 2);
}

static void with_ept(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        skip("EPT");
        return;
    }
    void *read = CODE("mov ecx, [rax]");
    enable_ept();
    have_pdptes(others);
    begin(read);
    check_equal("under EPT", enter(&guest), EXIT_VMCALL);
    check_equal("PDPTEs are the VMCS's", (u32)guest.registers.cx, 2);
    have_pdptes(pointers);
    begin(CODE("mov cr3, rdx\n mov ecx, [rax]"));
    check_equal("MOV to CR3", enter(&guest), EXIT_VMCALL);
    check_equal("loads them from memory", (u32)guest.registers.cx, 2);
    check_equal("the exit saves them", get(GUEST_PDPTE1), others[1]);
    check_equal("all of them", get(GUEST_PDPTE0) == others[0] && get(GUEST_PDPTE2) == others[2], true);
    set(GUEST_PDPTE2, P | RESERVED);
    begin(read);
    check_equal("reserved bits of a PDPTE field", enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    check_equal("qualification", get(EXIT_QUALIFICATION), QUALIFICATION_PDPTE);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    pointers = new_pages(1);
    others = new_pages(1);
    data = (u64)new_pages(1);
    /* The same offset some large pages on, where the other tables lead. */
    u64 next = data + 0xa00000;
    write32(data, 1);
    write32(next, 2);
    pointers[0] = others[0] = directory(0);
    pointers[1] = directory(0);
    others[1] = directory(next - data);
    without_ept();
    with_ept();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
