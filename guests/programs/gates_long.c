/*
 * 64-bit call gates: 16 bytes, no parameters, always to 64-bit code; from ring 3 with a stack from the TSS, and back by
 * far return (SDM vol. 3, 5.8.3.1, 5.8.5.1).
 */
#include "guest.h"

enum { GATE = FREE };

static void set_call_gate(word target, u16 selector, u8 access)
{
    gdt[GATE >> 3] = (target & 0xffff) | (u64)selector << 16 | (u64)(access | PRESENT) << 40 |
                     (target >> 16 & 0xffff) << 48;
    gdt[(GATE >> 3) + 1] = target >> 32;
}

word entry_cs, entry_ss, entry_sp, entry_frame[4];

__attribute__((naked)) static void entry(void)
{
    EMIT("mov eax, cs\n mov [entry_cs], rax\n mov eax, ss\n mov [entry_ss], rax\n mov [entry_sp], rsp\n"
         "mov rax, [rsp + 8]\n mov [entry_frame + 8], rax\n mov rax, [rsp + 16]\n mov [entry_frame + 16], rax\n"
         "mov rax, [rsp + 24]\n mov [entry_frame + 24], rax\n rex.w retf");
}

static struct __attribute__((packed)) {
    u32 ignored;
    u16 selector;
} pointer;

word before, after;

static void call_gate(u16 selector)
{
    pointer.selector = selector;
    EMIT("mov [before], rsp\n call fword ptr [%0]\n mov [after], rsp" : : "r"(&pointer) : "rax", "memory");
}

static void calls(void)
{
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE | DPL(3));
    RING_3(call_gate(GATE | 3));
    check_equal("a call gate leads to ring 0", entry_cs, KERNEL_CODE);
    check_equal("with a null SS", entry_ss, 0);
    check_equal("on the stack of the TSS", entry_sp, task.rsp[0] - 32);
    check_equal("the frame: CS", entry_frame[1], USER_CODE);
    check_equal("the frame: RSP", entry_frame[2], before);
    check_equal("the frame: SS", entry_frame[3], USER_DATA);
    check_equal("far RET goes back", after, before);
    call_gate(GATE);
    check_equal("from ring 0 the stack stays", entry_sp, before - 16);
    check_equal("and is as before afterwards", after, before);
}

static void refusals(void)
{
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE);
    FAULTS("a gate of DPL 0 from ring 3", GP, GATE, RING_3(call_gate(GATE | 3)));
    set_call_gate((word)entry, KERNEL_CODE_32, CALL_GATE | DPL(3));
    FAULTS("a gate to 32-bit code", GP, KERNEL_CODE_32, call_gate(GATE));
    set_call_gate(1ull << 63, KERNEL_CODE, CALL_GATE | DPL(3));
    FAULTS("a gate to a non-canonical address", GP, 0, call_gate(GATE));
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE | DPL(3));
    gdt[(GATE >> 3) + 1] |= 1ull << 40;
    FAULTS("a gate whose second half has a type", GP, GATE, call_gate(GATE));
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE | DPL(3));
    gdt[GATE >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("an absent gate", NP, GATE, call_gate(GATE));
    set_system_descriptor(GATE, (word)&task, sizeof task - 1, TASK_AVAILABLE);
    FAULTS("a far call to a TSS: no tasks in long mode", GP, GATE, call_gate(GATE));
    gdt[GATE >> 3] = (u64)TASK << 16 | (u64)(TASK_GATE | DPL(3)) << 40;
    FAULTS("a task gate", GP, GATE, call_gate(GATE));
}

static void far_returns(void)
{
    u64 selector;
    EMIT("mov rax, rsp\n push 0x20 | 3\n push rax\n push 0x28 | 3\n push offset 1f\n rex.w retf\n 1: mov %0, cs"
         : "=r"(selector) : : "rax", "memory");
    to_ring_0();
    check_equal("far RET to ring 3", selector, USER_CODE);
    FAULTS("far RET to ring 0 from ring 3", GP, KERNEL_CODE,
           RING_3(EMIT("push 8\n push offset 1f\n rex.w retf\n 1:" : : : "memory")));
    FAULTS("far RET to data", GP, KERNEL_DATA, EMIT("push 0x10\n push offset 1f\n rex.w retf\n 1:" : : : "memory"));
    FAULTS("far RET to ring 3 with a kernel SS", GP, KERNEL_DATA,
           EMIT("push 0x10 | 3\n push rsp\n push 0x28 | 3\n push offset 1f\n rex.w retf\n 1:" : : : "memory"));
}

void run(void)
{
    calls();
    refusals();
    far_returns();
}
