/*
 * The time-stamp counter: monotony by every way of reading it, TSC_ADJUST, writes, TSD, RDTSCP and RDPID (SDM vol. 3,
 * 17.17).
 */
#include "apic.h"

static u64 rdtscp(u32 *aux)
{
    u32 low, high;
    EMIT("rdtscp" : "=a"(low), "=d"(high), "=c"(*aux));
    return (u64)high << 32 | low;
}

static void monotony(void)
{
    u64 last = rdtsc();
    u32 aux;
    bool rising = true;
    for (int turn = 0; turn < 10000; turn++) {
        u64 ways[3] = {rdtsc(), rdtscp(&aux), turn % 100 ? rdtsc() : rdmsr(MSR_TSC)};
        for (int way = 0; way < 3; way++) {
            rising &= ways[way] >= last;
            last = ways[way];
        }
    }
    check("it never falls, read by RDTSC, RDTSCP or RDMSR", rising);
    u64 before = rdtsc();
    for (volatile int turns = 0; turns < 100000; turns++)
        EMIT("pause");
    check("it rises", rdtsc() > before);
    apic_enable();
    apic_timer(APIC_ONE_SHOT, 0x40, 100000);
    before = rdtsc();
    (void)CATCH(EMIT("sti\n hlt\n nop"));
    EMIT("cli");
    check("also while the processor sleeps", caught.vector == 0x40 && rdtsc() > before);
    apic_end_of_interrupt();
}

static void writes(void)
{
    wrmsr(MSR_TSC, 1ull << 40);
    u64 now = rdtsc();
    check("a write sets it", now >= 1ull << 40 && now < (1ull << 40) + (1ull << 36));
    if (!(cpuid(7, 0).b >> 1 & 1)) {
        skip("TSC_ADJUST");
        return;
    }
    u64 adjust = rdmsr(MSR_TSC_ADJUST);
    check("TSC_ADJUST moved with it", adjust != 0);
    now = rdtsc();
    wrmsr(MSR_TSC_ADJUST, adjust + (1ull << 44));
    u64 later = rdtsc();
    check("TSC_ADJUST moves it", later >= now + (1ull << 44) && later < now + (1ull << 44) + (1ull << 36));
    check_equal("and is read back", rdmsr(MSR_TSC_ADJUST), adjust + (1ull << 44));
    wrmsr(MSR_TSC_ADJUST, 0);
    check("0 restores the hardware's own count", rdtsc() < 1ull << 40);
}

static void who_may_read(void)
{
    WORKS("RDTSC at CPL 3", RING_3((void)rdtsc()));
    write_cr4(read_cr4() | CR4_TSD);
    FAULTS("RDTSC at CPL 3 under TSD", GP, 0, RING_3((void)rdtsc()));
    u32 aux;
    FAULTS("RDTSCP at CPL 3 under TSD", GP, 0, RING_3((void)rdtscp(&aux)));
    WORKS("RDTSC at CPL 0 under TSD", (void)rdtsc());
    write_cr4(read_cr4() & ~CR4_TSD);
}

static void processor_identity(void)
{
    wrmsr(MSR_TSC_AUX, 0x12345678);
    u32 aux;
    (void)rdtscp(&aux);
    check_equal("RDTSCP: ECX is TSC_AUX", aux, 0x12345678);
    FAULTS("TSC_AUX has 32 bits", GP, 0, wrmsr(MSR_TSC_AUX, 1ull << 32));
    if (cpuid(7, 0).c >> 22 & 1) {
        u64 identity;
        EMIT("rdpid %0" : "=r"(identity));
        check_equal("RDPID", identity, 0x12345678);
        WORKS("RDPID at CPL 3, even under TSD", write_cr4(read_cr4() | CR4_TSD); RING_3(EMIT("rdpid %0"
                                                                                             : "=r"(identity))));
        write_cr4(read_cr4() & ~CR4_TSD);
    } else {
        skip("RDPID");
    }
    /* Linux keeps the processor's number in a segment limit for those who lack RDPID. */
    set_descriptor(FREE, 0, 0x7001, DATA | DPL(3), 0);
    u32 limit;
    RING_3(EMIT("lsl %0, %1" : "=r"(limit) : "r"((u32)FREE | 3) : "cc"));
    check_equal("LSL gives our number, not the host's", limit, 0x7001);
}

void run(void)
{
    monotony();
    writes();
    who_may_read();
    processor_identity();
}
