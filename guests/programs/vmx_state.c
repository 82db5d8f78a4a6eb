/*
 * What an exit saves of the guest, loads of the host, and leaves alone (SDM vol. 3, 28.3, 28.5).
 */
#include "vmx.h"

static struct table gdt_table, idt_table;

static void saves_segments(void)
{
    struct table limited = {sizeof gdt - 9, (u64)gdt};
    set_descriptor(LOCAL_TABLE, 0x123000, 0xfff, LDT, 0);
    gdt[(LOCAL_TABLE >> 3) + 1] = 0;
    guest.registers.ax = (u64)&limited;
    RUNS("a guest that loads segments", "mov ecx, 0x23\n mov ds, ecx\n xor ecx, ecx\n mov es, ecx\n mov ecx, 0x10\n"
                                        "mov fs, ecx\n mov ecx, 0x60\n lldt cx\n lgdt [rax]");
    check_equal("DS", get(GUEST_DS_SELECTOR), USER_DATA);
    check_equal("its access rights", get(GUEST_DS_ACCESS_RIGHTS), 0xc0f3);
    check_equal("its limit", get(GUEST_DS_LIMIT), 0xffffffff);
    check_equal("ES is null", get(GUEST_ES_SELECTOR), 0);
    check_equal("and unusable", get(GUEST_ES_ACCESS_RIGHTS) & UNUSABLE, UNUSABLE);
    check_equal("FS", get(GUEST_FS_SELECTOR), KERNEL_DATA);
    check_equal("is usable", get(GUEST_FS_ACCESS_RIGHTS), 0xc093);
    check_equal("LDTR", get(GUEST_LDTR_SELECTOR), LOCAL_TABLE);
    check_equal("its base", get(GUEST_LDTR_BASE), 0x123000);
    check_equal("its limit", get(GUEST_LDTR_LIMIT), 0xfff);
    check_equal("its access rights", get(GUEST_LDTR_ACCESS_RIGHTS), PRESENT | LDT);
    check_equal("GDTR", get(GUEST_GDTR_LIMIT), sizeof gdt - 9);
    check_equal("CS", get(GUEST_CS_ACCESS_RIGHTS), 0xa09b);
    check_equal("TR", get(GUEST_TR_ACCESS_RIGHTS), TASK_BUSY);
    u16 local;
    asm volatile("sldt %0" : "=m"(local));
    check_equal("the host has no LDT", local, 0);
    for (enum segment segment = SEGMENT_ES; segment <= SEGMENT_DS; segment++)
        if (segment != SEGMENT_CS)
            set_segment(segment, KERNEL_DATA, 0, 0xffffffff, 0xc093);
    set_segment(SEGMENT_FS, 0, 0, 0, UNUSABLE);
    set_segment(SEGMENT_LDTR, 0, 0, 0, UNUSABLE);
    set(GUEST_GDTR_LIMIT, sizeof gdt - 1);
}

static void saves_registers(void)
{
    void *code = CODE("mov rsp, 0x1000\n mov rcx, cr0\n or rcx, 8\n mov cr0, rcx\n mov ecx, 0x402\n mov dr7, rcx");
    begin_at(&guest, code);
    check_equal("a guest that loads registers", enter(&guest), EXIT_VMCALL);
    check_equal("RSP", get(GUEST_RSP), 0x1000);
    check_equal("CR0", get(GUEST_CR0), read_cr0() | CR0_TS);
    check_equal("DR7", get(GUEST_DR7), 0x402);
    check_equal("the host's TS", read_cr0() & CR0_TS, 0);
    check_equal("the host's DR7", read_dr7(), 0x400);
    set(GUEST_DR7, 0x400);
    set(GUEST_CR0, read_cr0());
}

/* AC, NT, IOPL, DF and IF: the exit leaves none of them. */
static void flags_of_both(void)
{
    const u64 flags_set = FLAG_AC | FLAG_NT | FLAG_IOPL | FLAG_DF | FLAG_ID;
    begin_at(&guest, CODE("nop"));
    set(GUEST_RFLAGS, FLAG_FIXED | flags_set);
    check_equal("flags", enter(&guest), EXIT_VMCALL);
    check_equal("the host has none of them", flags() & (flags_set | FLAG_IF), 0);
    check_equal("the guest's are saved", get(GUEST_RFLAGS) & flags_set, flags_set);
}

static void host_registers(void)
{
    u64 cr3 = read_cr3(), cr4 = read_cr4();
    u64 *top = new_pages(1);
    memcpy(top, (void *)cr3, PAGE);
    set(HOST_FS_BASE, 0x111000);
    set(HOST_GS_BASE, 0x222000);
    set(HOST_DS_SELECTOR, 0);
    set(HOST_SYSENTER_CS, 0x18);
    set(HOST_SYSENTER_ESP, 0x333000);
    set(HOST_SYSENTER_EIP, 0x444000);
    set(HOST_CR0, read_cr0() | CR0_TS);
    set(HOST_CR3, (u64)top);
    set(HOST_CR4, cr4 | CR4_PGE);
    RUNS("a host with registers of its own", "nop");
    check_equal("FS base", rdmsr(MSR_FS_BASE), 0x111000);
    check_equal("GS base", rdmsr(MSR_GS_BASE), 0x222000);
    check_equal("IA32_SYSENTER_CS", rdmsr(MSR_SYSENTER_CS), 0x18);
    check_equal("IA32_SYSENTER_ESP", rdmsr(MSR_SYSENTER_ESP), 0x333000);
    check_equal("IA32_SYSENTER_EIP", rdmsr(MSR_SYSENTER_EIP), 0x444000);
    check_equal("CR0", read_cr0() & CR0_TS, CR0_TS);
    check_equal("CR3", read_cr3(), (u64)top);
    check_equal("CR4", read_cr4(), cr4 | CR4_PGE);
    u16 data;
    asm volatile("mov %0, ds" : "=r"(data));
    check_equal("DS", data, 0);
    check_equal("the guest has its own", get(GUEST_CR3), cr3);
    set(HOST_FS_BASE, 0);
    set(HOST_GS_BASE, 0);
    set(HOST_DS_SELECTOR, KERNEL_DATA);
    set(HOST_CR0, read_cr0() & ~CR0_TS);
    set(HOST_CR3, cr3);
    set(HOST_CR4, cr4);
    RUNS("and as it was", "nop");
    check_equal("CR3", read_cr3(), cr3);
}

/* A failure after the checks of the host's state loads that, and saves nothing of the guest's (SDM vol. 3, 27.8). */
static void failed_entries(void)
{
    begin_at(&guest, CODE("nop"));
    set(HOST_FS_BASE, 0x555000);
    set(GUEST_FS_BASE, 0x666000);
    set(GUEST_RFLAGS, 0);
    check_equal("a failure for the guest's state", enter(&guest), ENTRY_FAILURE_GUEST_STATE);
    check_equal("loads the host's", rdmsr(MSR_FS_BASE), 0x555000);
    check_equal("saves nothing", get(GUEST_FS_BASE), 0x666000);
    check_equal("not even what is wrong", get(GUEST_RFLAGS), 0);
    wrmsr(MSR_FS_BASE, 0x777000);
    u64 selector = get(HOST_TR_SELECTOR), reason = get(EXIT_REASON);
    set(HOST_TR_SELECTOR, 0);
    check_equal("a failure for the host's state", enter(&guest), ENTER_FAILED(ERROR_HOST_STATE));
    check_equal("loads nothing", rdmsr(MSR_FS_BASE), 0x777000);
    check_equal("and is no exit", get(EXIT_REASON), reason);
    set(HOST_TR_SELECTOR, selector);
    set(HOST_FS_BASE, 0);
    RUNS("and all is well again", "nop");
}

/* The error of an instruction stays until the next, whatever exits in between (SDM vol. 3, 31.4). */
static void errors_stay(void)
{
    u64 value = 0;
    vmread(0x69fe, &value);
    RUNS("an exit", "nop");
    check_equal("changes no VM-instruction error", get(VM_INSTRUCTION_ERROR), ERROR_UNSUPPORTED_FIELD);
}

static void tables(void)
{
    EMIT("sgdt %0" : "=m"(gdt_table));
    EMIT("sidt %0" : "=m"(idt_table));
    check_equal("GDTR base", gdt_table.base, (u64)gdt);
    check_equal("an exit makes its limit 0xffff", gdt_table.limit, 0xffff);
    check_equal("IDTR base", idt_table.base, (u64)idt);
    check_equal("its limit too", idt_table.limit, 0xffff);
    u16 task_register;
    asm volatile("str %0" : "=m"(task_register));
    check_equal("TR", task_register, TASK);
    check_equal("its descriptor stays busy", gdt[TASK >> 3] >> 40 & 0xff, TASK_BUSY);
}

/* CR2, DR0 to DR3 and DR6 are of the processor: entries and exits do not touch them. */
static void left_alone(void)
{
    write_cr2(0x1000);
    write_dr0(0x2000);
    RUNS("what both share", "mov rax, cr2\n mov rbx, dr0\n"
                            "mov ecx, 0x3000\n mov cr2, rcx\n mov ecx, 0x4000\n mov dr0, rcx");
    check_equal("the guest sees CR2", guest.registers.ax, 0x1000);
    check_equal("and DR0", guest.registers.bx, 0x2000);
    check_equal("the host sees CR2", read_cr2(), 0x3000);
    check_equal("and DR0", read_dr0(), 0x4000);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    saves_segments();
    saves_registers();
    flags_of_both();
    host_registers();
    tables();
    left_alone();
    failed_entries();
    errors_stay();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
