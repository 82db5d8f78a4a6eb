/*
 * A hypervisor that times itself: VM exits and back by CPUID, and the same computation by itself and by its guest, with
 * EPT and a VPID as KVM uses them. Prints "NAME NUMBER" on port 0xe9; times are in ticks of 1 ns.
 */
#include "vmx.h"

enum { WARM = 2000, TURNS = 200000, ROUNDS = 5 };

static void tell(const char *name, u64 value)
{
    print(name);
    print(" ");
    print_hex(value);
    print("\n");
}

static void round_trips(void)
{
    begin_at(&guest, CODE("1: cpuid\n jmp 1b"));
    for (unsigned turn = 0; turn < WARM; turn++) {
        enter(&guest);
        skip_instruction();
    }
    u64 start = rdtsc();
    for (unsigned turn = 0; turn < TURNS; turn++) {
        enter(&guest);
        set(GUEST_RIP, get(GUEST_RIP) + 2);
    }
    tell("round_trip", (rdtsc() - start) / (TURNS / 1000));
}

static volatile u64 result;

/* Integers and memory: a sieve, and a hash of what it leaves. */
static void compute(void)
{
    static u8 composite[1 << 16];
    u64 hash = 14695981039346656037ull;
    for (unsigned pass = 0; pass < 40; pass++) {
        memset(composite, 0, sizeof composite);
        for (u64 number = 2; number * number < sizeof composite; number++)
            if (!composite[number])
                for (u64 multiple = number * number; multiple < sizeof composite; multiple += number)
                    composite[multiple] = 1;
        for (u64 number = 0; number < sizeof composite; number++)
            hash = (hash ^ composite[number]) * 1099511628211ull;
    }
    result = hash;
}

/* In turns, so that what disturbs the one disturbs the other. */
static void computations(void)
{
    u64 own = 0, guests = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        u64 start = rdtsc();
        compute();
        u64 middle = rdtsc(), expected = result;
        begin_at(&guest, compute);
        if (enter(&guest) != EXIT_VMCALL || result != expected)
            give_up("the guest computed something else");
        if (round) {
            own += middle - start;
            guests += rdtsc() - middle;
        }
    }
    tell("host", own);
    tell("guest", guests);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    u64 ept_pointer = new_ept();
    enable(PRIMARY_CONTROLS, ACTIVATE_SECONDARY_CONTROLS);
    enable(SECONDARY_CONTROLS, ENABLE_EPT | ENABLE_VPID);
    set(EPT_POINTER, ept_pointer);
    set(VIRTUAL_PROCESSOR_IDENTIFIER, 1);
    round_trips();
    computations();
    check("done", true);
}
