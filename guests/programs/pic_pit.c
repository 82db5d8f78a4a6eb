/*
 * The two 8259s and the 8254: vectors, masks, what is pending; the counter's modes; then the same line
 * through the I/O APIC.
 */
#include "apic.h"

enum {
    MASTER = 0x20, SLAVE = 0xa0, MASTER_DATA = 0x21, SLAVE_DATA = 0xa1, END = 0x20, BASE = 0x30, SLAVE_BASE = 0x38,
    CHANNEL_0 = 0x40, CHANNEL_2 = 0x42, PIT_CONTROL = 0x43, GATE = 0x61, IO_APIC_VECTOR = 0x70,
};

static volatile unsigned count;

static void tick(struct frame *frame)
{
    (void)frame;
    count++;
    out8(MASTER, END);
}

static void initialize(void)
{
    static const u8 words[4][2] = {{0x11, 0x11}, {BASE, SLAVE_BASE}, {4, 2}, {1, 1}};
    out8(MASTER, words[0][0]);
    out8(SLAVE, words[0][1]);
    for (int index = 1; index < 4; index++) {
        out8(MASTER_DATA, words[index][0]);
        out8(SLAVE_DATA, words[index][1]);
    }
    out8(MASTER_DATA, 0xff);
    out8(SLAVE_DATA, 0xff);
    check_equal("the mask is read back", in8(MASTER_DATA), 0xff);
}

static void start_counter(u8 mode, u16 value)
{
    out8(PIT_CONTROL, 0x30 | mode << 1);
    out8(CHANNEL_0, value & 0xff);
    out8(CHANNEL_0, value >> 8);
}

static void wait_for(unsigned wanted)
{
    while (count < wanted)
        EMIT("sti\n hlt\n cli" : : : "memory");
}

/* An edge that came before the mask is still waiting: let it through while the counter is far from its end. */
static void drain(void)
{
    start_counter(0, 0xffff);
    out8(MASTER_DATA, 0xfe);
    EMIT("sti\n nop\n nop\n cli");
    out8(MASTER_DATA, 0xff);
}

static void ticks(void)
{
    /* Pass the 8259s' line through LINT0, as firmware does. */
    apic_enable();
    apic_write(APIC_LINT0, APIC_EXTERNAL);
    handlers[BASE] = tick;
    count = 0;
    start_counter(2, 5000);
    out8(MASTER_DATA, 0xfe);
    wait_for(3);
    check("the counter interrupts again and again (mode 2)", count >= 3);
    out8(MASTER_DATA, 0xff);
    drain();
    start_counter(0, 2000);
    count = 0;
    EMIT("sti\n nop\n cli");
    check_equal("masked, nothing comes", count, 0);
    out8(MASTER_DATA, 0xfe);
    wait_for(1);
    check_equal("the terminal count interrupts once (mode 0)", count, 1);
    out8(PIT_CONTROL, 0xe2);
    check_equal("read-back: OUT is high", in8(CHANNEL_0) & 0x80, 0x80);
    start_counter(2, 1000);
    out8(PIT_CONTROL, 0);
    u16 latched = in8(CHANNEL_0);
    latched |= in8(CHANNEL_0) << 8;
    check("a latched count is within its period", latched >= 1 && latched <= 1000);
    out8(MASTER_DATA, 0xff);
}

static void speaker_channel(void)
{
    out8(GATE, (in8(GATE) & ~3) | 1);
    out8(PIT_CONTROL, 0xb0);
    out8(CHANNEL_2, 0x00);
    out8(CHANNEL_2, 0x10);
    check_equal("channel 2: OUT is low while it counts", in8(GATE) & 0x20, 0);
    while (!(in8(GATE) & 0x20))
        EMIT("pause");
    check("channel 2: OUT rises at the terminal count", true);
}

static void what_is_pending(void)
{
    start_counter(0, 50);
    out8(MASTER, 0x0a);
    u64 start = rdtsc();
    while (!(in8(MASTER) & 1) && rdtsc() - start < 1000000000)
        EMIT("pause");
    check_equal("IRR shows the line, masked or not", in8(MASTER) & 1, 1);
    out8(MASTER, 0x0b);
    check_equal("ISR shows nothing in service", in8(MASTER), 0);
}

static u32 io_apic(u8 index, u32 value, bool write)
{
    write32(0xfec00000, index);
    if (write)
        write32(0xfec00010, value);
    return read32(0xfec00010);
}

static void arrive(struct frame *frame)
{
    (void)frame;
    count++;
    apic_end_of_interrupt();
}

static void through_the_io_apic(void)
{
    check("the I/O APIC has 24 entries", (io_apic(1, 0, false) >> 16 & 0xff) == 23);
    check_equal("entries start masked", io_apic(0x10 + 2 * 2, 0, false) & APIC_MASKED, APIC_MASKED);
    handlers[IO_APIC_VECTOR] = arrive;
    count = 0;
    io_apic(0x11 + 2 * 2, apic_read(APIC_ID) & 0xff000000, true);
    io_apic(0x10 + 2 * 2, IO_APIC_VECTOR, true);
    start_counter(2, 3000);
    wait_for(2);
    check("the timer arrives by I/O APIC input 2, edge-triggered", count >= 2);
    io_apic(0x10 + 2 * 2, IO_APIC_VECTOR | APIC_MASKED, true);
    EMIT("sti\n nop\n nop\n cli"); /* what had arrived before the mask */
    count = 0;
    start_counter(0, 100);
    EMIT("sti\n nop\n nop\n cli");
    check_equal("masked, it does not", count, 0);
}

void run(void)
{
    initialize();
    ticks();
    speaker_channel();
    what_is_pending();
    through_the_io_apic();
}
