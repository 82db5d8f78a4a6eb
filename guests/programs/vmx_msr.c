/*
 * Exits of RDMSR and WRMSR by bitmaps, MSRs that the VMCS holds, and the lists that entries and exits load and store
 * (SDM vol. 3, 25.6.9, 25.7.2, 25.8.2, 27.4, 28.4).
 */
#include "vmx.h"

enum { READ_LOW = 0, READ_HIGH = 1024, WRITE_LOW = 2048, WRITE_HIGH = 3072, ABSENT = 0x1fff };

static u8 *bitmap;

struct msr_entry {
    u32 index, reserved;
    u64 value;
};

static void mark(u32 part, u32 msr, bool on)
{
    u8 *byte = &bitmap[part + (msr & 0x1fff) / 8];
    *byte = on ? *byte | 1 << msr % 8 : *byte & ~(1 << msr % 8);
}

static u32 try(const void *code, u32 msr, u64 value)
{
    begin_at(&guest, code);
    guest.registers = (struct guest_registers){.cx = msr, .ax = (u32)value, .dx = value >> 32};
    return enter(&guest);
}

static u64 value_read(void) { return guest.registers.dx << 32 | (u32)guest.registers.ax; }

static void faults(void)
{
    FAULTS("RDMSR at CPL 3 faults", GP, 0, RING_3(rdmsr(MSR_PAT)));
    FAULTS("WRMSR at CPL 3", GP, 0, RING_3(wrmsr(MSR_PAT, 0)));
}

static void bitmaps(void)
{
    const void *read = CODE("rdmsr"), *write = CODE("wrmsr");
    check_equal("without bitmaps RDMSR exits", try(read, MSR_PAT, 0), EXIT_RDMSR);
    check_instruction("length", 2, 0);
    check_equal("WRMSR too", try(write, MSR_KERNEL_GS_BASE, 0), EXIT_WRMSR);
    check_equal("also of what does not exist", try(read, ABSENT, 0), EXIT_RDMSR);
    run_guest("but not at CPL 3", faults);

    set(MSR_BITMAPS, (u64)bitmap);
    enable(PRIMARY_CONTROLS, USE_MSR_BITMAPS);
    check_equal("bitmaps of zeros: no exit", try(read, MSR_PAT, 0), EXIT_VMCALL);
    check_equal("the guest reads", value_read(), rdmsr(MSR_PAT));
    check_equal("and writes", try(write, MSR_KERNEL_GS_BASE, 0x123456789000), EXIT_VMCALL);
    check_equal("what the host has too", rdmsr(MSR_KERNEL_GS_BASE), 0x123456789000);
    mark(READ_LOW, MSR_PAT, true);
    check_equal("reading, below 0x2000", try(read, MSR_PAT, 0), EXIT_RDMSR);
    check_equal("is not writing", try(write, MSR_PAT, rdmsr(MSR_PAT)), EXIT_VMCALL);
    mark(READ_LOW, MSR_PAT, false);
    mark(WRITE_LOW, MSR_PAT, true);
    check_equal("writing", try(write, MSR_PAT, 0), EXIT_WRMSR);
    check_equal("is not reading", try(read, MSR_PAT, 0), EXIT_VMCALL);
    mark(WRITE_LOW, MSR_PAT, false);
    mark(READ_HIGH, MSR_KERNEL_GS_BASE, true);
    check_equal("reading, from 0xc0000000 on", try(read, MSR_KERNEL_GS_BASE, 0), EXIT_RDMSR);
    check_equal("is not the other", try(read, MSR_GS_BASE, 0), EXIT_VMCALL);
    mark(READ_HIGH, MSR_KERNEL_GS_BASE, false);
    mark(WRITE_HIGH, MSR_KERNEL_GS_BASE, true);
    check_equal("writing there", try(write, MSR_KERNEL_GS_BASE, 0), EXIT_WRMSR);
    mark(WRITE_HIGH, MSR_KERNEL_GS_BASE, false);
    check_equal("0x2000 is in no bitmap", try(read, 0x2000, 0), EXIT_RDMSR);
    check_equal("nor is 0xbfffffff", try(read, 0xbfffffff, 0), EXIT_RDMSR);
    check_equal("nor 0xc0002000", try(write, 0xc0002000, 0), EXIT_WRMSR);
    check_equal("nor 0x40000000", try(write, 0x40000000, 0), EXIT_WRMSR);
}

/* FS and GS bases and the SYSENTER registers are the guest's own. */
static void of_the_guest(void)
{
    const void *write = CODE("wrmsr"), *read = CODE("rdmsr");
    wrmsr(MSR_SYSENTER_CS, 0);
    check_equal("WRMSR of IA32_SYSENTER_CS", try(write, MSR_SYSENTER_CS, 0x18), EXIT_VMCALL);
    check_equal("is saved", get(GUEST_SYSENTER_CS), 0x18);
    check_equal("and not the host's", rdmsr(MSR_SYSENTER_CS), 0);
    check_equal("WRMSR of IA32_SYSENTER_ESP", try(write, MSR_SYSENTER_ESP, 0x7000), EXIT_VMCALL);
    check_equal("is saved", get(GUEST_SYSENTER_ESP), 0x7000);
    check_equal("WRMSR of IA32_FS_BASE", try(write, MSR_FS_BASE, 0x123000), EXIT_VMCALL);
    check_equal("is saved", get(GUEST_FS_BASE), 0x123000);
    check_equal("and not the host's", rdmsr(MSR_FS_BASE), 0);
    set(GUEST_GS_BASE, 0x456000);
    check_equal("RDMSR of IA32_GS_BASE", try(read, MSR_GS_BASE, 0), EXIT_VMCALL);
    check_equal("reads the guest's", value_read(), 0x456000);
    set(EXCEPTION_BITMAP, 1 << GP);
    check_equal("WRMSR of a non-canonical IA32_FS_BASE", try(write, MSR_FS_BASE, 1ull << 63), EXIT_EXCEPTION_OR_NMI);
    set(EXCEPTION_BITMAP, 0);
}

static void pat_and_efer(void)
{
    if (!offered(VM_ENTRY_CONTROLS, ENTRY_LOADS_PAT | ENTRY_LOADS_EFER) ||
        !offered(VM_EXIT_CONTROLS, SAVE_PAT | EXIT_LOADS_PAT | SAVE_EFER | EXIT_LOADS_EFER)) {
        skip("loading of IA32_PAT and IA32_EFER");
        return;
    }
    u64 pat = rdmsr(MSR_PAT), efer = rdmsr(MSR_EFER);
    enable(VM_ENTRY_CONTROLS, ENTRY_LOADS_PAT | ENTRY_LOADS_EFER);
    enable(VM_EXIT_CONTROLS, SAVE_PAT | EXIT_LOADS_PAT | SAVE_EFER | EXIT_LOADS_EFER);
    set(GUEST_PAT, 0x0606060606060606);
    set(GUEST_EFER, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    set(HOST_PAT, pat);
    set(HOST_EFER, efer);
    check_equal("a PAT of the guest's", try(CODE("rdmsr"), MSR_PAT, 0), EXIT_VMCALL);
    check_equal("which it reads", value_read(), 0x0606060606060606);
    check_equal("the host has its own", rdmsr(MSR_PAT), pat);
    check_equal("an EFER of the guest's", try(CODE("rdmsr"), MSR_EFER, 0), EXIT_VMCALL);
    check_equal("which it reads", value_read(), EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    check_equal("the host has its own", rdmsr(MSR_EFER), efer);
    check_equal("writes", try(CODE("wrmsr"), MSR_EFER, EFER_LME | EFER_LMA | EFER_NXE), EXIT_VMCALL);
    check_equal("are saved", get(GUEST_EFER), EFER_LME | EFER_LMA | EFER_NXE);
    disable(VM_ENTRY_CONTROLS, ENTRY_LOADS_PAT | ENTRY_LOADS_EFER);
    disable(VM_EXIT_CONTROLS, SAVE_PAT | EXIT_LOADS_PAT | SAVE_EFER | EXIT_LOADS_EFER);
}

static void lists(void)
{
    struct msr_entry *at_entry = new_pages(1), *stored = at_entry + 16, *at_exit = at_entry + 32;
    at_entry[0] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0x1000};
    at_entry[1] = (struct msr_entry){MSR_LSTAR, 0, 0x2000};
    stored[0] = (struct msr_entry){MSR_LSTAR, 0, 0};
    stored[1] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0};
    at_exit[0] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0x3000};
    at_exit[1] = (struct msr_entry){MSR_LSTAR, 0, 0x4000};
    set(VM_ENTRY_MSR_LOAD_ADDRESS, (u64)at_entry);
    set(VM_ENTRY_MSR_LOAD_COUNT, 2);
    set(VM_EXIT_MSR_STORE_ADDRESS, (u64)stored);
    set(VM_EXIT_MSR_STORE_COUNT, 2);
    set(VM_EXIT_MSR_LOAD_ADDRESS, (u64)at_exit);
    set(VM_EXIT_MSR_LOAD_COUNT, 2);
    check_equal("lists: entries load", try(CODE("rdmsr"), MSR_LSTAR, 0), EXIT_VMCALL);
    check_equal("what the guest reads", value_read(), 0x2000);
    check_equal("exits store", stored[1].value, 0x1000);
    check_equal("in their own order", stored[0].value, 0x2000);
    check_equal("then load", rdmsr(MSR_KERNEL_GS_BASE), 0x3000);
    check_equal("all of them", rdmsr(MSR_LSTAR), 0x4000);
    check_equal("the guest writes", try(CODE("wrmsr"), MSR_LSTAR, 0x5000), EXIT_VMCALL);
    check_equal("what the exit stores", stored[0].value, 0x5000);

    static const struct {
        const char *name;
        struct msr_entry entry;
    } refused[] = {
        {"IA32_FS_BASE in the entry's list", {MSR_FS_BASE, 0, 0}},
        {"IA32_GS_BASE", {MSR_GS_BASE, 0, 0}},
        {"an MSR of the x2APIC", {0x808, 0, 0}},
        {"reserved bits", {MSR_LSTAR, 1, 0}},
        {"a value that WRMSR refuses", {MSR_LSTAR, 0, 1ull << 63}},
        {"an MSR that does not exist", {ABSENT, 0, 0}},
    };
    for (size_t index = 0; index < sizeof refused / sizeof *refused; index++) {
        at_entry[1] = refused[index].entry;
        wrmsr(MSR_LSTAR, 0);
        check_equal(refused[index].name, try(CODE("nop"), 0, 0), ENTRY_FAILURE_MSR_LOADING);
        check_equal("is the second", get(EXIT_QUALIFICATION), 2);
        check_equal("the exit's list is loaded", rdmsr(MSR_LSTAR), 0x4000);
    }
    at_entry[1] = (struct msr_entry){MSR_LSTAR, 0, 0x2000};
    check_equal("and all is well again", try(CODE("nop"), 0, 0), EXIT_VMCALL);
}

void run(void)
{
    vmx_begin();
    bitmap = new_pages(1);
    vmcs_begin(&guest);
    bitmaps();
    of_the_guest();
    pat_and_efer();
    lists();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
