/* Descriptor tables, and the task state that interrupts from CPL 3 take their stack from. */
#include "guest.h"

_Alignas(16) u64 idt[512];
_Alignas(4096) struct task_state task;

extern u8 stubs[], ring_0_stack_top[];
void return_to_ring_0(void);
void prepare(void);

enum { STUB_SIZE = 16, WORDS_A_GATE = sizeof(word) / 4 };

u64 descriptor(u32 base, u32 limit, u8 access, u8 flags)
{
    u64 low = (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16;
    u64 high = (u64)access | (u64)(limit >> 16 & 0xf) << 8 | (u64)flags << 12 | (u64)(base >> 24) << 16;
    return low | high << 40;
}

void set_descriptor(u16 selector, u32 base, u32 limit, u8 access, u8 flags)
{
    gdt[selector >> 3] = descriptor(base, limit, access | PRESENT, flags);
}

void set_system_descriptor(u16 selector, word base, u32 limit, u8 access)
{
    set_descriptor(selector, base, limit, access, 0);
#ifdef __x86_64__
    gdt[(selector >> 3) + 1] = base >> 32;
#endif
}

void set_gate(u8 vector, word target, u16 selector, u8 access)
{
    u64 *gate = &idt[vector * WORDS_A_GATE];
    gate[0] = (u64)(target & 0xffff) | (u64)selector << 16 | (u64)access << 40 | (u64)(target >> 16 & 0xffff) << 48;
#ifdef __x86_64__
    gate[1] = target >> 32;
#endif
}

#ifdef __x86_64__
void set_interrupt_stack(u8 vector, u8 ist)
{
    u64 *gate = &idt[vector * WORDS_A_GATE];
    *gate = (*gate & ~(7ull << 32)) | (u64)ist << 32;
}
#endif

word stub_of(u8 vector) { return (word)stubs + vector * STUB_SIZE; }

static void prepare_task(void)
{
#ifdef __x86_64__
    task.rsp[0] = (word)ring_0_stack_top;
#else
    task.esp0 = (word)ring_0_stack_top;
    task.ss0 = KERNEL_DATA;
#endif
    /* No I/O permissions: the map begins beyond the limit. */
    task.io_map = sizeof task;
    set_system_descriptor(TASK, (word)&task, sizeof task - 1, TASK_AVAILABLE);
    asm volatile("ltr %0" : : "r"((u16)TASK));
}

/* Firmware may have left its timer running: mask the 8259s. */
static void silence_firmware(void)
{
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

/* Called by the start code, before `run`. */
void prepare(void)
{
    silence_firmware();
    for (unsigned vector = 0; vector < 256; vector++)
        set_gate(vector, stub_of(vector), KERNEL_CODE, INTERRUPT_GATE);
    set_gate(BP, stub_of(BP), KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    set_gate(TO_RING_0, (word)return_to_ring_0, KERNEL_CODE, INTERRUPT_GATE | DPL(3));
    struct table table = {256 * WORDS_A_GATE * 8 - 1, (word)idt};
    asm volatile("lidt %0" : : "m"(table));
    prepare_task();
}
