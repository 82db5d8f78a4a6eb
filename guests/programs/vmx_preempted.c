/*
 * Guests that are stopped anywhere: by interrupts of a fast timer, by the preemption timer, by single steps of the
 * monitor trap flag. However often, they compute the same (SDM vol. 3, 26.2, 26.5). How often does not matter here.
 */
#include "apic.h"
#include "vmx.h"

enum { VECTOR = 0x51, LENGTH = 4096, ROUNDS = 40, STEPPED = 64 };

static u8 from[LENGTH], to[LENGTH];

/* Arithmetic with flags, memory, strings, calls: a sum of all. */
__attribute__((noinline)) static u64 mix(u64 value, u64 with)
{
    asm("add %0, %1\n adc %0, 0\n ror %0, 7\n bt %0, 3\n rcl %0, 1" : "+r"(value) : "r"(with) : "cc");
    return value;
}

static u64 compute(u64 length)
{
    u64 sum = 1, count = length;
    u8 *source = from, *target = to;
    asm volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
    for (u64 index = 0; index < length; index++) {
        sum = mix(sum, to[index]);
        to[index] = sum;
    }
    return sum;
}

static u64 expected, got;

static void rounds(void)
{
    got = 0;
    for (unsigned round = 0; round < ROUNDS; round++)
        got += compute(LENGTH);
}

static void steps(void) { got = compute(STEPPED); }

/* Enter until the guest ends; the exits by `reason` are what stops it. */
static bool to_the_end(u32 reason, void (*after)(void))
{
    for (;;) {
        u32 exit = enter(&guest);
        if (exit != reason)
            return exit == EXIT_VMCALL;
        after();
    }
}

static u64 stops;

static void count(void) { stops++; }

static void acknowledge(void)
{
    stops++;
    apic_end_of_interrupt();
}

static void by_interrupts(u64 flags)
{
    enable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    enable(VM_EXIT_CONTROLS, ACKNOWLEDGE_INTERRUPT_ON_EXIT);
    apic_timer(APIC_PERIODIC, VECTOR, 20000);
    stops = 0;
    begin_at(&guest, rounds);
    set(GUEST_RFLAGS, FLAG_FIXED | flags);
    check("interrupts", to_the_end(EXIT_EXTERNAL_INTERRUPT, acknowledge));
    check_equal("the guest computes the same", got, expected);
    apic_write(APIC_TIMER, APIC_MASKED);
    apic_write(APIC_INITIAL_COUNT, 0);
    disable(PIN_BASED_CONTROLS, EXTERNAL_INTERRUPT_EXITING);
    EMIT("sti\n nop\n cli");
}

static void by_the_preemption_timer(void)
{
    ENABLE_OR_SKIP(PIN_BASED_CONTROLS, ACTIVATE_PREEMPTION_TIMER, "VMX-preemption timer");
    set(VMX_PREEMPTION_TIMER_VALUE, 2000);
    stops = 0;
    begin_at(&guest, rounds);
    check("the preemption timer", to_the_end(EXIT_PREEMPTION_TIMER, count));
    check_equal("the guest computes the same", got, expected);
    disable(PIN_BASED_CONTROLS, ACTIVATE_PREEMPTION_TIMER);
}

static void by_steps(void)
{
    ENABLE_OR_SKIP(PRIMARY_CONTROLS, MONITOR_TRAP_FLAG, "monitor trap flag");
    u64 same = compute(STEPPED);
    stops = 0;
    begin_at(&guest, steps);
    check("every instruction", to_the_end(EXIT_MONITOR_TRAP_FLAG, count));
    check_equal("the guest computes the same", got, same);
    check("and was stopped as often", stops > STEPPED * 5);
    disable(PRIMARY_CONTROLS, MONITOR_TRAP_FLAG);
}

static void nothing(struct frame *frame)
{
    (void)frame;
    apic_end_of_interrupt();
}

void run(void)
{
    apic_enable();
    vmx_begin();
    vmcs_begin(&guest);
    handlers[VECTOR] = nothing;
    for (unsigned index = 0; index < LENGTH; index++)
        from[index] = index * 37;
    rounds();
    expected = got;
    run_guest("undisturbed", rounds);
    check_equal("the guest computes what the host does", got, expected);
    by_interrupts(FLAG_IF);
    by_the_preemption_timer();
    by_steps();
    if (offered(SECONDARY_CONTROLS, ENABLE_EPT)) {
        enable_ept();
        by_interrupts(FLAG_IF);
        by_the_preemption_timer();
        by_steps();
    } else {
        skip("EPT");
    }
    by_interrupts(0);
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
