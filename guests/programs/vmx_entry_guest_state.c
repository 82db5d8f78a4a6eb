/*
 * Guest state that VM entries refuse: they load the host's state and tell it as an exit with reason 33 and bit 31,
 * and which check it was for some (SDM vol. 3, 27.3.1, 27.8).
 */
#include "vmx.h"

#define NON_CANONICAL (1ull << 63)
#define BEYOND (1ull << 52)
#define FAILURE ENTRY_FAILURE_GUEST_STATE
#define INFORMATION(bits) BE(VM_ENTRY_INTERRUPTION_INFORMATION, INTERRUPTION_VALID | (bits))
/* Flags of access rights (SDM vol. 3, table 25-2). */
enum { AR_S = 0x10, AR_DPL_3 = 0x60, AR_P = 0x80, AR_L = 0x2000, AR_DB = 0x4000, AR_G = 0x8000 };

static void control_registers(void)
{
    const struct broken states[] = {
        {"CR0.NE", {CLEAR(GUEST_CR0, CR0_NE)}},
        {"CR0.PG", {CLEAR(GUEST_CR0, CR0_PG)}},
        {"CR0.PG without PE", {CLEAR(GUEST_CR0, CR0_PE)}},
        {"CR4.VMXE", {CLEAR(GUEST_CR4, CR4_VMXE)}},
        {"CR4.PAE of a 64-bit guest", {CLEAR(GUEST_CR4, CR4_PAE)}},
        {"a reserved bit of CR4", {OR(GUEST_CR4, 1ull << 63)}},
        {"CR3 beyond the physical addresses", {OR(GUEST_CR3, BEYOND)}},
        {"IA32_DEBUGCTL", {BE(GUEST_DEBUGCTL, 1ull << 40)}},
        {"DR7 above 32 bits", {OR(GUEST_DR7, 1ull << 32)}},
        {"IA32_SYSENTER_ESP", {BE(GUEST_SYSENTER_ESP, NON_CANONICAL)}},
        {"IA32_SYSENTER_EIP", {BE(GUEST_SYSENTER_EIP, NON_CANONICAL)}},
        {"CR4.PCIDE of a guest that is not in IA-32e mode",
         {CLEAR(VM_ENTRY_CONTROLS, IA_32E_MODE_GUEST), OR(GUEST_CR4, CR4_PCIDE)}},
    };
    ENTRIES_FAIL(states, FAILURE);
    if (!offered(VM_ENTRY_CONTROLS, ENTRY_LOADS_PAT | ENTRY_LOADS_EFER)) {
        skip("loading of IA32_PAT and IA32_EFER");
        return;
    }
    const struct broken loaded[] = {
        {"IA32_PAT of a reserved type", {OR(VM_ENTRY_CONTROLS, ENTRY_LOADS_PAT), BE(GUEST_PAT, 3ull << 56)}},
        {"IA32_EFER.LMA clear in a 64-bit guest", {OR(VM_ENTRY_CONTROLS, ENTRY_LOADS_EFER), BE(GUEST_EFER, EFER_LME)}},
        {"IA32_EFER.LME clear under paging", {OR(VM_ENTRY_CONTROLS, ENTRY_LOADS_EFER), BE(GUEST_EFER, EFER_LMA)}},
        {"a reserved bit of IA32_EFER",
         {OR(VM_ENTRY_CONTROLS, ENTRY_LOADS_EFER), BE(GUEST_EFER, EFER_LME | EFER_LMA | 2)}},
    };
    ENTRIES_FAIL(loaded, FAILURE);
}

static void selectors_and_bases(void)
{
    const struct broken states[] = {
        {"TI of TR", {OR(GUEST_TR_SELECTOR, 4)}},
        {"TI of a usable LDTR", {BE(GUEST_LDTR_SELECTOR, 4), BE(GUEST_LDTR_ACCESS_RIGHTS, AR_P | LDT)}},
        {"RPL of SS is not that of CS", {OR(GUEST_SS_SELECTOR, 3)}},
        {"TR base", {BE(GUEST_TR_BASE, NON_CANONICAL)}},
        {"FS base", {BE(GUEST_FS_BASE, NON_CANONICAL)}},
        {"GS base", {BE(GUEST_GS_BASE, NON_CANONICAL)}},
        {"base of a usable LDTR", {BE(GUEST_LDTR_BASE, NON_CANONICAL), BE(GUEST_LDTR_ACCESS_RIGHTS, AR_P | LDT)}},
        {"CS base above 32 bits", {BE(GUEST_CS_BASE, 1ull << 32)}},
        {"SS base above 32 bits", {BE(GUEST_SS_BASE, 1ull << 32)}},
        {"DS base above 32 bits", {BE(GUEST_DS_BASE, 1ull << 32)}},
        {"GDTR base", {BE(GUEST_GDTR_BASE, NON_CANONICAL)}},
        {"IDTR base", {BE(GUEST_IDTR_BASE, NON_CANONICAL)}},
        {"GDTR limit", {BE(GUEST_GDTR_LIMIT, 0x10000)}},
        {"IDTR limit", {BE(GUEST_IDTR_LIMIT, 0x10000)}},
    };
    ENTRIES_FAIL(states, FAILURE);
}

static void access_rights(void)
{
    const struct broken states[] = {
        {"CS is data", {BE(GUEST_CS_ACCESS_RIGHTS, 0xa093)}},
        {"CS is not accessed", {BE(GUEST_CS_ACCESS_RIGHTS, 0xa09a)}},
        {"CS is a system segment", {CLEAR(GUEST_CS_ACCESS_RIGHTS, AR_S)}},
        {"CS is not present", {CLEAR(GUEST_CS_ACCESS_RIGHTS, AR_P)}},
        {"CS has L and D", {OR(GUEST_CS_ACCESS_RIGHTS, AR_DB)}},
        {"reserved bits of CS", {OR(GUEST_CS_ACCESS_RIGHTS, 0x100)}},
        {"more reserved bits of CS", {OR(GUEST_CS_ACCESS_RIGHTS, 0x20000)}},
        {"DPL of CS is not that of SS", {OR(GUEST_CS_ACCESS_RIGHTS, AR_DPL_3)}},
        {"a limit in bytes with G", {BE(GUEST_CS_LIMIT, 0xfffff000)}},
        {"a limit in pages without G", {CLEAR(GUEST_CS_ACCESS_RIGHTS, AR_G)}},
        {"SS is read-only", {BE(GUEST_SS_ACCESS_RIGHTS, 0xc091)}},
        {"SS is code", {BE(GUEST_SS_ACCESS_RIGHTS, 0xc09b)}},
        {"DPL of SS is not its RPL", {OR(GUEST_SS_ACCESS_RIGHTS, AR_DPL_3)}},
        {"SS is not present", {CLEAR(GUEST_SS_ACCESS_RIGHTS, AR_P)}},
        {"DS is not accessed", {BE(GUEST_DS_ACCESS_RIGHTS, 0xc092)}},
        {"DS is code that is not readable", {BE(GUEST_DS_ACCESS_RIGHTS, 0xc099)}},
        {"DPL of DS is below its RPL", {OR(GUEST_DS_SELECTOR, 3)}},
        {"reserved bits of ES", {OR(GUEST_ES_ACCESS_RIGHTS, 0x800)}},
        {"a usable FS that is a system segment", {BE(GUEST_FS_ACCESS_RIGHTS, AR_P | 3)}},
        {"TR is unusable", {OR(GUEST_TR_ACCESS_RIGHTS, UNUSABLE)}},
        {"TR is not busy", {BE(GUEST_TR_ACCESS_RIGHTS, TASK_AVAILABLE)}},
        {"TR of 16 bits in a 64-bit guest", {BE(GUEST_TR_ACCESS_RIGHTS, AR_P | 3)}},
        {"TR has S", {OR(GUEST_TR_ACCESS_RIGHTS, AR_S)}},
        {"TR is not present", {CLEAR(GUEST_TR_ACCESS_RIGHTS, AR_P)}},
        {"LDTR is no LDT", {BE(GUEST_LDTR_ACCESS_RIGHTS, AR_P | 3)}},
        {"LDTR is not present", {BE(GUEST_LDTR_ACCESS_RIGHTS, 2)}},
    };
    ENTRIES_FAIL(states, FAILURE);
    set(GUEST_DS_ACCESS_RIGHTS, UNUSABLE);
    set(GUEST_DS_BASE, 0x1234567800000000);
    RUNS("what is unusable is not checked", "nop");
    set(GUEST_DS_ACCESS_RIGHTS, 0xc093);
    set(GUEST_DS_BASE, 0);
}

static void instruction_pointer_and_flags(void)
{
    const struct broken states[] = {
        {"RIP", {BE(GUEST_RIP, NON_CANONICAL)}},
        {"RIP above 32 bits outside 64-bit code",
         {OR(GUEST_RIP, 1ull << 32), CLEAR(GUEST_CS_ACCESS_RIGHTS, AR_L)}},
        {"bit 1 of RFLAGS", {CLEAR(GUEST_RFLAGS, FLAG_FIXED)}},
        {"bit 3 of RFLAGS", {OR(GUEST_RFLAGS, 8)}},
        {"bit 15 of RFLAGS", {OR(GUEST_RFLAGS, 0x8000)}},
        {"bit 22 of RFLAGS", {OR(GUEST_RFLAGS, 1 << 22)}},
        {"RFLAGS above 32 bits", {OR(GUEST_RFLAGS, 1ull << 32)}},
        {"RFLAGS.VM in IA-32e mode", {OR(GUEST_RFLAGS, FLAG_VM)}},
        {"an external interrupt without IF", {INFORMATION(TYPE_EXTERNAL_INTERRUPT | 0x40)}},
    };
    ENTRIES_FAIL(states, FAILURE);
    check_equal("qualification 0", get(EXIT_QUALIFICATION), 0);
}

#define STATE GUEST_INTERRUPTIBILITY_STATE
#define PENDING GUEST_PENDING_DEBUG_EXCEPTIONS

static void non_register_state(void)
{
    const struct broken states[] = {
        {"activity state 4", {BE(GUEST_ACTIVITY_STATE, 4)}},
        {"HLT at CPL 3",
         {BE(GUEST_ACTIVITY_STATE, HALTED), OR(GUEST_SS_ACCESS_RIGHTS, AR_DPL_3), OR(GUEST_SS_SELECTOR, 3)}},
        {"HLT with blocking by STI",
         {BE(GUEST_ACTIVITY_STATE, HALTED), BE(STATE, BLOCKING_BY_STI), OR(GUEST_RFLAGS, FLAG_IF)}},
        {"HLT with blocking by MOV SS", {BE(GUEST_ACTIVITY_STATE, HALTED), BE(STATE, BLOCKING_BY_MOV_SS)}},
        {"HLT with a fault injected",
         {BE(GUEST_ACTIVITY_STATE, HALTED), INFORMATION(TYPE_HARDWARE_EXCEPTION | UD)}},
        {"reserved bits of the interruptibility state", {BE(STATE, 0x20)}},
        {"blocking by STI and MOV SS", {BE(STATE, BLOCKING_BY_STI | BLOCKING_BY_MOV_SS), OR(GUEST_RFLAGS, FLAG_IF)}},
        {"blocking by STI without IF", {BE(STATE, BLOCKING_BY_STI)}},
        {"blocking by SMI outside SMM", {BE(STATE, BLOCKING_BY_SMI)}},
        {"an external interrupt while MOV SS blocks",
         {BE(STATE, BLOCKING_BY_MOV_SS), OR(GUEST_RFLAGS, FLAG_IF), INFORMATION(TYPE_EXTERNAL_INTERRUPT | 0x40)}},
        {"an external interrupt while STI blocks",
         {BE(STATE, BLOCKING_BY_STI), OR(GUEST_RFLAGS, FLAG_IF), INFORMATION(TYPE_EXTERNAL_INTERRUPT | 0x40)}},
        {"an NMI while MOV SS blocks", {BE(STATE, BLOCKING_BY_MOV_SS), INFORMATION(TYPE_NMI | NMI)}},
        {"reserved bits of pending debug exceptions", {BE(PENDING, 0x10)}},
        {"high reserved bits of them", {BE(PENDING, 1ull << 32)}},
        {"blocking, TF, and no single step pending", {BE(STATE, BLOCKING_BY_MOV_SS), OR(GUEST_RFLAGS, FLAG_TF)}},
        {"blocking, no TF, and a single step pending", {BE(STATE, BLOCKING_BY_MOV_SS), BE(PENDING, 0x4000)}},
    };
    ENTRIES_FAIL(states, FAILURE);
    /* With virtual NMIs, an NMI is not injected into what blocks them. */
    if (!offered(PIN_BASED_CONTROLS, NMI_EXITING | VIRTUAL_NMIS)) {
        skip("virtual NMIs");
        return;
    }
    const struct broken nmi[] = {
        {"an NMI while virtual NMIs are blocked",
         {OR(PIN_BASED_CONTROLS, NMI_EXITING | VIRTUAL_NMIS), BE(STATE, BLOCKING_BY_NMI), INFORMATION(TYPE_NMI | NMI)}},
    };
    ENTRIES_FAIL(nmi, FAILURE);
}

static void link_pointer(void)
{
    const struct broken states[] = {
        {"the VMCS link pointer, misaligned", {BE(VMCS_LINK_POINTER, 1)}},
        {"beyond the physical addresses", {BE(VMCS_LINK_POINTER, BEYOND)}},
        {"of another revision", {BE(VMCS_LINK_POINTER, (u64)new_pages(1))}},
    };
    for (size_t index = 0; index < sizeof states / sizeof *states; index++) {
        set(VMCS_LINK_POINTER, states[index].changes[0].put);
        begin_at(&guest, CODE("nop"));
        check_equal(states[index].name, enter(&guest), FAILURE);
        check_equal("qualification 4", get(EXIT_QUALIFICATION), 4);
    }
    set(VMCS_LINK_POINTER, -1ull);
}

static void launch_state(void)
{
    vmclear(guest.vmcs);
    vmptrld(guest.vmcs);
    guest.launched = false;
    begin_at(&guest, CODE("nop"));
    set(GUEST_RFLAGS, 0);
    check_equal("VMLAUNCH of a bad state", enter(&guest), FAILURE);
    set(GUEST_RFLAGS, FLAG_FIXED);
    check_equal("launches nothing", enter(&guest), EXIT_VMCALL);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    RUNS("a valid VMCS", "nop");
    control_registers();
    selectors_and_bases();
    access_rights();
    instruction_pointer_and_flags();
    non_register_state();
    link_pointer();
    launch_state();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
