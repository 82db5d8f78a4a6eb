/*
 * The VMX instructions outside guests: when they exist, what they refuse and with which error, current and launched
 * VMCSs (SDM vol. 3, 24.7, 25.11, chapter 31).
 */
#include "vmx.h"

#define STATUS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

static void outside(void)
{
    u64 region = new_vmx_region();
    FAULTS("VMXON without CR4.VMXE", UD, 0, vmxon(region));
    vmx_prepare();
    check("CR4.VMXE", read_cr4() & CR4_VMXE);
    FAULTS("VMXON at CPL 3", GP, 0, RING_3(vmxon(region)));
    FAULTS("VMXOFF outside VMX operation", UD, 0, vmxoff());
    FAULTS("VMCLEAR outside VMX operation", UD, 0, vmclear(region));
    FAULTS("VMREAD outside VMX operation", UD, 0, vmptrst());
    FAULTS("VMCALL outside VMX operation", UD, 0, EMIT("vmcall"));
    if (rdmsr(MSR_VMX_CR0_FIXED0) & CR0_NE) {
        write_cr0(read_cr0() & ~CR0_NE);
        FAULTS("VMXON with CR0.NE clear", GP, 0, vmxon(region));
        write_cr0(read_cr0() | CR0_NE);
    }
    check_equal("VMXON of a misaligned region", vmxon(region + 8), FAIL_INVALID);
    check_equal("VMXON beyond the physical addresses", vmxon(1ull << 52), FAIL_INVALID);
    *(u32 *)region ^= 1;
    check_equal("VMXON of another revision", vmxon(region), FAIL_INVALID);
    *(u32 *)region ^= 0x80000001;
    check_equal("VMXON with bit 31 set", vmxon(region), FAIL_INVALID);
    WORKS("MOV to CR4 clears VMXE outside", write_cr4(read_cr4() & ~CR4_VMXE));
}

static void fixed_bits(void)
{
    FAULTS("CR4.VMXE cannot be cleared in VMX operation", GP, 0, write_cr4(read_cr4() & ~CR4_VMXE));
    if (rdmsr(MSR_VMX_CR0_FIXED0) & CR0_NE)
        FAULTS("nor CR0.NE", GP, 0, write_cr0(read_cr0() & ~CR0_NE));
    WORKS("CR0.TS can", write_cr0(read_cr0() | CR0_TS); write_cr0(read_cr0() & ~CR0_TS));
}

static void without_a_current_vmcs(u64 on)
{
    u64 value = 0;
    check_equal("no current VMCS: VMPTRST", vmptrst(), -1ull);
    check_equal("VMREAD", vmread(GUEST_RIP, &value), FAIL_INVALID);
    check_equal("VMWRITE", vmwrite(GUEST_RIP, 0), FAIL_INVALID);
    check_equal("VMLAUNCH", VMX_INSTRUCTION("vmlaunch", "X"(0)), FAIL_INVALID);
    check_equal("VMRESUME", VMX_INSTRUCTION("vmresume", "X"(0)), FAIL_INVALID);
    check_equal("VMXON in VMX operation", vmxon(on), FAIL_INVALID);
    check_equal("VMCLEAR of a misaligned region", vmclear(on + 8), FAIL_INVALID);
    check_equal("VMCALL", VMX_INSTRUCTION("vmcall", "X"(0)), FAIL_INVALID);
}

/* Check that an instruction fails with a number in the current VMCS. */
static void check_error(const char *name, enum vm_result result, u64 error)
{
    check_equal(name, result == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0x100u + result, error);
}

static void pointers(u64 on)
{
    u64 one = new_vmx_region(), other = new_vmx_region();
    check_equal("VMCLEAR", vmclear(one), SUCCEED);
    check_equal("VMPTRLD", vmptrld(one), SUCCEED);
    check_equal("VMPTRST", vmptrst(), one);
    check_error("VMXON in VMX operation: 15", vmxon(on), ERROR_VMXON_IN_ROOT);
    check_error("VMCLEAR of a misaligned address: 2", vmclear(one + 0x10), ERROR_VMCLEAR_ADDRESS);
    check_error("VMCLEAR beyond the physical addresses: 2", vmclear(one | 1ull << 52), ERROR_VMCLEAR_ADDRESS);
    check_error("VMCLEAR of the VMXON region: 3", vmclear(on), ERROR_VMCLEAR_VMXON_POINTER);
    check_error("VMPTRLD of a misaligned address: 9", vmptrld(one + 0x10), ERROR_VMPTRLD_ADDRESS);
    check_error("VMPTRLD beyond the physical addresses: 9", vmptrld(one | 1ull << 52), ERROR_VMPTRLD_ADDRESS);
    check_error("VMPTRLD of the VMXON region: 10", vmptrld(on), ERROR_VMPTRLD_VMXON_POINTER);
    *(u32 *)other ^= 1;
    check_error("VMPTRLD of another revision: 11", vmptrld(other), ERROR_VMPTRLD_REVISION);
    *(u32 *)other ^= 1;
    check_equal("a failed VMPTRLD changes nothing", vmptrst(), one);

    check_equal("the other", vmclear(other), SUCCEED);
    check_equal("is not current then", vmptrst(), one);
    set(GUEST_RIP, 0x1111);
    check_equal("VMPTRLD of the other", vmptrld(other), SUCCEED);
    set(GUEST_RIP, 0x2222);
    check_equal("VMPTRLD of the one", vmptrld(one), SUCCEED);
    check_equal("each has its own fields", get(GUEST_RIP), 0x1111);
    check_equal("VMCLEAR of one that is not current", vmclear(other), SUCCEED);
    check_equal("leaves the current one", vmptrst(), one);
    check_equal("VMCLEAR of the current one", vmclear(one), SUCCEED);
    check_equal("leaves none", vmptrst(), -1ull);
    check_equal("fields outlive it", vmptrld(other) == SUCCEED ? get(GUEST_RIP) : 0, 0x2222);
}

static void status_flags(void)
{
    u64 field = GUEST_RIP, unsupported = 0x7ffe, value = 0, after;
    asm volatile("push %2\n popf\n vmread %0, %3\n pushf\n pop %1"
                 : "+r"(value), "=r"(after) : "r"((u64)(STATUS | FLAG_FIXED)), "r"(field) : "cc");
    check_equal("success clears the status flags", after & STATUS, 0);
    asm volatile("push %2\n popf\n vmread %0, %3\n pushf\n pop %1"
                 : "+r"(value), "=r"(after) : "r"((u64)(STATUS | FLAG_FIXED)), "r"(unsupported) : "cc");
    check_equal("failure sets ZF alone", after & STATUS, FLAG_ZF);
}

static void at_ring_3(u64 region)
{
    u64 value = 0;
    FAULTS("VMREAD at CPL 3", GP, 0, RING_3(vmread(GUEST_RIP, &value)));
    FAULTS("VMWRITE at CPL 3", GP, 0, RING_3(vmwrite(GUEST_RIP, 0)));
    FAULTS("VMCLEAR at CPL 3", GP, 0, RING_3(vmclear(region)));
    FAULTS("VMPTRLD at CPL 3", GP, 0, RING_3(vmptrld(region)));
    FAULTS("VMXON at CPL 3, in VMX operation", GP, 0, RING_3(vmxon(region)));
    FAULTS("VMXOFF at CPL 3", GP, 0, RING_3(vmxoff()));
    FAULTS("VMLAUNCH at CPL 3", GP, 0, RING_3(EMIT("vmlaunch")));
    FAULTS("VMCALL at CPL 3", GP, 0, RING_3(EMIT("vmcall")));
    FAULTS("VMPTRLD from a page that is not there", PF, 0, EMIT("vmptrld [rax]" : : "a"(TEST_AREA)));
    check_equal("which is CR2", caught.cr2, TEST_AREA);
    FAULTS("VMPTRST to a non-canonical address", GP, 0, EMIT("vmptrst [rax]" : : "a"(1ull << 63)));
}

static void launch_states(void)
{
    vmcs_begin(&guest);
    begin_at(&guest, CODE("nop"));
    guest.launched = true;
    check_equal("VMRESUME of a clear VMCS: 5", enter(&guest), ENTER_FAILED(ERROR_VMRESUME_NOT_LAUNCHED));
    guest.launched = false;
    RUNS("VMLAUNCH", "nop");
    guest.launched = false;
    check_equal("VMLAUNCH of a launched VMCS: 4", enter(&guest), ENTER_FAILED(ERROR_VMLAUNCH_NOT_CLEAR));
    guest.launched = true;
    RUNS("VMRESUME", "nop");
    check_error("VMRESUME after MOV to SS: 26", VMX_INSTRUCTION("mov ecx, ss\n mov ss, ecx\n vmresume", "X"(0)),
                ERROR_BLOCKED_BY_MOV_SS);
    check_equal("VMCLEAR makes it clear", vmclear(guest.vmcs) == SUCCEED && vmptrld(guest.vmcs) == SUCCEED, true);
    check_equal("so VMRESUME fails", enter(&guest), ENTER_FAILED(ERROR_VMRESUME_NOT_LAUNCHED));
    guest.launched = false;
    RUNS("and VMLAUNCH does not", "nop");
}

void run(void)
{
    outside();
    u64 on = vmx_begin();
    check("VMXON", true);
    fixed_bits();
    without_a_current_vmcs(on);
    pointers(on);
    status_flags();
    at_ring_3(new_vmx_region());
    launch_states();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
    FAULTS("no VMX operation", UD, 0, vmptrst());
    check_equal("VMXON again", vmxon(on), SUCCEED);
    check_equal("no VMCS is current", vmptrst(), -1ull);
    check_equal("VMXOFF again", vmxoff(), SUCCEED);
    WORKS("VMXE can be cleared", write_cr4(read_cr4() & ~CR4_VMXE));

    vmx_begin();
    vmcs_begin(&guest);
    check_error("VMCALL in VMX root operation: 1", VMX_INSTRUCTION("vmcall", "X"(0)), ERROR_VMCALL_IN_ROOT);
}
