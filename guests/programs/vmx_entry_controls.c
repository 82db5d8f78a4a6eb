/*
 * Controls and host state that VM entries refuse: the instruction fails with error 7 or 8 and nothing is loaded
 * (SDM vol. 3, 27.2).
 */
#include "vmx.h"

#define NON_CANONICAL (1ull << 63)
#define BEYOND (1ull << 52)
#define CONTROLS ENTER_FAILED(ERROR_CONTROLS)
#define INFORMATION(bits) BE(VM_ENTRY_INTERRUPTION_INFORMATION, INTERRUPTION_VALID | (bits))

static u64 page;

/* The lowest bit that a word of controls must have set. */
static u32 fixed_bit(enum vmcs_field controls)
{
    for (u32 bit = 1; bit; bit <<= 1)
        if (!may_be_clear(controls, bit))
            return bit;
    return 0;
}

/* The lowest bit that it must have clear. */
static u32 absent_bit(enum vmcs_field controls)
{
    for (u32 bit = 1; bit; bit <<= 1)
        if (!offered(controls, bit))
            return bit;
    return 0;
}

static void reserved_controls(void)
{
    const struct broken clear[] = {
        {"a pin-based control that must be 1", {CLEAR(PIN_BASED_CONTROLS, fixed_bit(PIN_BASED_CONTROLS))}},
        {"a primary one", {CLEAR(PRIMARY_CONTROLS, fixed_bit(PRIMARY_CONTROLS))}},
        {"a VM-exit control", {CLEAR(VM_EXIT_CONTROLS, fixed_bit(VM_EXIT_CONTROLS))}},
        {"a VM-entry control", {CLEAR(VM_ENTRY_CONTROLS, fixed_bit(VM_ENTRY_CONTROLS))}},
        {"a pin-based control that must be 0", {OR(PIN_BASED_CONTROLS, absent_bit(PIN_BASED_CONTROLS))}},
        {"a primary one", {OR(PRIMARY_CONTROLS, absent_bit(PRIMARY_CONTROLS))}},
        {"a VM-exit control", {OR(VM_EXIT_CONTROLS, absent_bit(VM_EXIT_CONTROLS))}},
        {"a VM-entry control", {OR(VM_ENTRY_CONTROLS, absent_bit(VM_ENTRY_CONTROLS))}},
        {"entry to SMM outside SMM", {OR(VM_ENTRY_CONTROLS, ENTRY_TO_SMM)}},
    };
    ENTRIES_FAIL(clear, CONTROLS);
    u32 absent = absent_bit(SECONDARY_CONTROLS);
    if (!absent || !offered(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS))
        return;
    const struct broken secondary[] = {
        {"a secondary control that must be 0",
         {OR(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS), BE(SECONDARY_CONTROLS, absent)}},
    };
    ENTRIES_FAIL(secondary, CONTROLS);
    set(SECONDARY_CONTROLS, absent);
    disable(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS);
    RUNS("secondary controls that are not active do not matter", "nop");
    set(SECONDARY_CONTROLS, 0);
}

static void addresses(void)
{
    const struct broken states[] = {
        {"CR3-target count", {BE(CR3_TARGET_COUNT, (rdmsr(MSR_VMX_MISC) >> 16 & 0x1ff) + 1)}},
        {"I/O bitmap A misaligned", {OR(PRIMARY_CONTROLS, USE_IO_BITMAPS), BE(IO_BITMAP_A, page + 1)}},
        {"I/O bitmap B misaligned",
         {OR(PRIMARY_CONTROLS, USE_IO_BITMAPS), BE(IO_BITMAP_A, page), BE(IO_BITMAP_B, page + 0x800)}},
        {"I/O bitmap B beyond the physical addresses",
         {OR(PRIMARY_CONTROLS, USE_IO_BITMAPS), BE(IO_BITMAP_A, page), BE(IO_BITMAP_B, BEYOND)}},
        {"MSR bitmaps misaligned", {OR(PRIMARY_CONTROLS, USE_MSR_BITMAPS), BE(MSR_BITMAPS, page + 8)}},
        {"MSR bitmaps beyond", {OR(PRIMARY_CONTROLS, USE_MSR_BITMAPS), BE(MSR_BITMAPS, BEYOND)}},
        {"VM-exit MSR-store address misaligned",
         {BE(VM_EXIT_MSR_STORE_COUNT, 1), BE(VM_EXIT_MSR_STORE_ADDRESS, page + 8)}},
        {"VM-exit MSR-load address misaligned",
         {BE(VM_EXIT_MSR_LOAD_COUNT, 1), BE(VM_EXIT_MSR_LOAD_ADDRESS, page + 4)}},
        {"VM-entry MSR-load address misaligned",
         {BE(VM_ENTRY_MSR_LOAD_COUNT, 1), BE(VM_ENTRY_MSR_LOAD_ADDRESS, page + 1)}},
        {"VM-entry MSR-load address beyond",
         {BE(VM_ENTRY_MSR_LOAD_COUNT, 1), BE(VM_ENTRY_MSR_LOAD_ADDRESS, BEYOND)}},
        {"the last byte of an MSR area beyond",
         {BE(VM_EXIT_MSR_LOAD_COUNT, 0x100), BE(VM_EXIT_MSR_LOAD_ADDRESS, BEYOND - 0x10)}},
    };
    ENTRIES_FAIL(states, CONTROLS);
}

static void together(void)
{
    const struct broken states[] = {
        {"virtual NMIs without NMI exiting", {OR(PIN_BASED_CONTROLS, VIRTUAL_NMIS)}},
        {"NMI-window exiting without virtual NMIs", {OR(PRIMARY_CONTROLS, NMI_WINDOW_EXITING)}},
        {"saving the preemption timer without one", {OR(VM_EXIT_CONTROLS, SAVE_PREEMPTION_TIMER_VALUE)}},
    };
    ENTRIES_FAIL(states, CONTROLS);
    if (!offered(PRIMARY_CONTROLS, USE_TPR_SHADOW)) {
        skip("TPR shadow");
    } else {
        const struct broken shadow[] = {
            {"virtual-APIC address misaligned",
             {OR(PRIMARY_CONTROLS, USE_TPR_SHADOW), BE(VIRTUAL_APIC_ADDRESS, page + 8), BE(TPR_THRESHOLD, 0)}},
            {"virtual-APIC address beyond",
             {OR(PRIMARY_CONTROLS, USE_TPR_SHADOW), BE(VIRTUAL_APIC_ADDRESS, BEYOND), BE(TPR_THRESHOLD, 0)}},
            {"TPR threshold above 15",
             {OR(PRIMARY_CONTROLS, USE_TPR_SHADOW), BE(VIRTUAL_APIC_ADDRESS, page), BE(TPR_THRESHOLD, 0x10)}},
            {"TPR threshold above the virtual TPR",
             {OR(PRIMARY_CONTROLS, USE_TPR_SHADOW), BE(VIRTUAL_APIC_ADDRESS, page), BE(TPR_THRESHOLD, 1)}},
        };
        ENTRIES_FAIL(shadow, CONTROLS);
    }
}

#define SECONDARY(bits) OR(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS), OR(SECONDARY_CONTROLS, bits)

static void secondary(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT | ENABLE_VPID | UNRESTRICTED_GUEST)) {
        skip("EPT, VPID and unrestricted guests");
        return;
    }
    u64 ept_pointer = new_ept();
    const struct broken states[] = {
        {"VPID 0", {SECONDARY(ENABLE_VPID)}},
        {"unrestricted guest without EPT", {SECONDARY(UNRESTRICTED_GUEST)}},
        {"EPT of a reserved memory type", {SECONDARY(ENABLE_EPT), BE(EPT_POINTER, ept_pointer - 6 + 2)}},
        {"EPT of 3 levels", {SECONDARY(ENABLE_EPT), BE(EPT_POINTER, ept_pointer - 8)}},
        {"bit 11 of the EPT pointer", {SECONDARY(ENABLE_EPT), BE(EPT_POINTER, ept_pointer | 0x800)}},
        {"EPT pointer beyond", {SECONDARY(ENABLE_EPT), BE(EPT_POINTER, ept_pointer | BEYOND)}},
    };
    ENTRIES_FAIL(states, CONTROLS);
    set(SECONDARY_CONTROLS, 0);
    disable(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS);
}

static void injections(void)
{
    const struct broken states[] = {
        {"injection of type 1", {INFORMATION(1 << 8 | 0x20)}},
        {"NMI of another vector", {INFORMATION(TYPE_NMI | 3)}},
        {"a hardware exception above 31", {INFORMATION(TYPE_HARDWARE_EXCEPTION | 32)}},
        {"#UD with an error code", {INFORMATION(TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | UD)}},
        {"an interrupt with one", {INFORMATION(TYPE_EXTERNAL_INTERRUPT | WITH_ERROR_CODE | GP)}},
        {"a reserved bit", {INFORMATION(TYPE_HARDWARE_EXCEPTION | UD | 1 << 13)}},
        {"bit 12", {INFORMATION(TYPE_HARDWARE_EXCEPTION | UD | NMI_UNBLOCKED_BY_IRET)}},
        {"an error code of more than 16 bits",
         {INFORMATION(TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP), BE(VM_ENTRY_EXCEPTION_ERROR_CODE, 1u << 31)}},
        {"a software interrupt of 16 bytes",
         {INFORMATION(TYPE_SOFTWARE_INTERRUPT | 0x20), BE(VM_ENTRY_INSTRUCTION_LENGTH, 16)}},
        {"a software exception of 16 bytes",
         {INFORMATION(TYPE_SOFTWARE_EXCEPTION | BP), BE(VM_ENTRY_INSTRUCTION_LENGTH, 16)}},
    };
    ENTRIES_FAIL(states, CONTROLS);
    /* IA32_VMX_BASIC bit 56: error codes are then free (SDM vol. 3, A.1). */
    if (!(rdmsr(MSR_VMX_BASIC) >> 56 & 1)) {
        const struct broken without[] = {
            {"#GP without an error code", {INFORMATION(TYPE_HARDWARE_EXCEPTION | GP)}},
        };
        ENTRIES_FAIL(without, CONTROLS);
    }
}

static void host_state(void)
{
    const struct broken states[] = {
        {"host CR0.PE", {CLEAR(HOST_CR0, CR0_PE)}},
        {"host CR0.PG", {CLEAR(HOST_CR0, CR0_PG)}},
        {"host CR4.VMXE", {CLEAR(HOST_CR4, CR4_VMXE)}},
        {"host CR4.PAE", {CLEAR(HOST_CR4, CR4_PAE)}},
        {"a reserved bit of the host's CR4", {OR(HOST_CR4, 1ull << 63)}},
        {"host CR3 beyond", {OR(HOST_CR3, BEYOND)}},
        {"host FS base", {BE(HOST_FS_BASE, NON_CANONICAL)}},
        {"host GS base", {BE(HOST_GS_BASE, NON_CANONICAL)}},
        {"host TR base", {BE(HOST_TR_BASE, NON_CANONICAL)}},
        {"host GDTR base", {BE(HOST_GDTR_BASE, NON_CANONICAL)}},
        {"host IDTR base", {BE(HOST_IDTR_BASE, NON_CANONICAL)}},
        {"host IA32_SYSENTER_ESP", {BE(HOST_SYSENTER_ESP, NON_CANONICAL)}},
        {"host IA32_SYSENTER_EIP", {BE(HOST_SYSENTER_EIP, NON_CANONICAL)}},
        {"RPL of the host's CS", {OR(HOST_CS_SELECTOR, 1)}},
        {"TI of the host's DS", {OR(HOST_DS_SELECTOR, 4)}},
        {"RPL of the host's GS", {OR(HOST_GS_SELECTOR, 3)}},
        {"TI of the host's TR", {OR(HOST_TR_SELECTOR, 4)}},
        {"a null CS", {BE(HOST_CS_SELECTOR, 0)}},
        {"a null TR", {BE(HOST_TR_SELECTOR, 0)}},
        {"a 32-bit host of a 64-bit guest", {CLEAR(VM_EXIT_CONTROLS, HOST_ADDRESS_SPACE_SIZE)}},
    };
    ENTRIES_FAIL(states, ENTER_FAILED(ERROR_HOST_STATE));
    if (offered(VM_EXIT_CONTROLS, EXIT_LOADS_PAT | EXIT_LOADS_EFER)) {
        const struct broken loaded[] = {
            {"host IA32_PAT of a reserved type", {OR(VM_EXIT_CONTROLS, EXIT_LOADS_PAT), BE(HOST_PAT, 0x02)}},
            {"host IA32_EFER without LMA",
             {OR(VM_EXIT_CONTROLS, EXIT_LOADS_EFER), BE(HOST_EFER, EFER_LME | EFER_NXE)}},
            {"a reserved bit of the host's IA32_EFER",
             {OR(VM_EXIT_CONTROLS, EXIT_LOADS_EFER), BE(HOST_EFER, EFER_LME | EFER_LMA | 2)}},
        };
        ENTRIES_FAIL(loaded, ENTER_FAILED(ERROR_HOST_STATE));
    } else {
        skip("loading of IA32_PAT and IA32_EFER");
    }
}

void run(void)
{
    vmx_begin();
    page = (u64)new_pages(1);
    vmcs_begin(&guest);
    RUNS("a valid VMCS", "nop");
    reserved_controls();
    addresses();
    together();
    secondary();
    injections();
    host_state();
    const struct broken other_event[] = {
        {"injection of another event that is not MTF", {INFORMATION(TYPE_OTHER_EVENT | 1)}},
    };
    ENTRIES_FAIL(other_event, CONTROLS);
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
