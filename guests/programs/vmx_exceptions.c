/*
 * Exceptions of guests: which exit, with what information; events whose delivery exits (SDM vol. 3, 25.6.3, 26.2,
 * 28.2.2, 28.2.4, table 28-4).
 */
#include "vmx.h"

enum { SOFTWARE = 0x90 };
#define ABSENT TEST_AREA

static u64 last_code;

/* Check an exit by an exception: interruption information without its valid bit, error code. */
static void check_exception(const char *name, u32 reason, u32 information, u32 error)
{
    check_equal(name, reason == EXIT_EXCEPTION_OR_NMI ? get(VM_EXIT_INTERRUPTION_INFORMATION) : 0x10000 + reason,
                INTERRUPTION_VALID | information);
    if (information & WITH_ERROR_CODE)
        check_equal("error code", get(VM_EXIT_INTERRUPTION_ERROR_CODE), error);
}

static u32 try(void *code)
{
    last_code = (u64)code;
    begin_at(&guest, code);
    return enter(&guest);
}

#define FAULT(vector) (TYPE_HARDWARE_EXCEPTION | (vector))
#define FAULT_WITH_CODE(vector) (TYPE_HARDWARE_EXCEPTION | WITH_ERROR_CODE | (vector))

static void bitmap(void)
{
    set(EXCEPTION_BITMAP, 1 << UD);
    check_exception("#UD", try(CODE("ud2")), FAULT(UD), 0);
    check_equal("RIP is the instruction's", get(GUEST_RIP), last_code);
    check_equal("RF is set, as it would be pushed", get(GUEST_RFLAGS) & FLAG_RF, FLAG_RF);
    check_equal("no IDT vectoring", get(IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID, 0);
    set(EXCEPTION_BITMAP, 1 << DE | 1 << GP);
    check_exception("#DE", try(CODE("xor ecx, ecx\n div ecx")), FAULT(DE), 0);
    check_exception("#GP", try(CODE("mov eax, 0x1230\n mov ds, eax")), FAULT_WITH_CODE(GP), 0x1230);
    check_exception("#GP of a non-canonical address", try(CODE("mov rax, 1\n ror rax\n mov [rax], al")),
                    FAULT_WITH_CODE(GP), 0);
}

static void of_the_guest(void)
{
    FAULTS("#UD, not in the bitmap, is the guest's", UD, 0, EMIT("ud2"));
    FAULTS("#PF too", PF, PF_W, write8(ABSENT, 0));
    check_equal("with its CR2", caught.cr2, ABSENT);
}

static void software_exceptions(void)
{
    set(EXCEPTION_BITMAP, 1 << BP | 1 << DB);
    check_exception("INT3", try(CODE("int3")), TYPE_SOFTWARE_EXCEPTION | BP, 0);
    check_equal("is 1 byte long", get(VM_EXIT_INSTRUCTION_LENGTH), 1);
    check_equal("RIP is before it", get(GUEST_RIP), last_code);
    check_exception("INT1", try(CODE(".byte 0xf1")), TYPE_PRIVILEGED_SOFTWARE_EXCEPTION | DB, 0);
    check_equal("is 1 byte long", get(VM_EXIT_INSTRUCTION_LENGTH), 1);
}

static volatile unsigned interrupts;

static void count(struct frame *frame)
{
    (void)frame;
    interrupts++;
}

static void software_interrupts(void)
{
    set(EXCEPTION_BITMAP, 0xffffffff);
    handlers[BP] = count;
    check_equal("INT 3 of two bytes is no exception", try(CODE(".byte 0xcd, 3")), EXIT_VMCALL);
    check_equal("it is delivered", interrupts, 1);
    handlers[BP] = NULL;
}

static void page_faults(void)
{
    void *read = CODE("mov cl, [rax]"), *write = CODE("mov [rax], cl");
    guest.registers.ax = ABSENT + 0x123;
    write_cr2(0);
    set(EXCEPTION_BITMAP, 1 << PF);
    set(PAGE_FAULT_ERROR_CODE_MASK, 0);
    set(PAGE_FAULT_ERROR_CODE_MATCH, 0);
    check_exception("#PF", try(read), FAULT_WITH_CODE(PF), 0);
    check_equal("its address is the qualification", get(EXIT_QUALIFICATION), ABSENT + 0x123);
    check_equal("not CR2", read_cr2(), 0);
    check_exception("#PF of a write", try(write), FAULT_WITH_CODE(PF), PF_W);
    set(PAGE_FAULT_ERROR_CODE_MASK, PF_W);
    set(PAGE_FAULT_ERROR_CODE_MATCH, PF_W);
    check_exception("mask and match: a write", try(write), FAULT_WITH_CODE(PF), PF_W);
}

static void reads_are_the_guests(void) { FAULTS("a read is the guest's", PF, 0, read8(ABSENT)); }
static void writes_are_the_guests(void) { FAULTS("a write is the guest's", PF, PF_W, write8(ABSENT, 0)); }

static void page_fault_masks(void)
{
    set(PAGE_FAULT_ERROR_CODE_MASK, PF_W);
    set(PAGE_FAULT_ERROR_CODE_MATCH, PF_W);
    set(EXCEPTION_BITMAP, 1 << PF);
    run_guest("no match, bit 14 set: no exit", reads_are_the_guests);
    set(EXCEPTION_BITMAP, 0);
    run_guest("match, bit 14 clear: no exit", writes_are_the_guests);
    guest.registers.ax = ABSENT;
    check_exception("no match, bit 14 clear: exit", try(CODE("mov cl, [rax]")), FAULT_WITH_CODE(PF), 0);
    set(PAGE_FAULT_ERROR_CODE_MASK, 0);
    set(PAGE_FAULT_ERROR_CODE_MATCH, 0);
}

enum { DR6_BS = 0x4000, DR6_B0 = 1 };
#define DR6_CLEAR 0xffff0ff0ul

static void debug_exceptions(void)
{
    set(EXCEPTION_BITMAP, 1 << DB);
    write_dr6(DR6_CLEAR);
    void *code = CODE("nop\n nop");
    begin_at(&guest, code);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_TF);
    check_exception("single step", enter(&guest), FAULT(DB), 0);
    check_equal("qualification", get(EXIT_QUALIFICATION), DR6_BS);
    check_equal("behind one instruction", get(GUEST_RIP), (u64)code + 1);
    check_equal("DR6 is as it was", read_dr6(), DR6_CLEAR);
    code = CODE("nop\n nop\n nop");
    write_dr0((u64)code + 1);
    begin_at(&guest, code);
    set(GUEST_DR7, 0x402);
    check_exception("an instruction breakpoint", enter(&guest), FAULT(DB), 0);
    check_equal("qualification", get(EXIT_QUALIFICATION), DR6_B0);
    check_equal("before the instruction", get(GUEST_RIP), (u64)code + 1);
    check_equal("the exit clears DR7", read_dr7(), 0x400);
    check_equal("the guest's is saved", get(GUEST_DR7), 0x402);
    set(GUEST_DR7, 0x400);
}

static void check_vectoring(const char *name, u32 information, u32 error)
{
    check_equal(name, get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | information);
    if (information & WITH_ERROR_CODE)
        check_equal("its error code", get(IDT_VECTORING_ERROR_CODE), error);
}

/* In error codes: the vector, IDT, and EXT for events from outside the program (SDM vol. 3, 6.13). */
#define GATE(vector) ((vector) << 3 | 2)

static void vectoring(void)
{
    set(EXCEPTION_BITMAP, 1 << NP | 1 << PF | 1 << DF);
    set_gate(SOFTWARE, stub_of(SOFTWARE), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    check_exception("INT through an absent gate", try(CODE("int 0x90")), FAULT_WITH_CODE(NP), GATE(SOFTWARE));
    check_vectoring("was delivered", TYPE_SOFTWARE_INTERRUPT | SOFTWARE, 0);
    check_equal("its length", get(VM_EXIT_INSTRUCTION_LENGTH), 2);
    check_equal("RIP is the INT's", get(GUEST_RIP), last_code);
    set_gate(SOFTWARE, stub_of(SOFTWARE), KERNEL_CODE, INTERRUPT_GATE);

    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    check_exception("#UD through an absent gate", try(CODE("ud2")), FAULT_WITH_CODE(NP), GATE(UD) | 1);
    check_vectoring("was delivered", FAULT(UD), 0);
    set_gate(UD, stub_of(UD), KERNEL_CODE, INTERRUPT_GATE);

    set_gate(BP, stub_of(BP), KERNEL_CODE, (INTERRUPT_GATE & ~PRESENT) | DPL(3));
    check_exception("INT3 through an absent gate", try(CODE("int3")), FAULT_WITH_CODE(NP), GATE(BP));
    check_vectoring("was delivered", TYPE_SOFTWARE_EXCEPTION | BP, 0);
    set_gate(BP, stub_of(BP), KERNEL_CODE, INTERRUPT_GATE | DPL(3));

    check_exception("#GP with a stack that is not there",
                    try(CODE("mov rsp, 0x400000000800\n mov eax, 0x1230\n mov ds, eax")), FAULT_WITH_CODE(PF), PF_W);
    check_vectoring("was delivered", FAULT_WITH_CODE(GP), 0x1230);
    check_equal("the address", get(EXIT_QUALIFICATION) >> 12, ABSENT >> 12);
}

/*
 * The second of two faults that make a double fault is intercepted as itself: so a hypervisor with page tables of its
 * own learns of what its guest's exceptions meet.
 */
static void before_a_double_fault(void)
{
    set(EXCEPTION_BITMAP, 1 << NP);
    set_gate(GP, stub_of(GP), KERNEL_CODE, INTERRUPT_GATE & ~PRESENT);
    check_exception("#GP through an absent gate: no double fault yet", try(CODE("mov eax, 0x1230\n mov ds, eax")),
                    FAULT_WITH_CODE(NP), GATE(GP) | 1);
    check_vectoring("was delivered", FAULT_WITH_CODE(GP), 0x1230);
    set_gate(GP, stub_of(GP), KERNEL_CODE, INTERRUPT_GATE);

    set(EXCEPTION_BITMAP, 1 << PF);
    set(PAGE_FAULT_ERROR_CODE_MASK, PF_W);
    set(PAGE_FAULT_ERROR_CODE_MATCH, PF_W);
    check_exception("#PF with a stack that is not there",
                    try(CODE("mov rsp, 0x400000000800\n mov al, [rsp]")), FAULT_WITH_CODE(PF), PF_W);
    check_vectoring("was delivered", FAULT_WITH_CODE(PF), 0);
    set(PAGE_FAULT_ERROR_CODE_MASK, 0);
    set(PAGE_FAULT_ERROR_CODE_MATCH, 0);
}

static void double_fault(void)
{
    /*
     * #GP at the delivery of #GP (SDM vol. 3, table 6-5). A double fault is an event of its own: what led to it is not
     * told.
     */
    set(EXCEPTION_BITMAP, 1 << DF);
    set(GUEST_IDTR_LIMIT, DF * 16 + 15);
    check_exception("#GP that cannot be delivered: #DF", try(CODE("mov eax, 0x1230\n mov ds, eax")),
                    FAULT_WITH_CODE(DF), 0);
    check_equal("is no exit during delivery", get(IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID, 0);
    set(EXCEPTION_BITMAP, 0);
    set(GUEST_IDTR_LIMIT, 0);
    check_equal("a triple fault", try(CODE("ud2")), EXIT_TRIPLE_FAULT);
    check_equal("is none either", get(IDT_VECTORING_INFORMATION) & INTERRUPTION_VALID, 0);
    check_equal("RIP is the instruction's", get(GUEST_RIP), last_code);
    set(GUEST_IDTR_LIMIT, sizeof idt - 1);
    RUNS("the processor is not shut down", "nop");
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    run_guest("without a bitmap", of_the_guest);
    bitmap();
    software_exceptions();
    software_interrupts();
    page_faults();
    page_fault_masks();
    debug_exceptions();
    vectoring();
    before_a_double_fault();
    double_fault();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
