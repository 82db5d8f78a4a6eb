/*
 * Addresses whose bits 63:47 differ: as data, stack, RIP by every kind of jump, and in registers that refuse them
 * (SDM vol. 1, 3.3.7.1; vol. 3, 5.3.1).
 */
#include "guest.h"

static const u64 bad = 1ull << 63, edge = 0x7ffffffffffcull;

static void data(void)
{
    FAULTS("a read", GP, 0, read8(bad));
    FAULTS("a write", GP, 0, write8(bad, 1));
    FAULTS("the first address of the hole", GP, 0, read8(1ull << 47));
    FAULTS("the last address below it is only missing", PF, 0, read8((1ull << 47) - 1));
    FAULTS("the first address above it is only missing", PF, 0, read8(0xffff800000000000));
    FAULTS("the last address of the hole", GP, 0, read8(0xffff7fffffffffff));
    FAULTS("an access that reaches into the hole", GP, 0,
           map(edge & ~0xfffull, (u64)new_pages(1), P | W); read64(edge));
    FAULTS("a write that reaches into the hole", GP, 0, write64(edge, 0));
    map(0xfffffffffffff000, (u64)new_pages(1), P | W);
    WORKS("an access that wraps at 2^64", read64(0xfffffffffffffffc));
    FAULTS("RBP as base gives #SS", SS, 0,
           EMIT("push rbp\n mov rbp, %0\n mov al, [rbp]" : : "r"(bad) : "eax"));
    FAULTS("an FS override makes it #GP", GP, 0,
           EMIT("push rbp\n mov rbp, %0\n mov al, fs:[rbp]" : : "r"(bad) : "eax"));
    WORKS("LEA computes only", EMIT("lea rax, [%0]" : : "r"(bad) : "rax"));
    WORKS("PREFETCH asks only", EMIT("prefetcht0 [%0]" : : "r"(bad)));
}

static void stack(void)
{
    task.ist[0] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(SS, 1);
    FAULTS("PUSH", SS, 0, EMIT("mov rsp, %0\n push rax" : : "r"(bad)));
    check_equal("RSP is unchanged", caught.sp, bad);
    FAULTS("POP", SS, 0, EMIT("mov rsp, %0\n pop rax" : : "r"(bad) : "rax"));
    FAULTS("CALL", SS, 0, EMIT("mov rsp, %0\n" HERE "call disarm" : : "r"(bad) : "memory"));
    check_equal("RIP is the CALL", caught.ip, marked);
    FAULTS("RET", SS, 0, EMIT("mov rsp, %0\n ret" : : "r"(bad)));
    FAULTS("ENTER", SS, 0, EMIT("mov rsp, %0\n enter 16, 0" : : "r"(bad)));
    FAULTS("LEAVE", SS, 0, EMIT("push rbp\n mov rbp, %0\n leave" : : "r"(bad)));
    FAULTS("IRET", SS, 0, EMIT("mov rsp, %0\n iretq" : : "r"(bad)));
    FAULTS("an operand at RSP", SS, 0, EMIT("mov rsp, %0\n mov rax, [rsp + 8]" : : "r"(bad) : "rax"));
    set_interrupt_stack(SS, 0);
}

static void jumps(void)
{
    FAULTS("near RET", GP, 0, EMIT("push %0\n" HERE "ret" : : "r"(bad) : "memory"));
    check_equal("RIP is the RET", caught.ip, marked);
    FAULTS("JMP by register", GP, 0, EMIT(HERE "jmp %0" : : "r"(bad) : "memory"));
    check_equal("RIP is the JMP", caught.ip, marked);
    FAULTS("JMP by memory", GP, 0, EMIT(HERE "jmp %0" : : "m"(bad) : "memory"));
    check_equal("RIP is the JMP through memory", caught.ip, marked);
    static word before;
    FAULTS("CALL by register", GP, 0, EMIT("mov [%1], rsp\n" HERE "call %0" : : "r"(bad), "r"(&before) : "memory"));
    check_equal("RIP is the CALL by register", caught.ip, marked);
    check_equal("and nothing is pushed", caught.sp, before);
    struct __attribute__((packed)) {
        u64 offset;
        u16 selector;
    } far = {bad, KERNEL_CODE};
    FAULTS("far JMP", GP, 0, EMIT("rex.w jmp fword ptr %0" : : "m"(far)));
    FAULTS("far RET", GP, 0, EMIT("push %1\n push %0\n rex.w retf" : : "r"(bad), "i"(KERNEL_CODE)));
    FAULTS("IRET to CPL 0", GP, 0,
           EMIT("mov rax, rsp\n push 0x10\n push rax\n push 2\n push 8\n push %0\n" HERE "iretq"
                : : "r"(bad) : "rax", "memory"));
    check_equal("RIP is the IRET", caught.ip, marked);
    check_equal("at CPL 0", caught.cs, KERNEL_CODE);
}

/* The last page below the hole, and a JMP whose target is beyond it. */
static void running_off_the_edge(void)
{
    u8 *page = new_pages(1);
    map(0x7ffffffff000, (u64)page, P | W);
    page[0xfff] = 0x90;
    FAULTS("running into the hole", GP, 0, ((void (*)(void))0x7fffffffffff)());
    check_equal("RIP is in it", caught.ip, 1ull << 47);
    page[0xffd] = 0xeb, page[0xffe] = 0x10;
    FAULTS("a direct JMP into the hole", GP, 0, ((void (*)(void))0x7ffffffffffd)());
    check_equal("RIP is the direct JMP", caught.ip, 0x7ffffffffffd);
    page[0xffd] = 0x74;
    FAULTS("Jcc into the hole", GP, 0, EMIT("xor eax, eax\n call %0" : : "r"(0x7ffffffffffdul) : "rax", "cc"));
    WORKS("Jcc not taken, then RET", page[0xfff] = 0xc3;
          EMIT("test rsp, rsp\n call %0" : : "r"(0x7ffffffffffdul) : "rax", "cc", "memory"));
}

static void registers(void)
{
    FAULTS("WRMSR to LSTAR", GP, 0, wrmsr(MSR_LSTAR, bad));
    FAULTS("WRMSR to FS base", GP, 0, wrmsr(MSR_FS_BASE, bad));
    FAULTS("WRMSR to KERNEL_GS_BASE", GP, 0, wrmsr(MSR_KERNEL_GS_BASE, 1ull << 47));
    FAULTS("WRMSR to SYSENTER_EIP", GP, 0, wrmsr(MSR_SYSENTER_EIP, bad));
    struct table table = {7, bad};
    FAULTS("LGDT", GP, 0, EMIT("lgdt %0" : : "m"(table)));
    FAULTS("LIDT", GP, 0, EMIT("lidt %0" : : "m"(table)));
    set_system_descriptor(LOCAL_TABLE, bad, 7, LDT);
    FAULTS("LLDT", GP, LOCAL_TABLE, EMIT("lldt %0" : : "r"((u16)LOCAL_TABLE)));
    set_system_descriptor(FREE, bad, 0x67, TASK_AVAILABLE);
    FAULTS("LTR", GP, FREE, EMIT("ltr %0" : : "r"((u16)FREE)));
    if (cpuid(7, 0).b & 1) {
        write_cr4(read_cr4() | CR4_FSGSBASE);
        FAULTS("WRFSBASE", GP, 0, EMIT("wrfsbase %0" : : "r"(bad)));
        write_cr4(read_cr4() & ~CR4_FSGSBASE);
    }
}

void run(void)
{
    data();
    stack();
    jumps();
    running_off_the_edge();
    registers();
}
