/*
 * Virtual interrupts: priorities, recognition and delivery, EOI and self-IPIs, by the APIC-access page and CR8, and
 * what delivers them: VM entry, STI, POPF, HLT (SDM vol. 3, 26.2, 27.3.2.5, 30.1, 30.2).
 */
#include "apic.h"
#include "vmx.h"

enum { LOW = 0x51, HIGH = 0x61, SELF = 0x40000 };

static u8 *page, *virtual;
static volatile u8 delivered[8];
static volatile unsigned count;
static volatile bool ends;

static u32 *reg(u32 offset) { return (u32 *)(virtual + offset); }
static bool in_register(u32 first, u8 vector) { return *reg(first + vector / 32 * 0x10) >> vector % 32 & 1; }

/* In the guest: note the vector, and end it if that is wanted. */
static void on_interrupt(struct frame *frame)
{
    delivered[count++ % 8] = frame->vector;
    if (ends)
        write32((u64)page + APIC_EOI, 0);
}

/* Nothing is requested or in service, but `vector` if it is not 0. */
static void have(u8 vector)
{
    for (u32 index = 0; index < 8; index++)
        *reg(APIC_ISR + index * 16) = *reg(APIC_IRR + index * 16) = 0;
    *reg(APIC_TPR) = *reg(APIC_PPR) = 0;
    if (vector)
        *reg(APIC_IRR + vector / 32 * 0x10) = 1u << vector % 32;
    set(GUEST_INTERRUPT_STATUS, vector);
    count = 0;
    ends = false;
}

static u32 run_code(void *code, u64 flags)
{
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | flags);
    guest.registers.ax = (u64)page;
    guest.registers.bx = (u64)&count;
    return enter(&guest);
}

static void check_taken(const char *name, u32 reason, u8 vector)
{
    check_equal(name, reason, EXIT_VMCALL);
    check_equal("one is delivered", count, 1);
    check_equal("its vector", delivered[0], vector);
}

static void delivery(void)
{
    have(LOW);
    check_taken("a request at VM entry", run_code(CODE("nop"), FLAG_IF), LOW);
    check("is in service", in_register(APIC_ISR, LOW) && !in_register(APIC_IRR, LOW));
    check_equal("the status", get(GUEST_INTERRUPT_STATUS), LOW << 8);
    check_equal("the processor priority", *reg(APIC_PPR), LOW & 0xf0);
    have(LOW);
    check_equal("without IF", run_code(CODE("nop"), 0), EXIT_VMCALL);
    check_equal("it waits", count, 0);
    check_taken("for STI", run_code(CODE("mov rcx, [rbx]\n sti\n nop"), 0), LOW);
    check_equal("not before", (u32)guest.registers.cx, 0);
    have(LOW);
    check_taken("for POPF", run_code(CODE("push 0x202\n popf"), 0), LOW);
    have(LOW);
    check_taken("for the end of a loop",
                run_code(CODE("mov ecx, 5000\n 1: pause\n loop 1b\n sti\n 1: cmp dword ptr [rbx], 0\n je 1b"), 0), LOW);
    have(LOW);
    begin_at(&guest, CODE("nop"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | HIGH);
    check_equal("what is injected", enter(&guest), EXIT_VMCALL);
    check_equal("and then the virtual one", count, 2);
    check("in this order", delivered[0] == HIGH && delivered[1] == LOW);
}

static void halted(void)
{
    have(LOW);
    begin_at(&guest, CODE("nop"));
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_taken("in HLT it wakes", enter(&guest), LOW);
    have(LOW);
    check_taken("STI, HLT", run_code(CODE("sti\n hlt"), 0), LOW);
}

static void priorities(void)
{
    have(LOW);
    *reg(APIC_TPR) = 0x50;
    check_equal("with a task priority of its class", run_code(CODE("nop"), FLAG_IF), EXIT_VMCALL);
    check_equal("none comes", count, 0);
    check_equal("the processor priority is that", *reg(APIC_PPR), 0x50);
    check_taken("MOV to CR8", run_code(CODE("mov ecx, 4\n mov cr8, rcx\n nop"), FLAG_IF), LOW);
    have(LOW);
    *reg(APIC_TPR) = 0x5f;
    check_taken("TPR", run_code(CODE("mov dword ptr [rax + 0x80], 0x4f\n nop"), FLAG_IF), LOW);
    have(LOW);
    set(GUEST_INTERRUPT_STATUS, HIGH << 8 | LOW);
    *reg(APIC_ISR + HIGH / 32 * 16) = 1 << HIGH % 32;
    *reg(APIC_IRR + 0x10) = 2;
    check_equal("a lower one", run_code(CODE("nop"), FLAG_IF), EXIT_VMCALL);
    check_equal("waits", count, 0);
    check_equal("the processor priority", *reg(APIC_PPR), HIGH & 0xf0);
    check_taken("for EOI", run_code(CODE("mov dword ptr [rax + 0xb0], 7\n nop"), FLAG_IF), LOW);
    check_equal("EOI reads as 0", *reg(APIC_EOI), 0);
    check_equal("then the next is requested", get(GUEST_INTERRUPT_STATUS), LOW << 8 | 33);
    have(0);
    ends = true;
    check_equal("a loop of IPIs", run_code(CODE("mov ecx, 1000\n sti\n 1: mov dword ptr [rax + 0x300], 0x40051\n"
                                                "dec ecx\n jnz 1b\n nop"), 0), EXIT_VMCALL);
    check_equal("all come", count, 1000);
}

static void end_of_interrupt(void)
{
    have(0);
    set(GUEST_INTERRUPT_STATUS, HIGH << 8);
    *reg(APIC_ISR + 0x30) = 1 << HIGH % 32;
    *reg(APIC_ISR + 0x20) = 1 << LOW % 32;
    set(EOI_EXIT_BITMAP_1, 1ull << (HIGH - 64));
    void *code = CODE("mov [rax + 0xb0], ecx\n nop");
    check_equal("EOI of one in the bitmap", run_code(code, 0), EXIT_VIRTUALIZED_EOI);
    check_equal("its vector", get(EXIT_QUALIFICATION), HIGH);
    check_equal("RIP is behind it", get(GUEST_RIP), (u64)code + 6);
    check_equal("the one below is in service", get(GUEST_INTERRUPT_STATUS), LOW << 8);
    check_equal("and gives the priority", *reg(APIC_PPR), LOW & 0xf0);
    check_equal("EOI of one that is not", run_code(code, 0), EXIT_VMCALL);
    check_equal("then none is", get(GUEST_INTERRUPT_STATUS), 0);
    set(EOI_EXIT_BITMAP_1, 0);
}

static void to_itself(void)
{
    have(0);
    check_taken("an IPI to itself", run_code(CODE("mov dword ptr [rax + 0x300], 0x40061\n nop"), FLAG_IF), HIGH);
    have(0);
    check_equal("with IF clear", run_code(CODE("mov dword ptr [rax + 0x300], 0x40061\n nop"), 0), EXIT_VMCALL);
    check_equal("is requested", get(GUEST_INTERRUPT_STATUS), HIGH);
    check("in IRR", in_register(APIC_IRR, HIGH));
    static const u32 others[] = {SELF | 0xf, 0x61, 0x80061, SELF | 0x8061, SELF | 0x461, SELF | 0x1061, SELF | 0x100061};
    for (size_t index = 0; index < sizeof others / sizeof *others; index++) {
        begin_at(&guest, CODE("mov [rax + 0x300], ecx"));
        guest.registers.ax = (u64)page;
        guest.registers.cx = others[index];
        check_equal("another IPI", enter(&guest), EXIT_APIC_WRITE);
        check_equal("exits", get(EXIT_QUALIFICATION), APIC_ICR);
        check_equal("and is written", *reg(APIC_ICR), others[index]);
    }
    check_equal("other registers", run_code(CODE("mov ecx, [rax + 0xf0]"), 0), EXIT_APIC_ACCESS);
}

static void windows(void)
{
    enable(PRIMARY_CONTROLS, INTERRUPT_WINDOW_EXITING);
    have(LOW);
    check_equal("an interrupt window", run_code(CODE("nop"), FLAG_IF), EXIT_INTERRUPT_WINDOW);
    check_equal("in its place", count, 0);
    disable(PRIMARY_CONTROLS, INTERRUPT_WINDOW_EXITING);
    check_taken("without it the guest's", run_code(CODE("nop"), FLAG_IF), LOW);
    have(LOW);
    apic_send_self(HIGH);
    check_equal("an external interrupt", run_code(CODE("1: jmp 1b"), FLAG_IF), EXIT_EXTERNAL_INTERRUPT);
    check_equal("the virtual one came before", count, 1);
    have(LOW);
    set(GUEST_INTERRUPT_STATUS, 0);
    check_equal("what the status does not tell", run_code(CODE("nop"), FLAG_IF), EXIT_EXTERNAL_INTERRUPT);
    check_equal("is not there", count, 0);
    asm volatile("sti\n nop\n cli");
    apic_end_of_interrupt();
}

void run(void)
{
    apic_enable();
    vmx_begin();
    vmcs_begin(&guest);
    page = new_pages(1);
    virtual = new_pages(1);
    handlers[LOW] = handlers[HIGH] = on_interrupt;
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, VIRTUAL_INTERRUPT_DELIVERY, "virtual-interrupt delivery");
    enable(SECONDARY_CONTROLS, VIRTUALIZE_APIC_ACCESSES);
    enable(PRIMARY_CONTROLS, USE_TPR_SHADOW);
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    set(APIC_ACCESS_ADDRESS, (u64)page);
    set(VIRTUAL_APIC_ADDRESS, (u64)virtual);
    for (u32 index = 0; index < 4; index++)
        set(EOI_EXIT_BITMAP_0 + 2 * index, 0);
    delivery();
    priorities();
    end_of_interrupt();
    to_itself();
    windows();
    halted();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
