/*
 * Hardware task switches: by JMP, CALL, task gate and exception, and back by IRET with NT (SDM vol. 3, chapter 7).
 */
#include "guest.h"

enum { OTHER = FREE, GATE = FREE + 8, DOUBLE_FAULT = FREE + 16, SMALL = FREE + 24, VECTOR = 0x40 };

static _Alignas(128) struct task_state other, double_fault;
static _Alignas(16) u8 stack[4096], fault_stack[4096];
static volatile word visits, seen_flags, seen_link, seen_ts;
volatile word seen_error;

/* The other task: it notes what it finds and leaves by IRET; the next switch enters behind that. */
__attribute__((naked, used)) static void other_task(void)
{
    EMIT("1: call note\n iret\n jmp 1b");
}

__attribute__((used)) static void note(void)
{
    visits++;
    seen_flags = flags();
    seen_link = other.link;
    seen_ts = read_cr0() & CR0_TS;
}

/* For a jump, which leaves no way back by IRET. */
__attribute__((naked, used)) static void jumped_to(void)
{
    EMIT("call note\n jmp 0x50:0\n 1: jmp 1b");
}

static void fill(struct task_state *state, void (*entry)(void), u8 *top)
{
    memset(state, 0, sizeof *state);
    state->eip = (word)entry;
    state->eflags = FLAG_FIXED;
    state->esp = (word)top;
    state->cs = KERNEL_CODE;
    state->ds = state->es = state->ss = state->fs = state->gs = KERNEL_DATA;
    state->ebx = 0xb;
    state->io_map = sizeof *state;
}

static void far_call(u16 selector)
{
    struct __attribute__((packed)) {
        u32 ignored;
        u16 selector;
    } target = {0, selector};
    EMIT("call fword ptr [%0]" : : "r"(&target) : "eax", "ecx", "edx", "ebx", "memory", "cc");
}

static void far_jump(u16 selector)
{
    struct __attribute__((packed)) {
        u32 ignored;
        u16 selector;
    } target = {0, selector};
    EMIT("jmp fword ptr [%0]" : : "r"(&target) : "eax", "ecx", "edx", "ebx", "memory", "cc");
}

static u8 type_of(u16 selector) { return gdt[selector >> 3] >> 40 & 0xf; }

static void call_and_return(void)
{
    fill(&other, other_task, stack + sizeof stack);
    set_system_descriptor(OTHER, (word)&other, sizeof other - 1, TASK_AVAILABLE);
    check_equal("LTR made our task busy", type_of(TASK), 0xb);
    far_call(OTHER);
    check_equal("CALL runs the other task", visits, 1);
    check_equal("NT is set there", seen_flags & FLAG_NT, FLAG_NT);
    check_equal("the link is our task", seen_link & 0xffff, TASK);
    check_equal("CR0.TS is set", seen_ts, CR0_TS);
    check_equal("IRET makes the other task available again", type_of(OTHER), 0x9);
    check_equal("ours is still busy", type_of(TASK), 0xb);
    check_equal("NT is clear here", flags() & FLAG_NT, 0);
    u16 selector;
    EMIT("str %0" : "=r"(selector));
    check_equal("TR is ours", selector, TASK);
    check_equal("the other task's EIP is saved behind its IRET", *(u8 *)(word)other.eip, 0xeb);
    far_call(OTHER);
    check_equal("a second CALL goes on from there", visits, 2);
    EMIT("clts");
}

static void registers_are_kept(void)
{
    u32 before = 0x12345678, after;
    EMIT("mov edi, %1\n push ebp\n mov ebp, 0x77\n std\n call far ptr 0x70:0\n pushf\n cld\n cmp ebp, 0x77\n"
         "pop eax\n pop ebp\n mov %0, edi"
         : "=r"(after) : "r"(before) : "edi", "eax", "ecx", "edx", "memory", "cc");
    check_equal("our registers come back", after, before);
    EMIT("clts");
}

static void jump(void)
{
    fill(&other, jumped_to, stack + sizeof stack);
    set_system_descriptor(OTHER, (word)&other, sizeof other - 1, TASK_AVAILABLE);
    visits = 0;
    far_jump(OTHER);
    check_equal("JMP runs the other task, which jumps back", visits, 1);
    check_equal("NT is not set by a JMP", seen_flags & FLAG_NT, 0);
    check_equal("the other task is available", type_of(OTHER), 0x9);
    check_equal("ours is busy", type_of(TASK), 0xb);
    EMIT("clts");
}

static void gates(void)
{
    fill(&other, other_task, stack + sizeof stack);
    set_system_descriptor(OTHER, (word)&other, sizeof other - 1, TASK_AVAILABLE);
    gdt[GATE >> 3] = (u64)OTHER << 16 | (u64)(TASK_GATE | DPL(3)) << 40;
    visits = 0;
    far_call(GATE);
    check_equal("CALL through a task gate", visits, 1);
    RING_3(far_call(GATE | 3));
    check_equal("and from ring 3", visits, 2);
    set_gate(VECTOR, 0, OTHER, TASK_GATE | DPL(3));
    EMIT("int 0x40" : : : "memory");
    check_equal("INT through a task gate", visits, 3);
    EMIT("clts");
    FAULTS("CALL of a busy task", GP, TASK, far_call(TASK));
    FAULTS("a TSS of DPL 0 from ring 3", GP, OTHER, RING_3(far_call(OTHER | 3)));
    set_system_descriptor(SMALL, (word)&other, 0x66, TASK_AVAILABLE);
    FAULTS("a TSS that is too small", TS, SMALL, far_call(SMALL));
    set_system_descriptor(SMALL, (word)&other, 0x67, TASK_AVAILABLE);
    gdt[SMALL >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("a TSS that is not present", NP, SMALL, far_call(SMALL));
    FAULTS("IRET with NT and a link to no busy task", TS, OTHER,
           task.link = OTHER; set_flags(FLAG_FIXED | FLAG_NT); EMIT("iret"));
    set_flags(FLAG_FIXED);
}

/* The task of #DF: it cannot return, so it turns its caller's saved state into a way out. */
__attribute__((naked, used)) static void double_fault_task(void)
{
    EMIT("1: pop dword ptr [seen_error]\n mov dword ptr [task + 32], offset after_double_fault\n iret\n jmp 1b");
}

static void exception_task(void)
{
    fill(&double_fault, double_fault_task, fault_stack + sizeof fault_stack);
    set_system_descriptor(DOUBLE_FAULT, (word)&double_fault, sizeof double_fault - 1, TASK_AVAILABLE);
    set_gate(DF, 0, DOUBLE_FAULT, TASK_GATE);
    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    set_gate(NP, stub_of(NP), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    seen_error = 1;
    EMIT("mov [marked], esp\n ud2\n .global after_double_fault\n after_double_fault:\n mov esp, [marked]"
         : : : "memory");
    check_equal("a double fault switches to its task, with its error code", seen_error, 0);
    EMIT("clts");
}

void run(void)
{
    call_and_return();
    registers_are_kept();
    jump();
    gates();
    exception_task();
}
