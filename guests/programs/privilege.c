/*
 * Ways between rings in long mode: INT from CPL 3 and IRET back, SYSCALL and SYSRET, SYSENTER and SYSEXIT, IOPL, the
 * I/O permission bitmap (SDM vol. 3, 5.8, 6.12; vol. 1, 18.5.2).
 */
#include "guest.h"

enum { VECTOR = 0x40 };

static struct frame seen;
static void look(struct frame *frame) { seen = *frame; }

static void interrupts_from_ring_3(void)
{
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    handlers[VECTOR] = look;
    static u64 ring_3_stack;
    u16 stack_selector;
    RING_3(EMIT("mov %1, rsp\n int 0x40\n mov %0, ss" : "=r"(stack_selector), "=m"(ring_3_stack)));
    check_equal("CS is saved with RPL 3", seen.cs, USER_CODE);
    check_equal("SS is saved", seen.ss, USER_DATA);
    check_equal("RSP is saved", seen.sp, ring_3_stack);
    check_equal("IRET restores SS", stack_selector, USER_DATA);
    u16 inner;
    RING_3(EMIT("" : : : "memory"));
    EMIT("mov %0, ss" : "=r"(inner));
    check_equal("the runtime is at CPL 0 again", code_selector() | inner << 16, KERNEL_CODE | KERNEL_DATA << 16);
    handlers[VECTOR] = NULL;
}

__attribute__((naked)) static void null_stack_probe(void)
{
    EMIT("mov eax, ss\n mov [marked], rax\n iretq");
}

static void null_stack_segment(void)
{
    set_gate(VECTOR, (word)null_stack_probe, KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    RING_3(EMIT("int 0x40" : : : "rax", "memory"));
    check_equal("SS is null after a switch to CPL 0", marked, 0);
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
}

/* IRET with these values; statements of ours follow at the label. */
static void iret_to(u64 code, u64 stack, u64 new_flags)
{
    EMIT("mov rdx, rsp\n push %0\n push rdx\n push %1\n push %2\n lea rax, [rip + 1f]\n push rax\n" HERE "iretq\n 1:"
         : : "r"(stack), "r"(new_flags), "r"(code) : "rax", "rdx", "memory");
}

static void refused_returns(void)
{
    FAULTS("IRET to a null CS", GP, 0, iret_to(0, KERNEL_DATA, 2));
    check_equal("RIP is the IRET", caught.ip, marked);
    FAULTS("IRET to a data segment", GP, KERNEL_DATA, iret_to(KERNEL_DATA, KERNEL_DATA, 2));
    FAULTS("IRET to ring 3 with a null SS", GP, 0, iret_to(USER_CODE, 3, 2));
    FAULTS("IRET to ring 3 with a kernel SS", GP, KERNEL_DATA, iret_to(USER_CODE, KERNEL_DATA | 3, 2));
    FAULTS("IRET to ring 3 with SS of RPL 0", GP, USER_DATA & ~3, iret_to(USER_CODE, USER_DATA & ~3, 2));
    FAULTS("IRET to code of ring 3 with RPL 0", GP, USER_CODE & ~3, iret_to(USER_CODE & ~3, KERNEL_DATA, 2));
    FAULTS("IRET from ring 3 to ring 0", GP, KERNEL_CODE, RING_3(iret_to(KERNEL_CODE, KERNEL_DATA, 2)));
    static u16 selector;
    WORKS("IRET to ring 0 with a null SS in 64-bit mode", iret_to(KERNEL_CODE, 0, 2);
          EMIT("mov %0, ss\n mov ss, %1" : "=m"(selector) : "r"((u16)KERNEL_DATA)));
    check_equal("SS is null then", selector, 0);
    FAULTS("IRET with NT in long mode", GP, 0, set_flags(FLAG_FIXED | FLAG_NT); iret_to(KERNEL_CODE, KERNEL_DATA, 2));
    set_flags(FLAG_FIXED);
}

static void flags_at_ring_3(void)
{
    static word after;
    RING_3(set_flags(FLAG_FIXED | FLAG_IF | FLAG_IOPL | FLAG_AC | FLAG_ID); after = flags());
    check_equal("POPF at CPL 3 keeps IF and IOPL", after, FLAG_FIXED | FLAG_AC | FLAG_ID);
    set_flags(FLAG_FIXED | FLAG_IOPL);
    RING_3(set_flags(FLAG_FIXED | FLAG_IF); after = flags());
    check_equal("POPF with IOPL 3 sets IF, keeps IOPL", after, FLAG_FIXED | FLAG_IF | FLAG_IOPL);
    WORKS("CLI and STI with IOPL 3", set_flags(FLAG_FIXED | FLAG_IOPL); RING_3(EMIT("sti\n nop\n cli")));
    WORKS("OUT with IOPL 3", set_flags(FLAG_FIXED | FLAG_IOPL); RING_3(out8(0x80, 0)));
    set_flags(FLAG_FIXED | FLAG_IOPL);
    RING_3(iret_to(USER_CODE, USER_DATA, FLAG_FIXED | FLAG_IF | FLAG_AC); after = flags());
    check_equal("IRET at CPL 3 with IOPL 3 sets IF, keeps IOPL", after, FLAG_FIXED | FLAG_IF | FLAG_IOPL | FLAG_AC);
    set_flags(FLAG_FIXED);
    RING_3(iret_to(USER_CODE, USER_DATA, FLAG_FIXED | FLAG_IF | FLAG_IOPL); after = flags());
    check_equal("IRET at CPL 3 changes neither IF nor IOPL", after, FLAG_FIXED);
    set_flags(FLAG_FIXED);
}

static void io_permissions(void)
{
    memset(task.io_bits, 0xff, sizeof task.io_bits);
    task.io_map = offsetof(struct task_state, io_bits);
    task.io_bits[0x80 / 8] = 0xfe;
    WORKS("a port with its bit clear", RING_3(out8(0x80, 0)));
    FAULTS("the next port", GP, 0, RING_3(out8(0x81, 0)));
    FAULTS("all four bits count", GP, 0, RING_3(out32(0x80, 0)));
    FAULTS("IN is no different", GP, 0, RING_3((void)in8(0x81)));
    task.io_bits[0x80 / 8] = 0x7f;
    task.io_bits[0x88 / 8] = 0xf8;
    WORKS("bits in two bytes of the map", RING_3(out32(0x87, 0)));
    task.io_bits[0xffff / 8] = 0x7f;
    WORKS("the last port", RING_3(in8(0xffff)));
    task.io_map = sizeof task - 2;
    FAULTS("a map that ends before the port's bits", GP, 0, RING_3(out8(0x80, 0)));
    task.io_map = sizeof task;
}

void run(void)
{
    interrupts_from_ring_3();
    null_stack_segment();
    refused_returns();
    flags_at_ring_3();
    io_permissions();
}
