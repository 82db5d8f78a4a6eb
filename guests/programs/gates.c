/*
 * Call gates with parameters, interrupt and trap gates in protected mode (SDM vol. 3, 5.8.2 to 5.8.6, 6.12.1).
 */
#include "guest.h"

enum { GATE = FREE, CONFORMING = FREE + 8, RING_1_CODE = FREE + 16, VECTOR = 0x40 };

static void set_call_gate(word target, u16 selector, u8 access, u8 parameters)
{
    gdt[GATE >> 3] = (u64)(target & 0xffff) | (u64)selector << 16 | (u64)parameters << 32 |
                     (u64)(access | PRESENT) << 40 |
                     (u64)(target >> 16) << 48;
}

static void call_gate(u16 selector)
{
    struct __attribute__((packed)) {
        u32 ignored;
        u16 selector;
    } target = {0xdead, selector};
    EMIT("call fword ptr [%0]" : : "r"(&target) : "eax", "ecx", "edx", "memory");
}

word entry_cs, entry_parameters[2], entry_old_sp, entry_old_ss, entry_sp;

/* Entered through a gate from an inner or the same ring, with two parameters: [ip, cs, p0, p1, (sp, ss)]. */
__attribute__((naked)) static void entry(void)
{
    EMIT("mov eax, cs\n mov [entry_cs], eax\n mov [entry_sp], esp\n"
         "mov eax, [esp + 8]\n mov [entry_parameters], eax\n mov eax, [esp + 12]\n mov [entry_parameters + 4], eax\n"
         "mov eax, [esp + 16]\n mov [entry_old_sp], eax\n mov eax, [esp + 20]\n mov [entry_old_ss], eax\n"
         "retf 8");
}

word before, after;

/* Call through the gate with two parameters. */
static void call_with_parameters(void)
{
    EMIT("mov [marked], esp\n push 0x2222\n push 0x1111\n mov [before], esp\n call 0x73:0\n"
         "mov [after], esp\n mov esp, [marked]" : : : "eax", "ecx", "edx", "memory");
}

static void from_ring_3(void)
{
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE | DPL(3), 2);
    static word data_segment;
    RING_3(call_with_parameters(); EMIT("mov eax, ds\n mov %0, eax" : "=m"(data_segment) : : "eax"));
    check_equal("a call gate leads to ring 0", entry_cs, KERNEL_CODE);
    check_equal("on ring 0's stack", entry_sp, task.esp0 - 24);
    check_equal("the first parameter is copied", entry_parameters[0], 0x1111);
    check_equal("and the second", entry_parameters[1], 0x2222);
    check_equal("the old ESP", entry_old_sp, before);
    check_equal("the old SS", entry_old_ss, USER_DATA);
    check_equal("RETF n releases the parameters on both stacks", after, before + 8);
    check_equal("DS, fit for ring 3, stays", data_segment, USER_DATA);
}

static void same_ring(void)
{
    call_with_parameters();
    check_equal("from ring 0 nothing is copied or switched", entry_sp, before - 8);
    check_equal("and parameters are read where they are", entry_parameters[1], 0x2222);
    check_equal("RETF n releases them", after, before + 8);
}

static void refusals(void)
{
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE, 0);
    FAULTS("a gate of DPL 0 from ring 3", GP, GATE, RING_3(call_gate(GATE | 3)));
    set_call_gate((word)entry, KERNEL_CODE, CALL_GATE | DPL(3), 0);
    gdt[GATE >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("an absent gate", NP, GATE, call_gate(GATE));
    set_call_gate((word)entry, KERNEL_DATA, CALL_GATE | DPL(3), 0);
    FAULTS("a gate to data", GP, KERNEL_DATA, call_gate(GATE));
    set_call_gate((word)entry, 0, CALL_GATE | DPL(3), 0);
    FAULTS("a gate to null", GP, 0, call_gate(GATE));
    set_call_gate((word)entry, USER_CODE, CALL_GATE | DPL(3), 0);
    FAULTS("a gate to an outer ring", GP, USER_CODE & ~3, call_gate(GATE));
    set_descriptor(RING_1_CODE, 0, 0xfffff, CODE | DPL(1), BIG | PAGES);
    set_call_gate((word)entry, RING_1_CODE, CALL_GATE | DPL(3), 0);
    task.ss1 = 0;
    FAULTS("a null SS1 in the TSS", TS, 0, RING_3(call_gate(GATE | 3)));
    task.ss1 = KERNEL_DATA | 1;
    FAULTS("an SS1 of ring 0", TS, KERNEL_DATA, RING_3(call_gate(GATE | 3)));
}

__attribute__((naked)) static void conforming_entry(void)
{
    EMIT("mov eax, cs\n mov [entry_cs], eax\n mov [entry_sp], esp\n retf");
}

static void conforming(void)
{
    set_descriptor(CONFORMING, 0, 0xfffff, CODE_CONFORMING, BIG | PAGES);
    set_call_gate((word)conforming_entry, CONFORMING, CALL_GATE | DPL(3), 0);
    RING_3(call_gate(GATE | 3));
    check_equal("a gate to conforming code keeps the CPL", entry_cs, CONFORMING | 3);
}

static void interrupt_gates(void)
{
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE);
    FAULTS("INT n from ring 3 through a gate of DPL 0", GP, VECTOR << 3 | 2, RING_3(EMIT("int 0x40")));
    set_gate(OF, stub_of(OF), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    FAULTS("INTO with OF", OF, 0, EMIT("mov al, 0x7f\n inc al\n into" : : : "eax", "cc"));
    WORKS("INTO without OF", EMIT("xor eax, eax\n into" : : : "eax", "cc"));
    static int32_t bounds[2] = {-5, 5};
    FAULTS("BOUND above", BR, 0, EMIT("mov eax, 6\n" HERE "bound eax, [%0]" : : "r"(bounds) : "eax"));
    check_equal("#BR is a fault", caught.ip, marked);
    FAULTS("BOUND below", BR, 0, EMIT("mov eax, -6\n bound eax, [%0]" : : "r"(bounds) : "eax"));
    WORKS("BOUND within", EMIT("mov eax, -5\n bound eax, [%0]" : : "r"(bounds) : "eax"));
}

void run(void)
{
    from_ring_3();
    same_ring();
    refusals();
    conforming();
    interrupt_gates();
}
