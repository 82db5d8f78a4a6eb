/*
 * Instructions that exit always, or where a control says so: reason, length, qualification, and that they execute
 * where it does not (SDM vol. 3, 26.1.2, 26.1.3, 28.2).
 */
#include "vmx.h"

enum { LINEAR = 0x123000, ALWAYS = 0 };

struct instruction {
    const char *name;
    u32 controls, bits; /* what makes it exit */
    u32 reason, length;
    u64 qualification;
    bool runs; /* without it, it executes */
    void *code;
};

static void prepare_registers(void)
{
    guest.registers = (struct guest_registers){.ax = LINEAR, .si = LINEAR};
}

static void exits(const struct instruction *instruction)
{
    begin_at(&guest, instruction->code);
    prepare_registers();
    check_equal(instruction->name, enter(&guest), instruction->reason);
    check_instruction("length and qualification", instruction->length, instruction->qualification);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)instruction->code);
    skip_instruction();
    check_equal("the guest goes on behind it", enter(&guest), EXIT_VMCALL);
}

static void try(const struct instruction *instruction)
{
    if (!offered(instruction->controls ? instruction->controls : PIN_BASED_CONTROLS, instruction->bits)) {
        skip(instruction->name);
        return;
    }
    if (instruction->controls && instruction->runs) {
        begin_at(&guest, instruction->code);
        prepare_registers();
        check_equal("no exit", enter(&guest), EXIT_VMCALL);
    }
    if (instruction->controls)
        enable(instruction->controls, instruction->bits);
    exits(instruction);
    if (instruction->controls)
        disable(instruction->controls, instruction->bits);
}

static void controlled(void)
{
    const struct instruction instructions[] = {
        {"HLT exiting", PRIMARY_CONTROLS, HLT_EXITING, EXIT_HLT, 1, 0, false, CODE("hlt")},
        {"INVLPG exiting", PRIMARY_CONTROLS, INVLPG_EXITING, EXIT_INVLPG, 3, LINEAR, true, CODE("invlpg [rax]")},
        {"INVLPG exiting, with a displacement", PRIMARY_CONTROLS, INVLPG_EXITING, EXIT_INVLPG, 4, LINEAR - 8, true,
         CODE("invlpg [rax - 8]")},
        {"RDTSC exiting", PRIMARY_CONTROLS, RDTSC_EXITING, EXIT_RDTSC, 2, 0, true, CODE("rdtsc")},
        {"RDPMC exiting", PRIMARY_CONTROLS, RDPMC_EXITING, EXIT_RDPMC, 2, 0, false, CODE("rdpmc")},
        {"PAUSE exiting", PRIMARY_CONTROLS, PAUSE_EXITING, EXIT_PAUSE, 2, 0, true, CODE("pause")},
        {"MOV-DR exiting, to DR0", PRIMARY_CONTROLS, MOV_DR_EXITING, EXIT_MOV_DR, 3, 0, true, CODE("mov dr0, rax")},
        {"MOV-DR exiting, from DR6", PRIMARY_CONTROLS, MOV_DR_EXITING, EXIT_MOV_DR, 4, 6 | 1 << 4 | 9 << 8, true,
         CODE("mov r9, dr6")},
        {"WBINVD exiting", SECONDARY_CONTROLS, WBINVD_EXITING, EXIT_WBINVD, 2, 0, true, CODE("wbinvd")},
        {"RDRAND exiting", SECONDARY_CONTROLS, RDRAND_EXITING, EXIT_RDRAND, 3, 0, true, CODE("rdrand ecx")},
        {"RDSEED exiting", SECONDARY_CONTROLS, RDSEED_EXITING, EXIT_RDSEED, 4, 0, true, CODE("rdseed r10d")},
    };
    for (size_t index = 0; index < sizeof instructions / sizeof *instructions; index++)
        try(&instructions[index]);
}

static void unconditional(void)
{
    const struct instruction instructions[] = {
        {"CPUID", ALWAYS, 0, EXIT_CPUID, 2, 0, true, CODE("cpuid")},
        {"CPUID with prefixes", ALWAYS, 0, EXIT_CPUID, 5, 0, true, CODE(".byte 0x66, 0x3e, 0x48, 0x0f, 0xa2")},
        {"INVD", ALWAYS, 0, EXIT_INVD, 2, 0, true, CODE("invd")},
        {"VMCALL", ALWAYS, 0, EXIT_VMCALL, 3, 0, true, CODE("vmcall")},
    };
    for (size_t index = 0; index < sizeof instructions / sizeof *instructions; index++)
        try(&instructions[index]);
}

/* The qualification says whether the address range is armed (SDM vol. 3, 28.2.1). */
static void monitor_and_mwait(void)
{
    if (!(cpuid(1, 0).c >> 3 & 1)) {
        skip("MONITOR and MWAIT");
        return;
    }
    const struct instruction monitor = {
        "MONITOR exiting", PRIMARY_CONTROLS, MONITOR_EXITING, EXIT_MONITOR, 3, 0, true, CODE("monitor"),
    };
    try(&monitor);
    ENABLE_OR_SKIP(PRIMARY_CONTROLS, MWAIT_EXITING, "MWAIT exiting");
    begin_at(&guest, CODE("mov rax, rsp\n xor ecx, ecx\n xor edx, edx\n monitor\n xor eax, eax\n mwait"));
    check_equal("MWAIT exiting", enter(&guest), EXIT_MWAIT);
    check_equal("which is 3 bytes long", get(VM_EXIT_INSTRUCTION_LENGTH), 3);
    disable(PRIMARY_CONTROLS, MWAIT_EXITING);
}

static void xsetbv(void)
{
    if (!(cpuid(1, 0).c >> 26 & 1)) {
        skip("XSAVE");
        return;
    }
    u64 cr4 = get(GUEST_CR4);
    set(GUEST_CR4, cr4 | CR4_OSXSAVE);
    const struct instruction instruction = {"XSETBV", ALWAYS, 0, EXIT_XSETBV, 3, 0, true, CODE("xsetbv")};
    exits(&instruction);
    set(GUEST_CR4, cr4);
}

static u64 before[15], after[15];

/* An exit saves no register but the VMCS's, and changes none. */
static void registers(void)
{
    begin_at(&guest, CODE("cpuid"));
    for (unsigned index = 0; index < 15; index++)
        before[index] = 0x0101010101010101ull * (index + 1);
    memcpy(&guest.registers, before, sizeof before);
    check_equal("CPUID with all registers set", enter(&guest), EXIT_CPUID);
    memcpy(after, &guest.registers, sizeof after);
    check_equal("arrive as they were", memcmp(before, after, sizeof before), 0);
    prepare_registers();
}

/* What exits only without a fault (SDM vol. 3, 26.1.1); and a few that do not exist but by a control. */
static void faults(void)
{
    FAULTS("HLT at CPL 3 faults", GP, 0, RING_3(EMIT("hlt")));
    FAULTS("INVD at CPL 3", GP, 0, RING_3(EMIT("invd")));
    FAULTS("WBINVD at CPL 3", GP, 0, RING_3(EMIT("wbinvd")));
    FAULTS("INVLPG at CPL 3", GP, 0, RING_3(EMIT("invlpg [rax]" : : "a"(0))));
    FAULTS("XSETBV without OSXSAVE", UD, 0, EMIT("xsetbv" : : "a"(0), "c"(0), "d"(0)));
    FAULTS("RDTSCP not enabled", UD, 0, EMIT("rdtscp" : : : "eax", "ecx", "edx"));
    u64 descriptor[2] = {0, 0};
    FAULTS("INVPCID not enabled", UD, 0, EMIT("invpcid rax, [rcx]" : : "a"(2), "c"(descriptor)));
    write_cr4(read_cr4() | CR4_TSD);
    FAULTS("RDTSC at CPL 3 with TSD", GP, 0, RING_3(EMIT("rdtsc" : : : "eax", "edx")));
    write_cr4(read_cr4() & ~CR4_TSD);
}

/* MOV DR is the exception: its exit comes before faults for the CPL and CR4.DE (SDM vol. 3, 26.1.3). */
static void mov_dr_at_ring_3(void) { RING_3(EMIT("mov dr0, rax")); }

static void mov_dr_before_faults(void)
{
    enable(PRIMARY_CONTROLS, MOV_DR_EXITING);
    begin_at(&guest, mov_dr_at_ring_3);
    check_equal("MOV to DR0 at CPL 3 exits before it faults", enter(&guest), EXIT_MOV_DR);
    u64 cr4 = get(GUEST_CR4);
    set(GUEST_CR4, cr4 | CR4_DE);
    EXITS("so does MOV to DR4 with DE set", EXIT_MOV_DR, "mov dr4, rax");
    check_equal("its number", get(EXIT_QUALIFICATION) & 7, 4);
    set(GUEST_CR4, cr4);
    disable(PRIMARY_CONTROLS, MOV_DR_EXITING);
}

static void rdtscp(void)
{
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, ENABLE_RDTSCP, "RDTSCP in guests");
    RUNS("RDTSCP enabled", "rdtscp");
    const struct instruction instruction = {
        "RDTSCP under RDTSC exiting", PRIMARY_CONTROLS, RDTSC_EXITING, EXIT_RDTSCP, 3, 0, true, CODE("rdtscp"),
    };
    try(&instruction);
    disable(SECONDARY_CONTROLS, ENABLE_RDTSCP);
}

static void invpcid(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_INVPCID)) {
        skip("INVPCID in guests");
        return;
    }
    enable(SECONDARY_CONTROLS, ENABLE_INVPCID);
    RUNS("INVPCID enabled", "push 0\n push 0\n mov eax, 2\n invpcid rax, [rsp]");
    enable(PRIMARY_CONTROLS, INVLPG_EXITING);
    EXITS("INVPCID under INVLPG exiting", EXIT_INVPCID, "invpcid rax, [rsp + 8]");
    check_instruction("length and displacement", 6 + 1, 8);
    disable(PRIMARY_CONTROLS, INVLPG_EXITING);
    disable(SECONDARY_CONTROLS, ENABLE_INVPCID);
}

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    unconditional();
    controlled();
    monitor_and_mwait();
    xsetbv();
    registers();
    rdtscp();
    invpcid();
    mov_dr_before_faults();
    enable(PRIMARY_CONTROLS, HLT_EXITING | INVLPG_EXITING | RDTSC_EXITING);
    run_guest("faults come before exits", faults);
    disable(PRIMARY_CONTROLS, HLT_EXITING | INVLPG_EXITING | RDTSC_EXITING);
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
