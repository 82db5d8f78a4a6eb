/*
 * Virtual-8086 mode: entered by IRET, 16-bit addresses, IOPL-sensitive instructions, interrupts out of it, and VME's
 * virtual interrupt flag (SDM vol. 3, chapter 20).
 */
#include "guest.h"

enum { CODE_AT = 0x8000, STACK_AT = 0x9000, RETURN_VECTOR = 0x41 };

static struct frame seen;
static word resume_ip, resume_sp;

/* The way out: what interrupted VM86 is kept, and the caller of `in_vm86` goes on. */
static void leave(struct frame *frame)
{
    if (!(frame->flags & FLAG_VM))
        give_up("not from VM86 mode");
    seen = *frame;
    EMIT("mov eax, 0x10\n mov fs, eax\n mov gs, eax\n mov esp, %0\n jmp %1"
         : : "r"(resume_sp), "r"(resume_ip) : "eax");
}

/* Run code at CODE_AT in VM86 mode, with these flags besides VM, until an event takes it out. */
static void in_vm86(const void *code, size_t size, u32 new_flags)
{
    memset((void *)CODE_AT, 0xf4, 64);
    memcpy((void *)CODE_AT, code, size);
    EMIT("pusha\n mov %0, offset 1f\n mov %1, esp\n"
         "push 0x44\n push 0x33\n push 0x22\n push 0x55\n" /* GS, FS, DS, ES */
         "push 0x880\n push 0x100\n push %2\n push 0x7f0\n push 0x100\n iret\n 1: popa"
         : "=m"(resume_ip), "=m"(resume_sp) : "r"(new_flags | FLAG_FIXED | FLAG_VM) : "memory", "cc");
}

#define IN_VM86(new_flags, ...)                                                                                    \
    do {                                                                                                           \
        static const u8 code[] = {__VA_ARGS__};                                                                    \
        in_vm86(code, sizeof code, new_flags);                                                                     \
    } while (0)

/* On the stack of the handler, behind struct frame: ES, DS, FS, GS. */
static word segments_seen[4];
static void look(struct frame *frame)
{
    memcpy(segments_seen, &frame->ss + 1, sizeof segments_seen);
    leave(frame);
}

static void entering(void)
{
    handlers[RETURN_VECTOR] = look;
    set_gate(RETURN_VECTOR, stub_of(RETURN_VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    /* mov ax, cs; mov bx, ss; mov cx, sp; push 0x1234; pop dx; int 0x41 */
    IN_VM86(FLAG_IOPL, 0x8c, 0xc8, 0x8c, 0xd3, 0x89, 0xe1, 0x68, 0x34, 0x12, 0x5a, 0xcd, RETURN_VECTOR);
    check_equal("CS", seen.ax & 0xffff, 0x7f0);
    check_equal("SS", seen.bx & 0xffff, 0x880);
    check_equal("SP", seen.cx & 0xffff, 0x100);
    check_equal("the stack has words", seen.dx & 0xffff, 0x1234);
    check_equal("the frame: CS", seen.cs, 0x7f0);
    check_equal("the frame: IP", seen.ip, 0x10c);
    check_equal("the frame: SS and SP", seen.ss << 16 | seen.sp, 0x880 << 16 | 0x100);
    check_equal("the frame: ES, DS", segments_seen[0] << 16 | segments_seen[1], 0x55 << 16 | 0x22);
    check_equal("the frame: FS, GS", segments_seen[2] << 16 | segments_seen[3], 0x33 << 16 | 0x44);
    check_equal("DS of the handler was null before it loaded it", seen.ds, 0);
}

static void addresses(void)
{
    handlers[RETURN_VECTOR] = handlers[GP] = handlers[UD] = leave;
    write32(STACK_AT + 0x10, 0xcafebabe);
    /* mov ax, 0x900; mov ds, ax; mov eax, [0x10]; int 0x41 */
    IN_VM86(FLAG_IOPL, 0xb8, 0x00, 0x09, 0x8e, 0xd8, 0x66, 0xa1, 0x10, 0x00, 0xcd, RETURN_VECTOR);
    check_equal("a segment is a paragraph", seen.ax, 0xcafebabe);
    /* mov bx, 0xffff; mov ax, [bx] */
    IN_VM86(FLAG_IOPL, 0xbb, 0xff, 0xff, 0x8b, 0x07);
    check_equal("a word at 0xffff is beyond the limit", seen.vector, GP);
    check_equal("error code 0", seen.error, 0);
    /* mov ebx, 0x10000; mov al, [ebx] */
    IN_VM86(FLAG_IOPL, 0x66, 0xbb, 0, 0, 1, 0, 0x67, 0x8a, 0x03);
    check_equal("32-bit addresses have the same limit", seen.vector, GP);
    IN_VM86(FLAG_IOPL, 0x0f, 0x00, 0xd8); /* ltr ax */
    check_equal("LTR does not exist there", seen.vector, UD);
    IN_VM86(FLAG_IOPL, 0x0f, 0x22, 0xc0); /* mov cr0, eax */
    check_equal("MOV to CR0 is privileged", seen.vector, GP);
    IN_VM86(FLAG_IOPL, 0xf4);
    check_equal("so is HLT", seen.vector, GP);
}

static void sensitive_instructions(void)
{
    static const u8 sensitive[][2] = {{0xfa, 0x90}, {0xfb, 0x90}, {0x9c, 0x90}, {0x9d, 0x90}, {0xcf, 0x90}, {0xcd, 0x41}};
    static const char *const names[] = {
        "IOPL 0: CLI", "IOPL 0: STI", "IOPL 0: PUSHF", "IOPL 0: POPF", "IOPL 0: IRET", "IOPL 0: INT n",
    };
    for (size_t index = 0; index < sizeof sensitive / sizeof *sensitive; index++) {
        in_vm86(sensitive[index], 2, 0);
        check_equal(names[index], seen.vector, GP);
    }
    handlers[BP] = leave;
    IN_VM86(0, 0xcc);
    check_equal("IOPL 0: INT3 is not sensitive", seen.vector, BP);
    /* sti; pushf; pop ax; int 0x41 */
    IN_VM86(FLAG_IOPL, 0xfb, 0x9c, 0x58, 0xcd, RETURN_VECTOR);
    check_equal("IOPL 3: PUSHF shows IF and IOPL", seen.ax & (FLAG_IF | FLAG_IOPL), FLAG_IF | FLAG_IOPL);
    check("and VM and RF are never pushed there", seen.flags & FLAG_VM);
    IN_VM86(FLAG_IOPL, 0xe4, 0x80); /* in al, 0x80 */
    check_equal("IN asks the bitmap, whatever IOPL", seen.vector, GP);
    handlers[BP] = NULL;
}

static void virtual_interrupts(void)
{
    if (!(cpuid(1, 0).d >> 1 & 1)) {
        skip("VME");
        return;
    }
    write_cr4(read_cr4() | CR4_VME);
    /* cli; pushf; pop ax; sti; pushf; pop bx; hlt */
    IN_VM86(FLAG_VIF, 0xfa, 0x9c, 0x58, 0xfb, 0x9c, 0x5b, 0xf4);
    check_equal("VME: CLI clears VIF, which PUSHF shows as IF", seen.ax & (FLAG_IF | FLAG_IOPL), FLAG_IOPL);
    check_equal("VME: STI sets it", seen.bx & FLAG_IF, FLAG_IF);
    check_equal("VME: in the frame too", seen.flags & (FLAG_VIF | FLAG_IF), FLAG_VIF);
    IN_VM86(FLAG_VIP, 0xfb, 0x90);
    check_equal("VME: STI with VIP", seen.vector, GP);
    /* The bitmap sends INT 0x41 through the table at 0; there, hlt. */
    memset(task.interrupt_bits, 0, sizeof task.interrupt_bits);
    task.io_map = offsetof(struct task_state, io_bits);
    write32(0x41 * 4, 0x7f0 << 16 | 0x120);
    write8(CODE_AT - 0x100 + 0x120, 0xf4);
    IN_VM86(FLAG_VIF, 0xcd, RETURN_VECTOR);
    check_equal("VME: a redirected INT n arrives in VM86", seen.vector << 16 | seen.ip, GP << 16 | 0x120);
    check_equal("VME: and clears VIF", seen.flags & FLAG_VIF, 0);
    write_cr4(read_cr4() & ~CR4_VME);
}

void run(void)
{
    entering();
    addresses();
    sensitive_instructions();
    virtual_interrupts();
}
