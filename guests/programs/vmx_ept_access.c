/*
 * EPT violations of accesses that are more than one: across pages, repeated, read-modify-write, by stacks and
 * descriptor tables, and while events are delivered; #PF before them; and what they tell of the guest's own rights (SDM
 * vol. 3, 28.2.4, 29.3.3, table 28-7).
 */
#include "vmx.h"

enum {
    IS_READ = 1, IS_WRITE = 2, OF_LINEAR = 0x100, OF_USER_PAGE = 0x200, OF_WRITABLE_PAGE = 0x400, OF_NO_CODE = 0x800,
    VECTOR = 0x91,
};
static const u64 linear = TEST_AREA + 0x9000;

static u64 eptp, pages[2];
static volatile u64 *entries[2];

/* The rights of both pages. */
static void have(u64 first, u64 second)
{
    *entries[0] = pages[0] | first | EPT_WRITE_BACK;
    *entries[1] = pages[1] | second | EPT_WRITE_BACK;
    if (invept(SINGLE_EPT, eptp) != SUCCEED)
        give_up("INVEPT failed");
}

static void begin(void *code, u64 address)
{
    begin_at(&guest, code);
    guest.registers.ax = address;
}

/* Check a violation at an address of the two pages, which is told both ways. */
static void check_violation(const char *name, u64 access, u64 address)
{
    check_equal(name, enter(&guest), EXIT_EPT_VIOLATION);
    check_equal("access", get(EXIT_QUALIFICATION) & (access | OF_LINEAR), access | OF_LINEAR);
    check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), address);
    check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS),
                pages[(address - linear) / PAGE] + address % PAGE);
}

/* The same by the frame of an event; which part of it is pushed first, the manual leaves open. */
static void check_frame(const char *name, u64 stack)
{
    check_equal(name, enter(&guest), EXIT_EPT_VIOLATION);
    check_equal("a write", get(EXIT_QUALIFICATION) & (IS_WRITE | OF_LINEAR), IS_WRITE | OF_LINEAR);
    u64 address = get(GUEST_LINEAR_ADDRESS);
    check("of the frame", address >= stack - 40 && address < stack);
    check_equal("guest-physical address", get(GUEST_PHYSICAL_ADDRESS),
                pages[(address - linear) / PAGE] + address % PAGE);
}

static void across_pages(void)
{
    u64 last = linear + PAGE - 4;
    void *write = CODE("mov rcx, -1\n mov [rax], rcx"), *read = CODE("mov rcx, [rax]");
    write32(last, 0x11111111);
    write32(last + 4, 0x22222222);
    have(EPT_ALL, EPT_READ);
    begin(write, last);
    check_violation("a write whose second page is read-only", IS_WRITE, linear + PAGE);
    check_equal("writes nothing to the first", read32(last), 0x11111111);
    have(EPT_READ, EPT_ALL);
    begin(write, last);
    check_violation("whose first is", IS_WRITE, last);
    check_equal("writes nothing to the second", read32(last + 4), 0x22222222);
    have(EPT_ALL, EPT_ALL);
    check_equal("and then all of it", enter(&guest), EXIT_VMCALL);
    check_equal("the first", read32(last), 0xffffffff);
    check_equal("the second", read32(last + 4), 0xffffffff);
    have(EPT_ALL, 0);
    begin(read, last);
    check_violation("a read whose second page is not there", IS_READ, linear + PAGE);
    have(EPT_ALL, EPT_READ | EPT_WRITE);
    /* mov eax, 0x12345678 across the pages: one byte on the first. */
    write8(linear + PAGE - 1, 0xb8);
    write32(linear + PAGE, 0x12345678);
    write8(linear + PAGE + 4, 0xc3);
    begin(CODE("call rax"), linear + PAGE - 1);
    check_violation("an instruction whose second page is not executable", 4, linear + PAGE);
    check_equal("RIP is its beginning", get(GUEST_RIP), linear + PAGE - 1);
    have(EPT_ALL, EPT_ALL);
    check_equal("and then", enter(&guest), EXIT_VMCALL);
    check_equal("it runs", guest.registers.ax, 0x12345678);
}

static void repeated(void)
{
    memset((void *)linear, 0, 2 * PAGE);
    have(EPT_ALL, EPT_READ);
    begin(CODE("mov rdi, rax\n mov ecx, 100\n mov al, 0x77\n rep stosb"), linear + PAGE - 40);
    check_violation("REP STOSB into a read-only page", IS_WRITE, linear + PAGE);
    check_equal("has stored what came before", guest.registers.cx, 60);
    check_equal("and moved on", guest.registers.di, linear + PAGE);
    check_equal("to the last byte", read8(linear + PAGE - 1), 0x77);
    have(EPT_ALL, EPT_ALL);
    check_equal("then it goes on", enter(&guest), EXIT_VMCALL);
    check_equal("to its end", read8(linear + PAGE + 59), 0x77);
    check_equal("and no further", read8(linear + PAGE + 60), 0);
}

static void read_modify_write(void)
{
    write64(linear, 5);
    have(EPT_READ, EPT_ALL);
    begin(CODE("lock inc qword ptr [rax]"), linear);
    check_violation("LOCK INC of a read-only page", IS_WRITE, linear);
    begin(CODE("mov ecx, 1\n xchg [rax], rcx"), linear);
    check_violation("XCHG", IS_WRITE, linear);
    begin(CODE("bts dword ptr [rax], 3"), linear);
    check_violation("BTS", IS_WRITE, linear);
    check_equal("nothing is written", read64(linear), 5);
    check_equal("nor any register", guest.registers.ax, linear);
    begin(CODE("push rax\n pop qword ptr [rax]"), linear);
    check_violation("POP to it", IS_WRITE, linear);
    check_equal("RSP is as before the POP", get(GUEST_RSP), (u64)guest.stack - 16);
}

/* A stack in the second page, so that delivery cannot push. */
static void deliveries(void)
{
    have(EPT_ALL, EPT_READ);
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE);
    begin(CODE("lea rsp, [rax + 0x1800]\n int 0x91"), linear);
    check_frame("INT with a read-only stack", linear + 0x1800);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_SOFTWARE_INTERRUPT | VECTOR);
    check_equal("its length", get(VM_EXIT_INSTRUCTION_LENGTH), 2);
    check_equal("RSP is as it was", get(GUEST_RSP), linear + 0x1800);
    begin(CODE("lea rsp, [rax + 0x1800]\n ud2"), linear);
    check_frame("#UD", linear + 0x1800);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_HARDWARE_EXCEPTION | UD);
    begin(CODE("nop"), linear);
    set(GUEST_RSP, linear + 0x1800);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IF);
    inject(TYPE_EXTERNAL_INTERRUPT | VECTOR);
    check_frame("an interrupt injected", linear + 0x1800);
    check_equal("IDT vectoring", get(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | TYPE_EXTERNAL_INTERRUPT | VECTOR);
    /* As hypervisors do: what was to be delivered is injected again. */
    have(EPT_ALL, EPT_ALL);
    set(VM_ENTRY_INTERRUPTION_INFORMATION, get(IDT_VECTORING_INFORMATION));
    set_gate(VECTOR, (u64)CODE("mov ebx, 0x77"), KERNEL_CODE, INTERRUPT_GATE);
    check_equal("once more", enter(&guest), EXIT_VMCALL);
    check_equal("it is delivered", guest.registers.bx, 0x77);
    set_gate(VECTOR, stub_of(VECTOR), KERNEL_CODE, INTERRUPT_GATE);

    /* The IDT in a page that is not there. */
    memcpy((void *)linear, idt, sizeof idt);
    have(0, EPT_ALL);
    begin(CODE("int 0x91"), linear);
    set(GUEST_IDTR_BASE, linear);
    check_violation("INT with an IDT that is not there", IS_READ, linear + VECTOR * 16);
    set(GUEST_IDTR_BASE, (u64)idt);
}

/* What the guest's own tables refuse is its #PF, whatever EPT says. */
static void page_faults_first(void)
{
    have(0, 0);
    map(linear, pages[0], P | U);
    begin(CODE("mov [rax], rcx"), linear);
    set(EXCEPTION_BITMAP, 1 << PF);
    check_equal("a page that is read-only for both", enter(&guest), EXIT_EXCEPTION_OR_NMI);
    check_equal("is the guest's", get(VM_EXIT_INTERRUPTION_ERROR_CODE), PF_P | PF_W);
    set(EXCEPTION_BITMAP, 0);
    map(linear, pages[0], P | W | U);
    begin(CODE("mov [rax], rcx"), linear);
    check_violation("then EPT's", IS_WRITE, linear);
}

/* What a violation tells of the rights that the guest's own paging gives. */
static void advanced_information(void)
{
    if (!ept_capable(CAPABLE_ADVANCED_INFORMATION)) {
        skip("advanced information of EPT violations");
        return;
    }
    const u64 told = OF_USER_PAGE | OF_WRITABLE_PAGE | OF_NO_CODE;
    const struct {
        const char *name;
        u64 flags, information;
    } pages_of_guest[] = {
        {"a user page that is writable", P | W | U, OF_USER_PAGE | OF_WRITABLE_PAGE},
        {"a user page", P | U, OF_USER_PAGE},
        {"a supervisor page", P, 0},
        {"a supervisor page that is writable", P | W, OF_WRITABLE_PAGE},
        {"a page that is not for code", P | NX, OF_NO_CODE},
    };
    have(0, 0);
    for (unsigned index = 0; index < sizeof pages_of_guest / sizeof *pages_of_guest; index++) {
        map(linear, pages[0], pages_of_guest[index].flags);
        begin(CODE("mov rcx, [rax]"), linear);
        check_violation(pages_of_guest[index].name, IS_READ, linear);
        check_equal("what it is", get(EXIT_QUALIFICATION) & told, pages_of_guest[index].information);
    }
    map(linear, pages[0], P | W | U);
    *entry_of(linear, 3) &= ~U;
    begin(CODE("mov rcx, [rax]"), linear);
    check_violation("a page in a supervisor's table", IS_READ, linear);
    check_equal("what it is", get(EXIT_QUALIFICATION) & told, OF_WRITABLE_PAGE);
    *entry_of(linear, 3) |= U;
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        check("VMX", true);
        skip("EPT");
        return;
    }
    eptp = enable_ept();
    for (unsigned index = 0; index < 2; index++) {
        /* In reverse, so that the two do not follow each other in memory as they do in linear addresses. */
        pages[1 - index] = (u64)new_pages(1);
        map(linear + (1 - index) * PAGE, pages[1 - index], P | W | U);
        entries[1 - index] = ept_entry(eptp, pages[1 - index], 1);
    }
    across_pages();
    repeated();
    read_modify_write();
    deliveries();
    page_faults_first();
    advanced_information();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
