/*
 * A guest in virtual-8086 mode, and the entry checks that it alone has (SDM vol. 3, 27.3.1.2; 20.2).
 */
#include "vmx.h"

enum { SELECTOR = 0x900, LINEAR = SELECTOR << 4, STACK = 0xf00 };

extern u8 virtual_code[], virtual_code_end[], virtual_interrupt[], virtual_halt[], virtual_segment[];

asm(".code16\n"
    ".global virtual_code, virtual_code_end, virtual_interrupt, virtual_halt, virtual_segment\n"
    "virtual_code:\n mov bx, cs\n mov cx, [virtual_data - virtual_code]\n cpuid\n"
    "virtual_segment:\n mov ax, 0x1234\n mov es, ax\n cpuid\n"
    "virtual_interrupt:\n int 0x21\n"
    "virtual_halt:\n hlt\n"
    "virtual_data:\n .word 0x5678\n"
    "virtual_code_end:\n"
    ".code64\n");

static void begin(const u8 *where)
{
    begin_at(&guest, (void *)(where - virtual_code));
    begin_protected();
    begin_16_bit(SELECTOR, false);
    set(GUEST_RSP, STACK);
}

static u32 go(const u8 *where)
{
    begin(where);
    return enter(&guest);
}

static void code(void)
{
    check_equal("virtual-8086 mode", go(virtual_code), EXIT_CPUID);
    check_equal("CS", guest.registers.bx & 0xffff, SELECTOR);
    check_equal("DS", guest.registers.cx & 0xffff, 0x5678);
    check_equal("VM is saved", get(GUEST_RFLAGS) & FLAG_VM, FLAG_VM);
    check_equal("the DPL of SS is 3", get(GUEST_SS_ACCESS_RIGHTS), 0xf3);
    check_equal("a segment", go(virtual_segment), EXIT_CPUID);
    check_equal("is loaded", get(GUEST_ES_SELECTOR), 0x1234);
    check_equal("with its base", get(GUEST_ES_BASE), 0x12340);
    check_equal("its limit", get(GUEST_ES_LIMIT), 0xffff);
    check_equal("its access rights", get(GUEST_ES_ACCESS_RIGHTS), 0xf3);
}

static void faults(void)
{
    set(EXCEPTION_BITMAP, 1 << GP);
    enable(PRIMARY_CONTROLS, HLT_EXITING);
    check_equal("HLT", go(virtual_halt), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #GP, at CPL 3", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP);
    check_equal("INT with IOPL 0", go(virtual_interrupt), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #GP too", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP);
    check_equal("error code", get(VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
    set(EXCEPTION_BITMAP, 0);
}

static void refused(void)
{
    static const struct {
        const char *name;
        enum vmcs_field field;
        u64 value;
    } states[] = {
        {"a base of CS that is not 16 times its selector", GUEST_CS_BASE, LINEAR + 1},
        {"a base of DS", GUEST_DS_BASE, 0},
        {"a limit of SS", GUEST_SS_LIMIT, 0xfffff},
        {"access rights of ES", GUEST_ES_ACCESS_RIGHTS, 0x93},
        {"access rights of CS", GUEST_CS_ACCESS_RIGHTS, 0xfb},
        {"an unusable FS", GUEST_FS_ACCESS_RIGHTS, 0xf3 | UNUSABLE},
    };
    for (size_t index = 0; index < sizeof states / sizeof *states; index++) {
        begin(virtual_code);
        set(states[index].field, states[index].value);
        check_equal(states[index].name, enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    }
    begin(virtual_code);
    enable(VM_ENTRY_CONTROLS, IA_32E_MODE_GUEST);
    set(GUEST_CR4, get(GUEST_CR4) | CR4_PAE);
    check_equal("not in IA-32e mode", enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    check_equal("and all is well again", go(virtual_code), EXIT_CPUID);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    memcpy((void *)LINEAR, virtual_code, virtual_code_end - virtual_code);
    code();
    faults();
    refused();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
