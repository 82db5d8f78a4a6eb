/*
 * Debugging a guest: DR7 and IA32_DEBUGCTL at entries and exits, breakpoints on data and I/O, general detect, what
 * is pending at an exit (SDM vol. 3, 25.4.2, 27.3.2.1, 28.2.1 table 28-1, 28.3.4).
 */
#include "vmx.h"

enum { B0 = 1, B1 = 2, BD = 0x2000, BS = 0x4000, ENABLED = 0x1000, GENERAL_DETECT = 0x2400 };
/* DR7: breakpoint 0 on writes of 4 bytes; on I/O of 1 byte, which needs CR4.DE. */
enum { ON_WRITES = 0xd0402, ON_PORT = 0x20402 };

static u64 target;

static void check_debug(const char *name, u32 reason, u64 qualification, u64 ip)
{
    check_equal(name, reason, EXIT_EXCEPTION_OR_NMI);
    check_equal("qualification", get(EXIT_QUALIFICATION), qualification);
    check_equal("RIP", get(GUEST_RIP), ip);
}

static u32 go(void *code, u64 dr7)
{
    begin_at(&guest, code);
    set(GUEST_DR7, dr7);
    guest.registers.ax = target;
    return enter(&guest);
}

static void breakpoints(void)
{
    set(EXCEPTION_BITMAP, 1 << DB);
    write_dr0(target);
    u8 *code = CODE("mov dword ptr [rax], 5\n nop");
    check_debug("a breakpoint on data", go(code, ON_WRITES), B0, (u64)code + 6);
    check_equal("behind the write", read32(target), 5);
    check_equal("DR6 tells nothing", read_dr6() & 0xf, 0);
    code = CODE("mov ecx, [rax]");
    check_equal("reading is not writing", go(code, ON_WRITES), EXIT_VMCALL);
    check_equal("DR7 is clear in the host", read_dr7(), 0x400);
    write_dr0(0x80);
    set(GUEST_CR4, get(GUEST_CR4) | CR4_DE);
    code = CODE("out 0x80, al\n nop");
    check_debug("a breakpoint on a port", go(code, ON_PORT), B0, (u64)code + 2);
    set(GUEST_CR4, get(GUEST_CR4) & ~CR4_DE);
    code = CODE("mov rcx, dr6");
    check_debug("general detect", go(code, GENERAL_DETECT), BD, (u64)code);
    /* GD is cleared for the handler only if one runs: the exit saves it as it was. */
    check_equal("GD is saved", get(GUEST_DR7), GENERAL_DETECT);
    /* Two at once: a step behind a write. */
    write_dr0(target);
    code = CODE("mov dword ptr [rax], 7\n nop");
    begin_at(&guest, code);
    set(GUEST_DR7, ON_WRITES);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_TF);
    guest.registers.ax = target;
    check_debug("a step and a breakpoint", enter(&guest), BS | B0, (u64)code + 6);
}

/* A breakpoint met by MOV to SS waits for the next instruction; that one exits. */
static void pending(void)
{
    write_dr0(target);
    begin_at(&guest, CODE("mov ss, [rax]"));
    write16(target, KERNEL_DATA);
    set(GUEST_DR7, ON_WRITES | 3 << 16);
    guest.registers.ax = target;
    check_equal("VMCALL after MOV to SS that met a breakpoint", enter(&guest), EXIT_VMCALL);
    check_equal("it is pending", get(GUEST_PENDING_DEBUG_EXCEPTIONS), B0 | ENABLED);
    check_equal("and blocked", get(GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_MOV_SS);
    skip_instruction();
    set(GUEST_INTERRUPTIBILITY_STATE, 0);
    check_equal("later it is taken", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("qualification", get(EXIT_QUALIFICATION), B0);
}

static void controls(void)
{
    set(EXCEPTION_BITMAP, 0);
    begin_at(&guest, CODE("mov rcx, dr7"));
    set(GUEST_DR7, 0x455);
    check_equal("entries load DR7", enter(&guest), EXIT_VMCALL);
    check_equal("the guest reads it", guest.registers.cx, 0x455);
    if (!may_be_clear(VM_ENTRY_CONTROLS, LOAD_DEBUG_CONTROLS) || !may_be_clear(VM_EXIT_CONTROLS, SAVE_DEBUG_CONTROLS)) {
        skip("debug controls that are not loaded");
        return;
    }
    disable(VM_EXIT_CONTROLS, SAVE_DEBUG_CONTROLS);
    begin_at(&guest, CODE("mov ecx, 0x411\n mov dr7, rcx"));
    check_equal("exits that do not save", enter(&guest), EXIT_VMCALL);
    check_equal("leave the field", get(GUEST_DR7), 0x455);
    check_equal("and clear DR7", read_dr7(), 0x400);
    enable(VM_EXIT_CONTROLS, SAVE_DEBUG_CONTROLS);
    disable(VM_ENTRY_CONTROLS, LOAD_DEBUG_CONTROLS);
    begin_at(&guest, CODE("mov rcx, dr7"));
    check_equal("entries that do not load", enter(&guest), EXIT_VMCALL);
    check_equal("leave DR7 as the host has it", guest.registers.cx, 0x400);
    enable(VM_ENTRY_CONTROLS, LOAD_DEBUG_CONTROLS);
    set(GUEST_DR7, 0x400);
}

static struct frame seen;
static u64 dr6_seen, dr7_seen;

static void on_debug(struct frame *frame)
{
    seen = *frame;
    dr6_seen = read_dr6();
    dr7_seen = read_dr7();
    write_dr6(0xffff0ff0);
}

static void of_the_guest(void)
{
    handlers[DB] = on_debug;
    u8 *code = CODE("mov dword ptr [rax], 8\n nop");
    write_dr0(target);
    write_dr6(0xffff0ff0);
    check_equal("without the bitmap", go(code, ON_WRITES), EXIT_VMCALL);
    check_equal("the guest's handler has it", seen.ip, (u64)code + 6);
    check_equal("and DR6", dr6_seen, 0xffff0ff0 | B0);
    check_equal("and its DR7", dr7_seen, ON_WRITES);
    handlers[DB] = NULL;
}

void run(void)
{
    vmx_begin();
    target = (u64)new_pages(1);
    vmcs_begin(&guest);
    write_dr6(0xffff0ff0);
    breakpoints();
    pending();
    controls();
    of_the_guest();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
