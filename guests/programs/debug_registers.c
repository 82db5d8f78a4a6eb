/*
 * Breakpoints on instructions and data, general detect, single step, and what DR6 says (SDM vol. 3, chapter 17).
 */
#include "guest.h"

enum { DR6_FIXED = 0xffff0ff0, DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR7_FIXED = 0x400, DR7_GD = 1 << 13 };
enum kind { ON_EXECUTION = 0, ON_WRITE = 1, ON_ACCESS = 3 };
#define DR7_BREAK(index, kind, length)                                                                             \
    (DR7_FIXED | 1u << (2 * (index)) | ((kind) | ((length) - 1) << 2) << (16 + 4 * (index)))

u64 data[4];
static word hits, hit_ip[64], hit_dr6;

static void keep(struct frame *frame)
{
    hit_dr6 = read_dr6();
    if (hits < 64)
        hit_ip[hits] = frame->ip;
    hits++;
    write_dr6(DR6_FIXED);
}

static void start(word dr7)
{
    hits = 0, hit_dr6 = 0;
    write_dr6(DR6_FIXED);
    write_dr7(dr7);
}

static void stop(void) { write_dr7(DR7_FIXED); }

/* A breakpoint on an instruction faults each time unless the handler sets RF. */
static void resume(struct frame *frame)
{
    keep(frame);
    frame->flags |= FLAG_RF;
}

static void instructions(void)
{
    handlers[DB] = resume;
    EMIT("mov rax, offset 1f\n mov dr0, rax\n mov [marked], rax" : : : "rax", "memory");
    start(DR7_BREAK(0, ON_EXECUTION, 1));
    word value;
    EMIT("mov eax, 1\n 1: inc eax\n inc eax" : "=a"(value) : : "cc");
    stop();
    check_equal("an instruction breakpoint hits once, with RF set in the image", hits, 1);
    check_equal("it is a fault", hit_ip[0], marked);
    check_equal("DR6 says which", hit_dr6, DR6_FIXED | 1);
    check_equal("the instruction is executed once", value, 3);
    start(DR7_FIXED);
    EMIT("nop");
    check_equal("disabled, it is silent", hits, 0);
    EMIT("mov rax, offset 2f\n mov dr0, rax" : : : "rax");
    start(DR7_BREAK(0, ON_EXECUTION, 1));
    EMIT("xor ecx, ecx\n 1: inc ecx\n jmp 2f\n .align 16\n 2: cmp ecx, 5\n jne 1b" : "=c"(value) : : "cc");
    stop();
    check_equal("in a loop that was running already it hits each time", hits, 5);
}

static void data_breakpoints(void)
{
    handlers[DB] = keep;
    write_dr1((word)data);
    start(DR7_BREAK(1, ON_WRITE, 4));
    (void)read32((word)data);
    check_equal("a read does not hit a write breakpoint", hits, 0);
    EMIT("mov dword ptr [data], 1\n 1: mov qword ptr [marked], offset 1b" : : : "memory");
    check_equal("a write does", hits, 1);
    check_equal("as a trap, behind the instruction", hit_ip[0], marked);
    check_equal("DR6 says 1", hit_dr6, DR6_FIXED | 2);
    write8((word)data + 3, 1);
    check_equal("the last byte counts", hits, 2);
    write8((word)data + 4, 1);
    check_equal("the next does not", hits, 2);
    write64((word)data - 4 + 3, 1);
    check_equal("an operand that overlaps does", hits, 3);
    EMIT("mov rdi, %0\n mov ecx, 4\n xor eax, eax\n rep stosq" : : "r"(data) : "rdi", "rcx", "rax", "memory");
    check_equal("a REP iteration does", hits, 4);
    start(DR7_BREAK(1, ON_ACCESS, 4));
    (void)read32((word)data);
    check_equal("a read hits an access breakpoint", hits, 1);
    EMIT("lock xadd [%0], %1" : : "r"(data), "r"(0ull) : "memory", "cc");
    check_equal("a read-modify-write once", hits, 2);
    EMIT("push qword ptr [%0]\n pop rax" : : "r"(data) : "rax");
    check_equal("a push from it", hits, 3);
    stop();
    (void)read32((word)data);
    check_equal("disabled again", hits, 3);
}

static void general_detect(void)
{
    start(DR7_FIXED | DR7_GD);
    handlers[DB] = NULL;
    FAULTS("general detect: MOV from DR0", DB, 0, (void)read_dr0());
    check_equal("DR6.BD", read_dr6() & DR6_BD, DR6_BD);
    check_equal("the exception clears GD", read_dr7() & DR7_GD, 0);
    write_dr6(DR6_FIXED);
}

static void access(void)
{
    FAULTS("DR4 with CR4.DE", UD, 0, write_cr4(read_cr4() | CR4_DE); EMIT("mov rax, dr4" : : : "rax"));
    write_cr4(read_cr4() & ~CR4_DE);
    word alias;
    EMIT("mov %0, dr4" : "=r"(alias));
    check_equal("DR4 is DR6 without it", alias, read_dr6());
    FAULTS("the upper half of DR7", GP, 0, write_dr7(1ul << 32));
    FAULTS("the upper half of DR6", GP, 0, write_dr6(1ul << 32));
    write_dr7(DR7_FIXED);
    check_equal("DR7 has its fixed bits", read_dr7(), DR7_FIXED);
}

static void step_over(struct frame *frame)
{
    keep(frame);
}

/* Set TF, execute, clear TF. */
#define STEP(text, ...)                                                                                            \
    EMIT("pushf\n or qword ptr [rsp], 0x100\n popf\n" text "\n pushf\n and qword ptr [rsp], ~0x100\n popf\n nop"      \
         : : __VA_ARGS__ : "rax", "rcx", "rdx", "rdi", "rsi", "r11", "memory", "cc")

static void single_step(void)
{
    handlers[DB] = step_over;
    start(DR7_FIXED);
    STEP("1: nop\n nop");
    /* POPF, NOP, NOP, PUSHF, AND, and POPF, which clears TF: the trap comes behind each that began with TF set. */
    check_equal("single step: one trap an instruction", hits, 5);
    check_equal("DR6.BS", hit_dr6, DR6_FIXED | DR6_BS);
    hits = 0;
    STEP("mov rdi, %0\n mov ecx, 3\n rep stosb", "r"(data));
    check_equal("REP: one trap an iteration", hits, 2 + 3 + 3);
    hits = 0;
    STEP("mov eax, ss\n mov ss, eax\n nop");
    check_equal("MOV SS holds the trap back once", hits, 2 + 3);
    hits = 0;
    STEP("jmp 1f\n nop\n 1: nop");
    check_equal("a jump is one instruction", hits, 2 + 3);
    hits = 0;
    STEP("push 0x102\n popf\n nop");
    check_equal("POPF that sets TF again", hits, 3 + 3);
    hits = 0;
    FAULTS("INT3 under TF is #BP", BP, 0, STEP("int3"));
    check_equal("and no #DB of its own", hits, 0);
}

static unsigned traps_in_ring_0;
static void count_ring_0(struct frame *frame)
{
    keep(frame);
    if (!(frame->cs & 3))
        traps_in_ring_0++;
}

__attribute__((naked)) static void syscall_entry(void) { EMIT("mov [entry_flags], r11\n pushf\n"
                                                              "pop [entry_own_flags]\n mov eax, 0x10\n mov ss, eax\n"
                                                              "jmp rcx"); }
word entry_flags, entry_own_flags;

static void step_over_syscall(void)
{
    handlers[DB] = count_ring_0;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)KERNEL_CODE << 32);
    wrmsr(MSR_LSTAR, (word)syscall_entry);
    wrmsr(MSR_FMASK, FLAG_TF);
    hits = 0;
    to_ring_3();
    EMIT("pushf\n or qword ptr [rsp], 0x100\n popf\n syscall" : : : "rax", "rcx", "r11", "memory", "cc");
    check_equal("SYSCALL with TF in FMASK: no trap in the kernel", traps_in_ring_0, 0);
    check_equal("R11 has TF", entry_flags & FLAG_TF, FLAG_TF);
    check_equal("RFLAGS has not", entry_own_flags & FLAG_TF, 0);
    set_flags(FLAG_FIXED);
}

void run(void)
{
    instructions();
    data_breakpoints();
    general_detect();
    access();
    single_step();
    step_over_syscall();
}
