/*
 * A processor without KVM's signature has none of what comes with it: MSRs are #GP, hypercalls #UD (SDM vol. 3, 31.3;
 * Linux, Documentation/virt/kvm/x86/msr.rst).
 */
#include "guest.h"

void run(void)
{
    check("no signature", cpuid(0x40000000, 0).b != 0x4b4d564b);
    check_equal("no features", cpuid(0x40000001, 0).a, 0);
    static const u32 registers[] = {0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04};
    for (size_t i = 0; i < sizeof registers / sizeof *registers; i++) {
        FAULTS("read", GP, 0, (void)rdmsr(registers[i]));
        FAULTS("write", GP, 0, wrmsr(registers[i], 0));
    }
    FAULTS("VMCALL", UD, 0, EMIT("vmcall"));
    FAULTS("VMMCALL", UD, 0, EMIT("vmmcall"));
}
