/*
 * VMCS shadowing: VMREAD and VMWRITE of a guest that are executed, of the VMCS that the link pointer names; those that
 * cause VM exits still; what a shadow VMCS is not good for (SDM vol. 3, 25.10, 26.1.3, 27.3.1.5, 31.3).
 */
#include "vmx.h"

enum { SHADOW_BIT = 1u << 31, CARRY = 1, ZERO = 0x40, LENGTH = 3, NO_FIELD = 0x69fe };

static u64 shadow;
static u8 *reads, *writes; /* the bitmaps */

static void intercept(u8 *bitmap, u64 field, bool intercepted)
{
    bitmap[field / 8] = (bitmap[field / 8] & ~(1 << field % 8)) | intercepted << field % 8;
}

/* A field of the shadow VMCS, as its owner sees it. */
static u64 shadowed(enum vmcs_field field)
{
    vmptrld(shadow);
    u64 value = get(field);
    vmclear(shadow);
    vmptrld(guest.vmcs);
    return value;
}

static void set_shadowed(enum vmcs_field field, u64 value)
{
    vmptrld(shadow);
    set(field, value);
    vmclear(shadow);
    vmptrld(guest.vmcs);
}

/* VMREAD of field RCX into RAX; VMWRITE of RAX to it; the status flags come to RDX. */
#define GUEST_READS "vmread rax, rcx\n pushfq\n pop rdx\n and edx, 0x41"
#define GUEST_WRITES "vmwrite rcx, rax\n pushfq\n pop rdx\n and edx, 0x41"

static u32 try(void *code, u64 field, u64 value)
{
    begin_at(&guest, code);
    guest.registers.ax = value;
    guest.registers.cx = field;
    guest.registers.dx = -1ull;
    return enter(&guest);
}

static void region(void)
{
    *(u32 *)shadow |= SHADOW_BIT;
    check_equal("VMCLEAR of a shadow VMCS", vmclear(shadow), SUCCEED);
    check_equal("VMPTRLD", vmptrld(shadow), SUCCEED);
    check_equal("VMLAUNCH", VMX_INSTRUCTION("vmlaunch", "X"(0)), FAIL_INVALID);
    check_equal("VMRESUME", VMX_INSTRUCTION("vmresume", "X"(0)), FAIL_INVALID);
    check_equal("VMWRITE", vmwrite(GUEST_RSP, 0x1234), SUCCEED);
    check_equal("VMCLEAR", vmclear(shadow), SUCCEED);
    check_equal("it is one still", *(u32 *)shadow & SHADOW_BIT, SHADOW_BIT);
    vmptrld(guest.vmcs);
}

static void accesses(void)
{
    void *read = CODE(GUEST_READS), *write = CODE(GUEST_WRITES);
    check_equal("VMREAD in the guest", try(read, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("reads the shadow VMCS", guest.registers.ax, 0x1234);
    check_equal("and succeeds", guest.registers.dx, 0);
    check_equal("VMWRITE in the guest", try(write, GUEST_RSP, 0x5678), EXIT_VMCALL);
    check_equal("succeeds", guest.registers.dx, 0);
    check_equal("the guest's own RSP stays", get(GUEST_RSP), (u64)guest.stack - 8);
    check_equal("VMREAD", try(read, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("sees it", guest.registers.ax, 0x5678);
    check_equal("so does the host", shadowed(GUEST_RSP), 0x5678);
    set_shadowed(TSC_OFFSET, 0x1111111122222222);
    check_equal("a high half", try(read, TSC_OFFSET + 1, 0), EXIT_VMCALL);
    check_equal("is read", guest.registers.ax, 0x11111111);
    check_equal("VMWRITE to it", try(write, TSC_OFFSET + 1, 0x33333333), EXIT_VMCALL);
    check_equal("leaves the other", shadowed(TSC_OFFSET), 0x3333333322222222);
    try(write, GUEST_CS_SELECTOR, 0xabcdef);
    check_equal("a field of 16 bits has no more", shadowed(GUEST_CS_SELECTOR), 0xcdef);
    u64 *memory = (u64 *)new_pages(1);
    begin_at(&guest, CODE("vmread [rbx], rcx\n mov qword ptr [rbx + 8], 0x99\n vmwrite rcx, [rbx + 8]"));
    guest.registers.bx = (u64)memory;
    guest.registers.cx = GUEST_RSP;
    check_equal("to and from memory", enter(&guest), EXIT_VMCALL);
    check_equal("read", memory[0], 0x5678);
    check_equal("written", shadowed(GUEST_RSP), 0x99);
}

static void check_exit(const char *name, void *code, u64 field, u32 reason)
{
    check_equal(name, try(code, field, 0x77), reason);
    check_instruction("its length, no displacement", LENGTH, 0);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)code);
    check_equal("nothing is read", guest.registers.ax, 0x77);
}

static void exits(void)
{
    void *read = CODE(GUEST_READS), *write = CODE(GUEST_WRITES);
    intercept(reads, GUEST_RSP, true);
    check_exit("a field that the VMREAD bitmap names", read, GUEST_RSP, EXIT_VMREAD);
    check_equal("which VMWRITE does not mind", try(write, GUEST_RSP, 0x66), EXIT_VMCALL);
    check_equal("nor does VMREAD of another", try(read, GUEST_RIP, 0), EXIT_VMCALL);
    intercept(reads, GUEST_RSP, false);
    intercept(writes, GUEST_RSP, true);
    check_exit("one that the VMWRITE bitmap names", write, GUEST_RSP, EXIT_VMWRITE);
    check_equal("VMREAD does not mind", try(read, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("it has not been written", guest.registers.ax, 0x66);
    intercept(writes, GUEST_RSP, false);
    check_exit("bit 15 of the encoding", read, GUEST_RSP | 1 << 15, EXIT_VMREAD);
    check_exit("bit 31", read, GUEST_RSP | 1u << 31, EXIT_VMREAD);
    check_exit("bit 63", read, GUEST_RSP | 1ull << 63, EXIT_VMREAD);
    check_exit("bit 32 for VMWRITE", write, GUEST_RSP | 1ull << 32, EXIT_VMWRITE);
    disable(SECONDARY_CONTROLS, VMCS_SHADOWING);
    set(VMCS_LINK_POINTER, -1ull);
    check_exit("VMREAD without shadowing", read, GUEST_RSP, EXIT_VMREAD);
    check_exit("VMWRITE without it", write, GUEST_RSP, EXIT_VMWRITE);
    enable(SECONDARY_CONTROLS, VMCS_SHADOWING);
    set(VMCS_LINK_POINTER, shadow);
}

static void failures(void)
{
    void *read = CODE(GUEST_READS), *write = CODE(GUEST_WRITES);
    check_equal("a field that is not there", try(read, NO_FIELD, 0x77), EXIT_VMCALL);
    check_equal("fails", guest.registers.dx, ZERO);
    check_equal("and reads nothing", guest.registers.ax, 0x77);
    check_equal("VMWRITE to it", try(write, NO_FIELD, 0x77), EXIT_VMCALL);
    check_equal("fails too", guest.registers.dx, ZERO);
    set(VMCS_LINK_POINTER, -1ull);
    check_equal("VMREAD without a link pointer", try(read, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("fails", guest.registers.dx, CARRY);
    check_equal("VMWRITE without one", try(write, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("fails", guest.registers.dx, CARRY);
    set(VMCS_LINK_POINTER, shadow);
    check_equal("with one again", try(read, GUEST_RSP, 0), EXIT_VMCALL);
    check_equal("it does not", guest.registers.dx, 0);
}

static u32 try_at_ring_3(void *code, u64 field)
{
    begin_at(&guest, code);
    begin_at_ring_3();
    guest.registers.cx = field;
    return enter(&guest);
}

static void at_ring_3(void)
{
    set(EXCEPTION_BITMAP, 1 << GP);
    check_equal("VMREAD at CPL 3", try_at_ring_3(CODE("vmread rax, rcx"), GUEST_RSP), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #GP", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, GP);
    check_equal("with error code 0", get(VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
    check_equal("VMWRITE", try_at_ring_3(CODE("vmwrite rcx, rax"), GUEST_RSP), EXIT_EXCEPTION_OR_NMI);
    intercept(reads, GUEST_RSP, true);
    check_equal("where it causes a VM exit", try_at_ring_3(CODE("vmread rax, rcx"), GUEST_RSP), EXIT_VMREAD);
    intercept(reads, GUEST_RSP, false);
    set(EXCEPTION_BITMAP, 0);
}

static const struct broken controls[] = {
    {"a VMREAD bitmap that is no page", {BE(VMREAD_BITMAP, 8)}},
    {"a VMWRITE bitmap beyond physical addresses", {OR(VMWRITE_BITMAP, 1ull << 51)}},
};
static const struct broken links[] = {
    {"a shadow VMCS without shadowing", {CLEAR(SECONDARY_CONTROLS, VMCS_SHADOWING)}},
    {"a link pointer that is no page", {OR(VMCS_LINK_POINTER, 8)}},
};

static void entries(void)
{
    ENTRIES_FAIL(controls, ENTER_FAILED(ERROR_CONTROLS));
    ENTRIES_FAIL(links, ENTRY_FAILURE_GUEST_STATE);
    set(VMCS_LINK_POINTER, new_vmx_region());
    begin_at(&guest, CODE("nop"));
    check_equal("a VMCS that is no shadow", enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    check_equal("is a bad link pointer", get(EXIT_QUALIFICATION), 4);
    set(VMCS_LINK_POINTER, shadow);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, VMCS_SHADOWING)) {
        check("VMX", true);
        skip("VMCS shadowing");
        return;
    }
    shadow = new_vmx_region();
    reads = new_pages(1);
    writes = new_pages(1);
    region();
    enable(SECONDARY_CONTROLS, VMCS_SHADOWING);
    set(VMREAD_BITMAP, (u64)reads);
    set(VMWRITE_BITMAP, (u64)writes);
    set(VMCS_LINK_POINTER, shadow);
    accesses();
    exits();
    failures();
    at_ring_3();
    entries();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
