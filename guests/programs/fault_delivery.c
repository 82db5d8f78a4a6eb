/*
 * Faults while an event is delivered: what they become, which error code they get (EXT and IDT bits), IST and stack
 * switches, RF in the saved image (SDM vol. 3, 6.11 to 6.15, 17.3.1.1).
 */
#include "guest.h"

enum { IDT_BIT = 2, EXT = 1, VECTOR = 0x40 };
#define GATE_ERROR(vector) ((vector) << 3 | IDT_BIT)

static word interrupted_flags;
static void keep_flags(struct frame *frame)
{
    interrupted_flags = frame->flags;
    frame->ip = marked;
}

static void bad_gates(void)
{
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    FAULTS("INT through an absent gate", NP, GATE_ERROR(VECTOR), EMIT(HERE "int 0x40"));
    check_equal("RIP is the INT", caught.ip, marked);
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, CALL_GATE);
    FAULTS("INT through a call gate", GP, GATE_ERROR(VECTOR), EMIT("int 0x40"));
    set_gate(VECTOR, stub_of(VECTOR), 0, INTERRUPT_GATE);
    FAULTS("INT to a null selector", GP, 0, EMIT("int 0x40"));
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_DATA, INTERRUPT_GATE);
    FAULTS("INT to a data segment", GP, KERNEL_DATA, EMIT("int 0x40"));
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE_32, INTERRUPT_GATE);
    FAULTS("INT to a 32-bit segment in long mode", GP, KERNEL_CODE_32, EMIT("int 0x40"));
    set_gate(VECTOR, stub_of(VECTOR), USER_CODE, INTERRUPT_GATE | DPL(3));
    FAULTS("INT to an outer ring", GP, USER_CODE & ~3, EMIT("int 0x40"));
    set_gate(VECTOR, 1ull << 63, KERNEL_CODE, INTERRUPT_GATE);
    FAULTS("INT to a non-canonical RIP", GP, 0, EMIT("int 0x40"));
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE);
    FAULTS("INT from CPL 3 through a gate of DPL 0", GP, GATE_ERROR(VECTOR), RING_3(EMIT("int 0x40")));
    struct table whole, cut;
    EMIT("sidt %0" : "=m"(whole));
    cut = whole;
    cut.limit = 16 * VECTOR + 14;
    EMIT("lidt %0" : : "m"(cut));
    FAULTS("INT beyond the IDT", GP, GATE_ERROR(VECTOR), EMIT("int 0x40"));
    EMIT("lidt %0" : : "m"(whole));
}

static void faults_of_faults(void)
{
    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    FAULTS("#UD through an absent gate: EXT is set", NP, GATE_ERROR(UD) | EXT, EMIT("ud2"));
    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE);
    set_gate(GP, stub_of(GP), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    FAULTS("a contributory fault in the delivery of #GP", DF, 0, EMIT("mov ax, 0xfff8\n mov ds, ax" : : : "eax"));
    set_gate(GP, stub_of(GP), KERNEL_CODE, INTERRUPT_GATE);
    set_gate(BP, stub_of(BP), KERNEL_CODE, (INTERRUPT_GATE & ~PRESENT) | DPL(3));
    FAULTS("INT3 through an absent gate: EXT is clear", NP, GATE_ERROR(BP), EMIT("int3"));
    set_gate(BP, stub_of(BP), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
}

static void missing_stacks(void)
{
    u64 absent = TEST_AREA;
    map(absent, 0, 0);
    task.ist[1] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(DF, 2);
    FAULTS("#PF on the stack that #PF is delivered to", DF, 0,
           EMIT("mov rsp, %0\n push rax" : : "r"(absent + PAGE)));
    FAULTS("#PF on the stack that #UD is delivered to is #PF's own", DF, 0,
           EMIT("mov rsp, %0\n ud2" : : "r"(absent + PAGE)));
    set_interrupt_stack(PF, 2);
    FAULTS("#PF after #UD is no double fault, with a stack of its own", PF, PF_W,
           EMIT("mov rsp, %0\n" HERE "ud2" : : "r"(absent + PAGE)));
    check_equal("RIP is the first instruction's", caught.ip, marked);
    check_equal("CR2 is the push's", caught.cr2, absent + PAGE - 8);
    set_interrupt_stack(PF, 0);
    word good = task.rsp[0];
    task.rsp[0] = 1ull << 63;
    FAULTS("a non-canonical RSP0", SS, 0,
           set_interrupt_stack(SS, 2); RING_3(EMIT("int3")));
    task.rsp[0] = good;
    FAULTS("a non-canonical RSP at a fault", SS, EXT, EMIT("mov rsp, %0\n ud2" : : "r"(1ull << 63)));
    set_interrupt_stack(SS, 0);
    set_interrupt_stack(DF, 0);
}

static void interrupt_stacks(void)
{
    task.ist[6] = (u64)new_pages(1) + PAGE - 8;
    set_interrupt_stack(VECTOR, 7);
    static word stack;
    EMIT("mov %0, rsp" : "=r"(stack));
    FAULTS("IST 7", VECTOR, 0, EMIT("mov %0, rsp\n int 0x40" : "=m"(stack)));
    check_equal("the old RSP is saved", caught.sp, stack);
    check_equal("and SS", caught.ss, KERNEL_DATA);
    /* The stub pushed 2 words and 15 registers below the processor's 5, from a boundary of 16. */
    check_equal("the stack is aligned down", *(u64 *)(task.ist[6] - 8 - 8), KERNEL_DATA);
    FAULTS("from CPL 3 too", VECTOR, 0, set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
           set_interrupt_stack(VECTOR, 7); RING_3(EMIT("int 0x40")));
    check_equal("CS is the user's", caught.cs, USER_CODE);
    check_equal("SS is the user's", caught.ss, USER_DATA);
    set_interrupt_stack(VECTOR, 0);
}

static void resume_flag(void)
{
    handlers[UD] = handlers[PF] = handlers[BP] = keep_flags;
    EMIT("mov qword ptr [marked], offset 1f\n ud2\n 1:" : : : "memory");
    check_equal("a fault saves RF set", interrupted_flags & FLAG_RF, FLAG_RF);
    EMIT("mov qword ptr [marked], offset 1f\n mov al, [%0]\n 1:" : : "r"(TEST_AREA) : "eax", "memory");
    check_equal("so does #PF", interrupted_flags & FLAG_RF, FLAG_RF);
    EMIT("mov qword ptr [marked], offset 1f\n int3\n 1:" : : : "memory");
    check_equal("a trap saves RF clear", interrupted_flags & FLAG_RF, 0);
    handlers[UD] = handlers[PF] = handlers[BP] = NULL;
    check_equal("RF is never seen by PUSHF", flags() & FLAG_RF, 0);
}

word in_handler;

__attribute__((naked)) static void keep_own_flags(void) { EMIT("pushf\n pop [in_handler]\n iretq"); }

static void saved_state(void)
{
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, TRAP_GATE);
    handlers[VECTOR] = keep_flags;
    EMIT("sti\n mov qword ptr [marked], offset 1f\n int 0x40\n 1: cli" : : : "memory");
    check_equal("INT saves IF", interrupted_flags & FLAG_IF, FLAG_IF);
    handlers[VECTOR] = NULL;
    set_gate(VECTOR, (word)keep_own_flags, KERNEL_CODE, TRAP_GATE);
    EMIT("std\n sti\n pushf\n or qword ptr [rsp], 0x4000\n popf\n int 0x40" : : : "memory", "cc");
    set_flags(FLAG_FIXED);
    check_equal("a trap gate leaves IF, clears TF and NT", in_handler & (FLAG_IF | FLAG_TF | FLAG_NT), FLAG_IF);
    check_equal("and leaves DF", in_handler & FLAG_DF, FLAG_DF);
}

void run(void)
{
    bad_gates();
    faults_of_faults();
    missing_stacks();
    interrupt_stacks();
    resume_flag();
    saved_state();
}
