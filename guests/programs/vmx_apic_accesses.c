/*
 * The APIC-access page: which accesses exit and what they tell, which are made to the virtual-APIC page in its stead,
 * and what follows them (SDM vol. 3, 27.7.7, 28.2.1, 30.1.2, 30.4).
 */
#include "apic.h"
#include "vmx.h"

enum { LINEAR_READ = 0 << 12, LINEAR_WRITE = 1 << 12, FETCH = 2 << 12, DELIVERY = 3 << 12, STRUCTURE = 15 << 12 };
enum { VECTOR = 0x91 };

static u8 *page, *virtual;

static u32 *reg(u32 offset) { return (u32 *)(virtual + offset); }

/* Begin code whose RAX is an address in the APIC-access page, and RCX a value. */
static u32 run_at(void *code, u32 offset, u64 value)
{
    begin_at(&guest, code);
    guest.registers.ax = (u64)page + offset;
    guest.registers.cx = value;
    return enter(&guest);
}

static void check_access(const char *name, u32 kind, void *code, u32 offset)
{
    check_equal(name, run_at(code, offset, 0x11223344), EXIT_APIC_ACCESS);
    check_equal("is told", get(EXIT_QUALIFICATION), kind | offset);
    check_equal("RIP", get(GUEST_RIP), (u64)code);
}

#define READ CODE("mov edx, [rax]")
#define WRITE CODE("mov [rax], ecx")

static void everything_exits(void)
{
    check_access("a read", LINEAR_READ, READ, APIC_ID);
    check_equal("the instruction's length", get(VM_EXIT_INSTRUCTION_LENGTH), 2);
    check_access("a write", LINEAR_WRITE, WRITE, APIC_EOI);
    check_access("of TPR without a shadow", LINEAR_READ, READ, APIC_TPR);
    check_access("one that no register has", LINEAR_READ, CODE("mov rdx, [rax]"), 0xff8);
    check_access("a write of 8 bytes", LINEAR_WRITE, CODE("mov [rax], rcx"), 0x40);
    check_access("an access across registers", LINEAR_READ, READ, 0x12e);
    check_equal("nothing was written", *(u32 *)(page + APIC_EOI), 0);
    begin_at(&guest, CODE("nop"));
    set(GUEST_RSP, (u64)page + 0x800);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check_equal("the frame of an event", enter(&guest), EXIT_APIC_ACCESS);
    check_equal("is told", get(EXIT_QUALIFICATION) & 0xf000, DELIVERY);
    check_equal("with the event", get(IDT_VECTORING_INFORMATION),
                INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check_equal("RAM elsewhere", run_at(READ, 0x1000, 0), EXIT_VMCALL);
}

/* The same code again and again, as a loop: each of its accesses is one. */
static void loops(void)
{
    void *code = CODE("mov r9d, 300\n 1: mov edx, [rbx]\n dec r9d\n jnz 1b\n mov edx, [rax]");
    begin_at(&guest, code);
    guest.registers.bx = (u64)virtual;
    guest.registers.ax = (u64)page + APIC_ID;
    check_equal("after a loop over RAM", enter(&guest), EXIT_APIC_ACCESS);
    guest.registers.bx = (u64)page + APIC_ID;
    begin_at(&guest, code);
    check_equal("in the same loop", enter(&guest), EXIT_APIC_ACCESS);
    check_equal("the first access", (u32)guest.registers.r9, 300);
}

static void task_priority(void)
{
    ENABLE_OR_SKIP(PRIMARY_CONTROLS, USE_TPR_SHADOW, "TPR shadow");
    set(TPR_THRESHOLD, 0);
    *reg(APIC_TPR) = 0x35;
    check_equal("a read of TPR", run_at(READ, APIC_TPR, 0), EXIT_VMCALL);
    check_equal("is of the virtual one", (u32)guest.registers.dx, 0x35);
    check_equal("a write", run_at(WRITE, APIC_TPR, 0x11223344), EXIT_VMCALL);
    check_equal("loses all but a byte", *reg(APIC_TPR), 0x44);
    check_equal("and is not the page's", *(u32 *)(page + APIC_TPR), 0);
    check_equal("a byte of it", run_at(CODE("mov [rax], cl"), APIC_TPR, 0x55), EXIT_VMCALL);
    check_equal("is written", *reg(APIC_TPR), 0x55);
    check_equal("read, modify, write", run_at(CODE("or dword ptr [rax], 0x8a"), APIC_TPR, 0), EXIT_VMCALL);
    check_equal("does so", *reg(APIC_TPR), 0xdf);
    check_access("8 bytes", LINEAR_READ, CODE("mov rdx, [rax]"), APIC_TPR);
    check_access("beyond the register", LINEAR_WRITE, WRITE, APIC_TPR + 2);
    check_access("another register", LINEAR_WRITE, WRITE, APIC_EOI);
    check_access("and its read", LINEAR_READ, READ, APIC_PPR);
    begin_at(&guest, CODE("mov r9d, 300\n 1: mov [rax], r9d\n mov edx, [rax]\n mov r8, cr8\n dec r9d\n jnz 1b"));
    guest.registers.ax = (u64)page + APIC_TPR;
    check_equal("a loop", enter(&guest), EXIT_VMCALL);
    check_equal("of writes and reads", (u32)guest.registers.dx, 1);
    check_equal("and of CR8", guest.registers.r8, 0);
}

static void threshold(void)
{
    if (!offered(PRIMARY_CONTROLS, USE_TPR_SHADOW))
        return;
    *reg(APIC_TPR) = 0x40;
    set(TPR_THRESHOLD, 4);
    void *code = WRITE;
    check_equal("at the threshold", run_at(code, APIC_TPR, 0x45), EXIT_VMCALL);
    check_equal("below it", run_at(code, APIC_TPR, 0x3f), EXIT_TPR_BELOW_THRESHOLD);
    check_equal("behind the instruction", get(GUEST_RIP), (u64)code + 2);
    check_equal("which is done", *reg(APIC_TPR), 0x3f);
    begin_at(&guest, code);
    check_equal("a VM entry below it exits", enter(&guest), EXIT_TPR_BELOW_THRESHOLD);
    check_equal("before the first instruction", get(GUEST_RIP), (u64)code);
    begin_at(&guest, CODE("nop"));
    set(GUEST_ACTIVITY_STATE, HALTED);
    check_equal("also one into HLT", enter(&guest), EXIT_TPR_BELOW_THRESHOLD);
    set(TPR_THRESHOLD, 0);
}

static void check_write(const char *name, u32 offset, u32 value)
{
    void *code = WRITE;
    check_equal(name, run_at(code, offset, value), EXIT_APIC_WRITE);
    check_equal("is told", get(EXIT_QUALIFICATION), offset);
    check_equal("it is done", *reg(offset), value);
    check_equal("RIP is behind it", get(GUEST_RIP), (u64)code + 2);
}

static void registers(void)
{
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, APIC_REGISTER_VIRTUALIZATION, "APIC-register virtualization");
    static const u16 read[] = {APIC_ID,       APIC_VERSION,  APIC_EOI,     APIC_LDR,      APIC_DFR,   APIC_SPURIOUS,
                               APIC_ISR + 0x70, APIC_TMR,    APIC_IRR + 0x70, APIC_ERROR, APIC_ICR,   APIC_ICR_HIGH,
                               APIC_TIMER,    0x330,         0x340,        APIC_LINT0,    APIC_LINT1, 0x370,
                               APIC_INITIAL_COUNT, APIC_DIVIDE};
    for (size_t index = 0; index < sizeof read / sizeof *read; index++) {
        *reg(read[index]) = 0x5a000000 | read[index];
        check_equal("a register is read", run_at(READ, read[index], 0), EXIT_VMCALL);
        check_equal("from the virtual-APIC page", (u32)guest.registers.dx, 0x5a000000 | read[index]);
    }
    static const u16 absent[] = {0, 0x10, 0x40, 0x90, APIC_PPR, 0xc0, 0x290, 0x2f0, APIC_CURRENT_COUNT, 0x3f0, 0x400};
    for (size_t index = 0; index < sizeof absent / sizeof *absent; index++)
        check_access("one that is not", LINEAR_READ, READ, absent[index]);
    static const u16 written[] = {APIC_ID,    APIC_EOI,   APIC_LDR, APIC_DFR,           APIC_SPURIOUS, APIC_ERROR,
                                  APIC_ICR,   APIC_TIMER, 0x370,    APIC_INITIAL_COUNT, APIC_DIVIDE};
    for (size_t index = 0; index < sizeof written / sizeof *written; index++)
        check_write("a write", written[index], 0xa5000000 | index);
    check_equal("ICR's high half", run_at(WRITE, APIC_ICR_HIGH, 0x11223344), EXIT_VMCALL);
    check_equal("keeps a byte", *reg(APIC_ICR_HIGH), 0x11000000);
    static const u16 refused[] = {APIC_VERSION, APIC_PPR, APIC_ISR, APIC_IRR, APIC_CURRENT_COUNT, 0x3f0};
    for (size_t index = 0; index < sizeof refused / sizeof *refused; index++)
        check_access("a register that is only read", LINEAR_WRITE, WRITE, refused[index]);
    void *code = WRITE;
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_TF);
    guest.registers.ax = (u64)page + APIC_ERROR;
    check_equal("under TF", enter(&guest), EXIT_APIC_WRITE);
    check_equal("the single step is pending", get(GUEST_PENDING_DEBUG_EXCEPTIONS), 0x4000);
    disable(SECONDARY_CONTROLS, APIC_REGISTER_VIRTUALIZATION);
}

static void fetch(void)
{
    begin_at(&guest, CODE("call rax"));
    guest.registers.ax = (u64)page;
    check_equal("a fetch", enter(&guest), EXIT_APIC_ACCESS);
    check_equal("the fetch is told", get(EXIT_QUALIFICATION), FETCH);
    check_equal("its RIP", get(GUEST_RIP), (u64)page);
}

/* EPT leads to the page from another guest-physical address. */
static void through_ept(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        skip("EPT");
        return;
    }
    u64 eptp = enable_ept();
    u8 *elsewhere = new_pages(1), *table = new_pages(1);
    *ept_entry(eptp, (u64)elsewhere, 1) = (u64)page | EPT_ALL | EPT_WRITE_BACK;
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
    begin_at(&guest, READ);
    guest.registers.ax = (u64)elsewhere + APIC_ID;
    check_equal("a page that EPT leads to it", enter(&guest), EXIT_APIC_ACCESS);
    check_equal("is told", get(EXIT_QUALIFICATION), LINEAR_READ | APIC_ID);
    *ept_entry(eptp, (u64)page, 1) = (u64)elsewhere | EPT_ALL | EPT_WRITE_BACK;
    *ept_entry(eptp, (u64)table, 1) = (u64)page | EPT_ALL | EPT_WRITE_BACK;
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
    check_equal("and from it away", run_at(READ, APIC_ID, 0), EXIT_VMCALL);
    u64 cr3 = get(GUEST_CR3);
    begin_at(&guest, CODE("mov cr3, rax"));
    guest.registers.ax = (u64)table;
    check_equal("a paging structure there", enter(&guest), EXIT_APIC_ACCESS);
    check_equal("is told by its guest-physical address", get(EXIT_QUALIFICATION) & 0xf000, STRUCTURE);
    set(GUEST_CR3, cr3);
    disable(SECONDARY_CONTROLS, ENABLE_EPT);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    page = new_pages(1);
    virtual = new_pages(1);
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, VIRTUALIZE_APIC_ACCESSES, "virtualized APIC accesses");
    set(APIC_ACCESS_ADDRESS, (u64)page);
    set(VIRTUAL_APIC_ADDRESS, (u64)virtual);
    everything_exits();
    loops();
    task_priority();
    threshold();
    registers();
    through_ept();
    fetch();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
