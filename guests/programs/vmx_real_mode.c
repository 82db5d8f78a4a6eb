/*
 * An unrestricted guest: real mode under EPT, and the way from there to 64-bit mode and back, by the guest alone
 * (SDM vol. 3, 27.6.1, 27.3.1, 28.3.1, 25.6.2 "unrestricted guest").
 */
#include "vmx.h"

/* Where the code lies, and its interrupt vectors. */
enum { SELECTOR = 0x900, LINEAR = SELECTOR << 4, VECTORS = 0xa000, INTERRUPT = 0x21, STACK = 0xf00 };

extern u8 real_code[], real_code_end[], real_interrupt[], real_handler[], real_limit[], real_switch[], real_halt[];

/* `real_switch` goes all the way to 64-bit code, by 32-bit code without paging, and returns likewise. */
asm(".code16\n"
    ".global real_code, real_code_end, real_interrupt, real_handler, real_limit, real_switch, real_halt\n"
    "real_code:\n mov ax, 0x1234\n mov ds, ax\n mov bx, cs\n vmcall\n"
    "real_interrupt:\n int 0x21\n vmcall\n"
    "real_handler:\n mov bx, 0x77\n iret\n"
    "real_limit:\n mov eax, [0xfffe]\n vmcall\n"
    "real_halt:\n hlt\n vmcall\n"
    "real_switch:\n lgdtd cs:[real_table - real_code]\n mov eax, cr0\n or al, 1\n mov cr0, eax\n"
    ".byte 0x66, 0xea\n .long real_32\n .word 0x38\n"
    "real_table:\n .word 32 * 8 - 1\n .long gdt\n"
    "real_code_end:\n"
    ".code32\n"
    "real_32:\n mov eax, 0x10\n mov ds, eax\n mov ss, eax\n mov es, eax\n vmcall\n"
    "mov eax, cr4\n or eax, 0x20\n mov cr4, eax\n mov eax, offset pml4\n mov cr3, eax\n"
    "mov ecx, 0xc0000080\n rdmsr\n or eax, 0x100\n wrmsr\n"
    "mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n vmcall\n"
    ".byte 0xea\n .long real_64\n .word 8\n"
    ".code64\n"
    "real_64:\n mov rbx, 0x123456789abcdef0\n vmcall\n"
    "push 0x38\n lea rax, real_back[rip]\n push rax\n rex.W retf\n"
    ".code32\n"
    "real_back:\n mov eax, cr0\n and eax, 0x7fffffff\n mov cr0, eax\n vmcall\n"
    ".code64\n");

static void begin(const u8 *where)
{
    begin_at(&guest, (void *)(where - real_code));
    set(GUEST_CR0, read_cr0());
    begin_protected();
    begin_16_bit(SELECTOR, true);
    set(GUEST_RSP, STACK);
    set(GUEST_IDTR_BASE, VECTORS);
    set(GUEST_IDTR_LIMIT, 0x3ff);
}

static u32 go(const u8 *where)
{
    begin(where);
    return enter(&guest);
}

static void real_mode(void)
{
    check_equal("real mode", go(real_code), EXIT_VMCALL);
    check_equal("CS", guest.registers.bx & 0xffff, SELECTOR);
    check_equal("a segment that it loads", get(GUEST_DS_SELECTOR), 0x1234);
    check_equal("its base", get(GUEST_DS_BASE), 0x12340);
    check_equal("its limit", get(GUEST_DS_LIMIT), 0xffff);
    check_equal("PE is clear", get(GUEST_CR0) & (CR0_PE | CR0_PG), 0);
    check_equal("it is no IA-32e mode", get(VM_ENTRY_CONTROLS) & IA_32E_MODE_GUEST, 0);
    check_equal("an interrupt by the vector table", go(real_interrupt), EXIT_VMCALL);
    check_equal("comes to its handler", guest.registers.bx & 0xffff, 0x77);
    enable(PRIMARY_CONTROLS, HLT_EXITING);
    check_equal("HLT", go(real_halt), EXIT_HLT);
    disable(PRIMARY_CONTROLS, HLT_EXITING);
}

/* Exceptions of real mode have no error codes. */
static void exceptions(void)
{
    set(EXCEPTION_BITMAP, 1 << GP);
    check_equal("a dword beyond the limit", go(real_limit), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #GP without an error code", get(VM_EXIT_INTERRUPTION_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | GP);
    set(EXCEPTION_BITMAP, 0);
    begin(real_handler + 4);
    set(GUEST_RIP, real_interrupt + 2 - real_code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    guest.registers.bx = 0;
    inject(TYPE_EXTERNAL_INTERRUPT | INTERRUPT);
    check_equal("an interrupt injected", enter(&guest), EXIT_VMCALL);
    check_equal("comes to the handler too", guest.registers.bx & 0xffff, 0x77);
    begin(real_code);
    set(VM_ENTRY_EXCEPTION_ERROR_CODE, 0);
    inject(TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP);
    check_equal("an error code is not injected", enter(&guest), ENTER_FAILED(ERROR_CONTROLS));
}

static void mode_switches(void)
{
    check_equal("to protected mode", go(real_switch), EXIT_VMCALL);
    check_equal("PE", get(GUEST_CR0) & (CR0_PE | CR0_PG), CR0_PE);
    check_equal("CS", get(GUEST_CS_SELECTOR), KERNEL_CODE_32);
    check_equal("its access rights", get(GUEST_CS_ACCESS_RIGHTS), 0xc09b);
    check_equal("a flat DS", get(GUEST_DS_LIMIT), 0xffffffff);
    skip_instruction();
    check_equal("to IA-32e mode", enter(&guest), EXIT_VMCALL);
    check_equal("the VM-entry control follows", get(VM_ENTRY_CONTROLS) & IA_32E_MODE_GUEST, IA_32E_MODE_GUEST);
    check_equal("PE and PG", get(GUEST_CR0) & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
    skip_instruction();
    check_equal("to 64-bit code", enter(&guest), EXIT_VMCALL);
    check_equal("with 64-bit registers", guest.registers.bx, 0x123456789abcdef0);
    check_equal("CS", get(GUEST_CS_ACCESS_RIGHTS), 0xa09b);
    skip_instruction();
    check_equal("and back", enter(&guest), EXIT_VMCALL);
    check_equal("the VM-entry control follows", get(VM_ENTRY_CONTROLS) & IA_32E_MODE_GUEST, 0);
    check_equal("PG is clear", get(GUEST_CR0) & (CR0_PE | CR0_PG), CR0_PE);
    check_equal("the host is where it was", rdmsr(MSR_EFER) & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
}

static void without_paging(void)
{
    begin_at(&guest, CODE(".code32\n mov ebx, [esp]\n vmcall\n .code64"));
    begin_protected();
    for (enum segment segment = SEGMENT_ES; segment <= SEGMENT_GS; segment++)
        if (segment != SEGMENT_CS)
            set_segment(segment, KERNEL_DATA, 0, 0xffffffff, 0xc093);
    set(GUEST_CR0, (read_cr0() & ~CR0_PG) | CR0_PE);
    check_equal("protected mode without paging", enter(&guest), EXIT_VMCALL);
    check_equal("sees guest-physical memory", (u32)guest.registers.bx, (u32)read64(get(GUEST_RSP)));
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, UNRESTRICTED_GUEST)) {
        check("VMX", true);
        skip("unrestricted guests");
        return;
    }
    memcpy((void *)LINEAR, real_code, real_code_end - real_code);
    memset((void *)VECTORS, 0, PAGE);
    *(volatile u32 *)(VECTORS + INTERRUPT * 4) = SELECTOR << 16 | (u32)(real_handler - real_code);
    enable_ept();
    enable(SECONDARY_CONTROLS, UNRESTRICTED_GUEST);
    set(MSR_BITMAPS, (u64)new_pages(1));
    enable(PRIMARY_CONTROLS, USE_MSR_BITMAPS);
    real_mode();
    exceptions();
    mode_switches();
    without_paging();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
