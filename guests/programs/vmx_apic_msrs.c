/*
 * The MSRs of x2APIC mode, virtualized: which come from the virtual-APIC page, with and without virtualized registers,
 * and what comes first (SDM vol. 3, 30.5).
 */
#include "apic.h"
#include "vmx.h"

/* The MSR of a register. */
#define MSR_OF(offset) (MSR_X2APIC + (offset) / 16)
enum { SELF_IPI = 0x3f0, READ_LOW = 0, WRITE_LOW = 2048 };

static u8 *virtual, *bitmaps;

static u64 *reg(u32 offset) { return (u64 *)(virtual + offset); }

static u32 read_msr(u32 offset)
{
    begin_at(&guest, CODE("rdmsr"));
    guest.registers.cx = MSR_OF(offset);
    guest.registers.ax = guest.registers.dx = ~0ull;
    return enter(&guest);
}

static u32 write_msr(u32 offset, u64 value)
{
    begin_at(&guest, CODE("wrmsr"));
    guest.registers.cx = MSR_OF(offset);
    guest.registers.ax = (u32)value;
    guest.registers.dx = value >> 32;
    return enter(&guest);
}

static u64 value(void) { return (u32)guest.registers.ax | guest.registers.dx << 32; }

/* The guest's #GP(0) exits. */
static void check_refused(const char *name, u32 reason)
{
    check_equal(name, reason, EXIT_EXCEPTION_OR_NMI);
    check_equal("#GP", get(VM_EXIT_INTERRUPTION_INFORMATION) & 0xff, 13);
}

static void task_priority(void)
{
    *reg(APIC_TPR) = 0x1234567800000035;
    check_equal("TPR", read_msr(APIC_TPR), EXIT_VMCALL);
    check_equal("is read with what is above it", value(), 0x1234567800000035);
    check_equal("written", write_msr(APIC_TPR, 0x64), EXIT_VMCALL);
    check_equal("8 bytes", *reg(APIC_TPR), 0x64);
    check_refused("a value beyond it", write_msr(APIC_TPR, 0x100));
    check_refused("and beyond 32 bits", write_msr(APIC_TPR, 1ull << 32));
    check_equal("is not written", *reg(APIC_TPR), 0x64);
    set(TPR_THRESHOLD, 6);
    check_equal("at the threshold", write_msr(APIC_TPR, 0x60), EXIT_VMCALL);
    check_equal("below it", write_msr(APIC_TPR, 0x5f), EXIT_TPR_BELOW_THRESHOLD);
    check_equal("it is done", *reg(APIC_TPR), 0x5f);
    set(TPR_THRESHOLD, 0);
}

static void others(void)
{
    check_refused("another register, in xAPIC mode", read_msr(APIC_VERSION));
    check_refused("written", write_msr(APIC_SPURIOUS, 0x1ff));
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, APIC_REGISTER_VIRTUALIZATION, "APIC-register virtualization");
    static const u16 registers[] = {0, APIC_ID, APIC_VERSION, APIC_PPR, APIC_ICR, APIC_CURRENT_COUNT, 0xff0};
    for (size_t index = 0; index < sizeof registers / sizeof *registers; index++) {
        *reg(registers[index]) = 0x5500000000000000 | registers[index];
        check_equal("every register", read_msr(registers[index]), EXIT_VMCALL);
        check_equal("is read", value(), 0x5500000000000000 | registers[index]);
    }
    check_refused("none but TPR is written", write_msr(APIC_SPURIOUS, 0x1ff));
    disable(SECONDARY_CONTROLS, APIC_REGISTER_VIRTUALIZATION);
}

static void intercepted(void)
{
    bitmaps[READ_LOW + MSR_OF(APIC_TPR) / 8] = bitmaps[WRITE_LOW + MSR_OF(APIC_TPR) / 8] = 0xff;
    check_equal("the bitmaps come first", read_msr(APIC_TPR), EXIT_RDMSR);
    check_equal("for both", write_msr(APIC_TPR, 0x100), EXIT_WRMSR);
    bitmaps[READ_LOW + MSR_OF(APIC_TPR) / 8] = bitmaps[WRITE_LOW + MSR_OF(APIC_TPR) / 8] = 0;
    begin_at(&guest, CODE("rdmsr"));
    begin_at_ring_3();
    guest.registers.cx = MSR_OF(APIC_TPR);
    check_refused("so does the privilege", enter(&guest));
}

static void interrupts(void)
{
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, VIRTUAL_INTERRUPT_DELIVERY, "virtual-interrupt delivery");
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    set(GUEST_INTERRUPT_STATUS, 0x6100);
    set(EOI_EXIT_BITMAP_1, 1ull << (0x61 - 64));
    *reg(APIC_ISR + 0x30) = 1 << 1;
    check_refused("EOI of something", write_msr(APIC_EOI, 1));
    check_equal("EOI", write_msr(APIC_EOI, 0), EXIT_VIRTUALIZED_EOI);
    check_equal("ends what is in service", *reg(APIC_ISR + 0x30), 0);
    check_equal("the vector is told", get(EXIT_QUALIFICATION), 0x61);
    check_equal("and the status", get(GUEST_INTERRUPT_STATUS), 0);
    check_refused("SELF IPI beyond vectors", write_msr(SELF_IPI, 0x100));
    check_equal("with a vector that none is", write_msr(SELF_IPI, 0xf), EXIT_APIC_WRITE);
    check_equal("is told", get(EXIT_QUALIFICATION), SELF_IPI);
    check_equal("SELF IPI", write_msr(SELF_IPI, 0x51), EXIT_VMCALL);
    check_equal("is requested", *reg(APIC_IRR + 0x20), 1 << 17);
    check_equal("as the status tells", get(GUEST_INTERRUPT_STATUS), 0x51);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    virtual = new_pages(1);
    bitmaps = new_pages(1);
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, VIRTUALIZE_X2APIC_MODE, "virtualized x2APIC mode");
    enable(PRIMARY_CONTROLS, USE_TPR_SHADOW | USE_MSR_BITMAPS);
    set(VIRTUAL_APIC_ADDRESS, (u64)virtual);
    set(MSR_BITMAPS, (u64)bitmaps);
    set(TPR_THRESHOLD, 0);
    set(EXCEPTION_BITMAP, 1 << 13);
    task_priority();
    others();
    intercepted();
    interrupts();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
