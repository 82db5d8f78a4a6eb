/* VMX operation and a VMCS; see vmx.h. */
#include "vmx.h"

#ifdef __x86_64__

enum { STACK_PAGES = 4, FEATURE_LOCKED = 1, FEATURE_VMX = 4 };

void vmx_prepare(void)
{
    if (!(cpuid(1, 0).c >> 5 & 1))
        give_up("the processor has no VMX");
    if (!(rdmsr(MSR_FEATURE_CONTROL) & FEATURE_LOCKED))
        wrmsr(MSR_FEATURE_CONTROL, rdmsr(MSR_FEATURE_CONTROL) | FEATURE_LOCKED | FEATURE_VMX);
    if (!(rdmsr(MSR_FEATURE_CONTROL) & FEATURE_VMX))
        give_up("the firmware locked VMX");
    /* SDM vol. 3, A.7 and A.8: what is 1 in FIXED0 is 1, what is 0 in FIXED1 is 0. */
    write_cr0((read_cr0() | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1));
    write_cr4((read_cr4() | CR4_VMXE | rdmsr(MSR_VMX_CR4_FIXED0)) & rdmsr(MSR_VMX_CR4_FIXED1));
}

u64 new_vmx_region(void)
{
    u8 *region = new_pages(1);
    *(u32 *)region = rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
    return (u64)region;
}

u64 vmx_begin(void)
{
    vmx_prepare();
    u64 region = new_vmx_region();
    if (vmxon(region) != SUCCEED)
        give_up("VMXON failed");
    return region;
}

static void report(const char *what, enum vmcs_field field)
{
    print(what);
    print(" of field ");
    print_hex(field);
    print("\n");
    give_up("a field that is not there");
}

u64 get(enum vmcs_field field)
{
    u64 value = 0;
    if (vmread(field, &value) != SUCCEED)
        report("VMREAD", field);
    return value;
}

void set(enum vmcs_field field, u64 value)
{
    if (vmwrite(field, value) != SUCCEED)
        report("VMWRITE", field);
}

/* What a word of controls may be: the low half must be 1, the high half may be (SDM vol. 3, A.3). */
static u64 allowed(enum vmcs_field controls)
{
    u32 beyond = rdmsr(MSR_VMX_BASIC) >> 55 & 1 ? MSR_VMX_TRUE_PINBASED_CTLS - MSR_VMX_PINBASED_CTLS : 0;
    switch (controls) {
    case PIN_BASED_CONTROLS:
        return rdmsr(MSR_VMX_PINBASED_CTLS + beyond);
    case PRIMARY_CONTROLS:
        return rdmsr(MSR_VMX_PROCBASED_CTLS + beyond);
    case VM_EXIT_CONTROLS:
        return rdmsr(MSR_VMX_EXIT_CTLS + beyond);
    case VM_ENTRY_CONTROLS:
        return rdmsr(MSR_VMX_ENTRY_CTLS + beyond);
    case SECONDARY_CONTROLS:
        return offered(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS) ? rdmsr(MSR_VMX_PROCBASED_CTLS2) : 0;
    default:
        give_up("no word of controls");
    }
}

bool offered(enum vmcs_field controls, u32 bits) { return !(bits & ~(allowed(controls) >> 32)); }
bool may_be_clear(enum vmcs_field controls, u32 bits) { return !(bits & allowed(controls)); }

void enable(enum vmcs_field controls, u32 bits)
{
    if (!offered(controls, bits))
        give_up("a control that the processor does not offer");
    if (controls == SECONDARY_CONTROLS)
        enable(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS);
    set(controls, get(controls) | bits);
}

void disable(enum vmcs_field controls, u32 bits) { set(controls, get(controls) & ~bits); }

void set_segment(enum segment segment, u16 selector, u64 base, u32 limit, u32 access_rights)
{
    set(GUEST_ES_SELECTOR + 2 * segment, selector);
    set(GUEST_ES_BASE + 2 * segment, base);
    set(GUEST_ES_LIMIT + 2 * segment, limit);
    set(GUEST_ES_ACCESS_RIGHTS + 2 * segment, access_rights);
}

static void begin_controls(void)
{
    set(PIN_BASED_CONTROLS, (u32)allowed(PIN_BASED_CONTROLS));
    set(PRIMARY_CONTROLS, (u32)allowed(PRIMARY_CONTROLS));
    if (offered(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS))
        set(SECONDARY_CONTROLS, (u32)allowed(SECONDARY_CONTROLS));
    set(VM_EXIT_CONTROLS, (u32)allowed(VM_EXIT_CONTROLS) | HOST_ADDRESS_SPACE_SIZE | SAVE_DEBUG_CONTROLS);
    set(VM_ENTRY_CONTROLS, (u32)allowed(VM_ENTRY_CONTROLS) | IA_32E_MODE_GUEST | LOAD_DEBUG_CONTROLS);
    static const enum vmcs_field zero[] = {
        EXCEPTION_BITMAP, PAGE_FAULT_ERROR_CODE_MASK, PAGE_FAULT_ERROR_CODE_MATCH, CR3_TARGET_COUNT,
        VM_EXIT_MSR_STORE_COUNT, VM_EXIT_MSR_LOAD_COUNT, VM_ENTRY_MSR_LOAD_COUNT, VM_ENTRY_INTERRUPTION_INFORMATION,
        CR0_GUEST_HOST_MASK, CR4_GUEST_HOST_MASK, CR0_READ_SHADOW, CR4_READ_SHADOW, TSC_OFFSET,
    };
    for (size_t index = 0; index < sizeof zero / sizeof *zero; index++)
        set(zero[index], 0);
}

static void begin_host(void)
{
    set(HOST_CS_SELECTOR, KERNEL_CODE);
    set(HOST_SS_SELECTOR, KERNEL_DATA);
    set(HOST_DS_SELECTOR, KERNEL_DATA);
    set(HOST_ES_SELECTOR, KERNEL_DATA);
    set(HOST_FS_SELECTOR, 0);
    set(HOST_GS_SELECTOR, 0);
    set(HOST_TR_SELECTOR, TASK);
    set(HOST_TR_BASE, (u64)&task);
    set(HOST_FS_BASE, 0);
    set(HOST_GS_BASE, 0);
    set(HOST_GDTR_BASE, (u64)gdt);
    set(HOST_IDTR_BASE, (u64)idt);
    set(HOST_SYSENTER_CS, 0);
    set(HOST_SYSENTER_ESP, 0);
    set(HOST_SYSENTER_EIP, 0);
    set(HOST_CR0, read_cr0());
    set(HOST_CR3, read_cr3());
    set(HOST_CR4, read_cr4());
}

static void begin_guest(void)
{
    set_segment(SEGMENT_CS, KERNEL_CODE, 0, 0xffffffff, 0xa09b);
    for (enum segment segment = SEGMENT_ES; segment <= SEGMENT_DS; segment++)
        if (segment != SEGMENT_CS)
            set_segment(segment, KERNEL_DATA, 0, 0xffffffff, 0xc093);
    set_segment(SEGMENT_FS, 0, 0, 0, UNUSABLE);
    set_segment(SEGMENT_GS, 0, 0, 0, UNUSABLE);
    set_segment(SEGMENT_LDTR, 0, 0, 0, UNUSABLE);
    set_segment(SEGMENT_TR, TASK, (u64)&task, sizeof task - 1, TASK_BUSY);
    set(GUEST_GDTR_BASE, (u64)gdt);
    set(GUEST_GDTR_LIMIT, sizeof gdt - 1);
    set(GUEST_IDTR_BASE, (u64)idt);
    set(GUEST_IDTR_LIMIT, sizeof idt - 1);
    set(GUEST_CR0, read_cr0());
    set(GUEST_CR3, read_cr3());
    set(GUEST_CR4, read_cr4());
    set(GUEST_DR7, 0x400);
    set(GUEST_DEBUGCTL, 0);
    set(GUEST_SYSENTER_CS, 0);
    set(GUEST_SYSENTER_ESP, 0);
    set(GUEST_SYSENTER_EIP, 0);
    set(VMCS_LINK_POINTER, -1ull);
}

void vmcs_begin(struct guest *guest)
{
    *guest = (struct guest){.vmcs = new_vmx_region(), .stack = (u8 *)new_pages(STACK_PAGES) + STACK_PAGES * PAGE};
    if (vmclear(guest->vmcs) != SUCCEED || vmptrld(guest->vmcs) != SUCCEED)
        give_up("VMCLEAR or VMPTRLD failed");
    begin_controls();
    begin_host();
    begin_guest();
}

#endif
