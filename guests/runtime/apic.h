/* The local APIC, by its registers in memory (SDM vol. 3, chapter 10). */
#ifndef APIC_H
#define APIC_H

#include "guest.h"

#define APIC_BASE 0xfee00000ul

enum apic_register {
    APIC_ID = 0x20, APIC_VERSION = 0x30, APIC_TPR = 0x80, APIC_PPR = 0xa0, APIC_EOI = 0xb0, APIC_LDR = 0xd0,
    APIC_DFR = 0xe0, APIC_SPURIOUS = 0xf0, APIC_ISR = 0x100, APIC_TMR = 0x180, APIC_IRR = 0x200, APIC_ERROR = 0x280,
    APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310, APIC_TIMER = 0x320, APIC_LINT0 = 0x350, APIC_LINT1 = 0x360,
    APIC_INITIAL_COUNT = 0x380, APIC_CURRENT_COUNT = 0x390, APIC_DIVIDE = 0x3e0,
};

enum apic_timer_mode { APIC_ONE_SHOT = 0, APIC_PERIODIC = 1 << 17, APIC_DEADLINE = 2 << 17 };
enum {
    APIC_MASKED = 1 << 16, APIC_TO_SELF = 1 << 18, APIC_NMI = 4 << 8, APIC_EXTERNAL = 7 << 8,
    APIC_SOFTWARE_ENABLE = 0x100,
};

static inline u32 apic_read(u32 index) { return read32(APIC_BASE + index); }
static inline void apic_write(u32 index, u32 value) { write32(APIC_BASE + index, value); }

static inline void apic_enable(void) { apic_write(APIC_SPURIOUS, APIC_SOFTWARE_ENABLE | 0xff); }
static inline void apic_end_of_interrupt(void) { apic_write(APIC_EOI, 0); }
static inline void apic_send_self(u8 vector) { apic_write(APIC_ICR, APIC_TO_SELF | vector); }

/* The shorthand "self" delivers no NMI (SDM vol. 3, table 10-3): address our own ID. */
static inline void apic_send_self_nmi(void)
{
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    apic_write(APIC_ICR, 1 << 14 | APIC_NMI);
}

/* Start the timer, dividing by 1. */
static inline void apic_timer(u32 mode, u8 vector, u32 count)
{
    apic_write(APIC_DIVIDE, 0xb);
    apic_write(APIC_TIMER, mode | vector);
    apic_write(APIC_INITIAL_COUNT, count);
}

#endif
