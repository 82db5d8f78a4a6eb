/* More processors than the first. */
#include "processors.h"

#ifdef __x86_64__

extern u8 trampoline[], trampoline_end[];

volatile u32 processors_started = 1;
static work *volatile work_of[PROCESSORS];
static volatile u32 arrived, meeting;

/* The end of the trampoline: wait for work, for ever. */
void processor_begins(unsigned processor)
{
    struct table table = {sizeof idt - 1, (word)idt};
    asm volatile("lidt %0" : : "m"(table));
    write_cr4(read_cr4() | CR4_OSFXSR);
    apic_enable();
    __atomic_fetch_add(&processors_started, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        while (!work_of[processor])
            pause();
        work_of[processor](processor);
        work_of[processor] = NULL;
    }
}

void start_processors(unsigned count)
{
    apic_enable();
    memcpy((void *)TRAMPOLINE, trampoline, trampoline_end - trampoline);
    for (unsigned processor = 1; processor < count; processor++) {
        send_ipi(processor, APIC_INIT);
        send_ipi(processor, APIC_START_UP | TRAMPOLINE / PAGE);
        /* What has started takes no other. */
        send_ipi(processor, APIC_START_UP | TRAMPOLINE / PAGE);
    }
    while (processors_started < count)
        pause();
}

void begin_work(unsigned processor, work *work) { work_of[processor] = work; }

void wait_for_processor(unsigned processor)
{
    while (work_of[processor])
        pause();
}

void together(unsigned count, work *work)
{
    for (unsigned processor = 1; processor < count; processor++)
        begin_work(processor, work);
    work(0);
    for (unsigned processor = 1; processor < count; processor++)
        wait_for_processor(processor);
}

void meet(unsigned count)
{
    u32 now = meeting;
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count) {
        arrived = 0;
        meeting = now + 1;
        return;
    }
    while (meeting == now)
        pause();
}

#endif
