/*
 * Task switches of a 32-bit guest always exit, before anything of them is done (SDM vol. 3, 26.4.2, 28.2.1 table
 * 28-2).
 */
#include "vmx.h"

enum { OTHER_TASK = FREE, TASK_GATE_SELECTOR = FREE + 0x10, VECTOR = 0x91, GATES = 32 };
enum { BY_CALL = 0u << 30, BY_IRET = 1u << 30 };
#define BY_JMP (2u << 30)
#define BY_GATE (3u << 30)

struct task_state_32 {
    u32 link, rest[25];
};

static struct task_state_32 old_task, other_task;
/* The IDT of a guest that is not in IA-32e mode: gates of 8 bytes. */
static u64 gates[256];

static u64 gate(u16 selector, u8 access) { return (u64)selector << 16 | (u64)(access | PRESENT) << 40; }

static void begin(void *code)
{
    begin_at(&guest, code);
    begin_protected();
    set_segment(SEGMENT_TR, TASK, (u64)&old_task, sizeof old_task - 1, TASK_BUSY);
    set(GUEST_IDTR_BASE, (u64)gates);
    set(GUEST_IDTR_LIMIT, sizeof gates - 1);
}

static void check_switch(const char *name, void *code, u32 source, u32 length)
{
    begin(code);
    check_equal(name, enter(&guest), EXIT_TASK_SWITCH);
    check_equal("qualification", get(EXIT_QUALIFICATION), source | OTHER_TASK);
    check_equal("length", get(VM_EXIT_INSTRUCTION_LENGTH), length);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)code);
    check_equal("the task is the old one", get(GUEST_TR_SELECTOR), TASK);
    check_equal("the other is not busy", gdt[OTHER_TASK >> 3] >> 40 & 0xff, TASK_AVAILABLE | PRESENT);
}

static void instructions(void)
{
    check_switch("JMP to a TSS", CODE(".code32\n .byte 0xea\n .long 0\n .word 0x70\n .code64"), BY_JMP, 7);
    check_switch("CALL of a TSS", CODE(".code32\n .byte 0x9a\n .long 0\n .word 0x70\n .code64"), BY_CALL, 7);
    check_switch("JMP to a task gate", CODE(".code32\n .byte 0xea\n .long 0\n .word 0x80\n .code64"), BY_JMP, 7);
    gdt[OTHER_TASK >> 3] |= 2ull << 40;
    old_task.link = OTHER_TASK;
    void *code = CODE("iretd");
    begin(code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_NT);
    check_equal("IRET with NT", enter(&guest), EXIT_TASK_SWITCH);
    check_equal("qualification", get(EXIT_QUALIFICATION), BY_IRET | OTHER_TASK);
    check_equal("length", get(VM_EXIT_INSTRUCTION_LENGTH), 1);
    check_equal("NT is still set", get(GUEST_RFLAGS) & FLAG_NT, FLAG_NT);
    gdt[OTHER_TASK >> 3] &= ~(2ull << 40);
}

static void through_the_idt(void)
{
    gates[VECTOR] = gates[UD] = gates[GP] = gate(OTHER_TASK, TASK_GATE);
    check_switch("INT through a task gate", CODE("int 0x91"), BY_GATE, 2);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_SOFTWARE_INTERRUPT | VECTOR);
    begin(CODE("ud2"));
    check_equal("#UD through one", enter(&guest), EXIT_TASK_SWITCH);
    check_equal("qualification", get(EXIT_QUALIFICATION), BY_GATE | OTHER_TASK);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | UD);
    begin(CODE("mov eax, 0x1230\n mov ds, eax"));
    check_equal("#GP through one", enter(&guest), EXIT_TASK_SWITCH);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION),
                INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | GP);
    check_equal("its error code", get(IDT_VECTORING_ERROR_CODE), 0x1230);
    begin(CODE("nop"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check_equal("an interrupt injected", enter(&guest), EXIT_TASK_SWITCH);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | VECTOR);
}

/* Faults for the selector come first (SDM vol. 3, 26.4.2). */
static void faults(void)
{
    set(EXCEPTION_BITMAP, 1 << GP | 1 << NP);
    gdt[OTHER_TASK >> 3] |= 2ull << 40;
    begin(CODE(".code32\n .byte 0xea\n .long 0\n .word 0x70\n .code64"));
    check_equal("JMP to a busy TSS", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #GP", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, GP);
    check_equal("error code", get(VM_EXIT_INTERRUPTION_ERROR_CODE), OTHER_TASK);
    gdt[OTHER_TASK >> 3] &= ~((2ull | PRESENT) << 40);
    begin(CODE(".code32\n .byte 0xea\n .long 0\n .word 0x70\n .code64"));
    check_equal("JMP to an absent TSS", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("is #NP", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, NP);
    gdt[OTHER_TASK >> 3] |= (u64)PRESENT << 40;
    set(EXCEPTION_BITMAP, 0);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    set_descriptor(OTHER_TASK, (u32)(u64)&other_task, sizeof other_task - 1, TASK_AVAILABLE, 0);
    gdt[TASK_GATE_SELECTOR >> 3] = gate(OTHER_TASK, TASK_GATE);
    instructions();
    through_the_idt();
    faults();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
