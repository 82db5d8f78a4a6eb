/* More processors than the first: INIT and start-up IPIs (SDM vol. 3, 8.4.4), work for each, meeting points. */
#ifndef PROCESSORS_H
#define PROCESSORS_H

#include "apic.h"

enum { PROCESSORS = 8, TRAMPOLINE = 0x8000, APIC_INIT = 5 << 8, APIC_START_UP = 6 << 8, APIC_ASSERT = 1 << 14 };

/* What a processor does, told its number, which is its APIC ID. */
typedef void work(unsigned processor);

/* Start processors 1 to `count` - 1; they wait for work. */
void start_processors(unsigned count);
/* Have a processor do something; `wait_for_processor` returns when it is done. */
void begin_work(unsigned processor, work *work);
void wait_for_processor(unsigned processor);
/* Have processors 0 to `count` - 1, the caller among them, do it at the same time. */
void together(unsigned count, work *work);

/* Returns once `count` processors have come here. */
void meet(unsigned count);

/* How many processors have come out of a start-up IPI. */
extern volatile u32 processors_started;

/* Send an IPI: `what` is the low half of the ICR. */
static inline void send_ipi(unsigned processor, u32 what)
{
    apic_write(APIC_ICR_HIGH, processor << 24);
    apic_write(APIC_ICR, APIC_ASSERT | what);
}

static inline void pause(void) { asm volatile("pause" : : : "memory"); }
static inline void serialize(void) { (void)cpuid(0, 0); }
static inline unsigned this_processor(void) { return cpuid(1, 0).b >> 24; }

#endif
