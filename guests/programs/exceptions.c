/*
 * Each exception that an instruction can raise: vector, error code, and whether the saved RIP is the instruction (a
 * fault) or the next one (a trap) (SDM vol. 3, 6.15).
 */
#include "guest.h"

static void arithmetic(void)
{
    FAULTS("#DE: DIV by 0", DE, 0, EMIT("xor ecx, ecx\n" HERE "div ecx" : : : "eax", "ecx", "edx", "cc"));
    check_equal("#DE is a fault", caught.ip, marked);
    FAULTS("#DE: IDIV overflow", DE, 0,
           EMIT("mov eax, 0x80000000\n cdq\n mov ecx, -1\n idiv ecx" : : : "eax", "ecx", "edx", "cc"));
    FAULTS("#DE: 64-bit DIV overflow", DE, 0,
           EMIT("mov rdx, 5\n mov rcx, 5\n div rcx" : : : "rax", "rcx", "rdx", "cc"));
    FAULTS("#DE: 8-bit DIV overflow", DE, 0, EMIT("mov eax, 0x1000\n mov cl, 1\n div cl" : : : "eax", "ecx", "cc"));
    WORKS("the largest quotient", EMIT("mov rdx, 4\n mov rax, -1\n mov rcx, 5\n div rcx"
                                       : : : "rax", "rcx", "rdx", "cc"));
}

static void traps(void)
{
    FAULTS("#BP", BP, 0, EMIT(HERE "int3"));
    check_equal("#BP is a trap", caught.ip, marked + 1);
    FAULTS("#DB: INT1", DB, 0, EMIT(HERE ".byte 0xf1"));
    check_equal("INT1 is a trap", caught.ip, marked + 1);
    FAULTS("INTO does not exist in 64-bit mode", UD, 0, EMIT(".byte 0xce"));
    FAULTS("BOUND does not exist in 64-bit mode", UD, 0, EMIT(".byte 0x62, 0x00"));
}

static void invalid_opcodes(void)
{
    FAULTS("#UD: UD2", UD, 0, EMIT(HERE "ud2"));
    check_equal("#UD is a fault", caught.ip, marked);
    FAULTS("#UD: UD1", UD, 0, EMIT(".byte 0x0f, 0xb9, 0xc0"));
    FAULTS("#UD: PUSH ES in 64-bit mode", UD, 0, EMIT(".byte 0x06"));
    FAULTS("#UD: AAA in 64-bit mode", UD, 0, EMIT(".byte 0x37"));
    FAULTS("#UD: PUSHA in 64-bit mode", UD, 0, EMIT(".byte 0x60"));
    FAULTS("#UD: far JMP immediate in 64-bit mode", UD, 0, EMIT(".byte 0xea, 0, 0, 0, 0, 8, 0"));
    FAULTS("#UD: LOCK MOV", UD, 0, EMIT(".byte 0xf0, 0x89, 0x00"));
    FAULTS("#UD: LOCK ADD to a register", UD, 0, EMIT(".byte 0xf0, 0x01, 0xc0"));
    FAULTS("#UD: MOV to CR1", UD, 0, EMIT(".byte 0x0f, 0x22, 0xc8"));
    FAULTS("#UD: LEA of a register", UD, 0, EMIT(".byte 0x8d, 0xc0"));
    FAULTS("#UD: group 0xFE /7", UD, 0, EMIT(".byte 0xfe, 0xf8"));
    FAULTS("#UD: SYSENTER's neighbour 0F 36", UD, 0, EMIT(".byte 0x0f, 0x36"));
    FAULTS("#UD: VMCALL-space 0F 01 C0 (ENCLV)", UD, 0, EMIT(".byte 0x0f, 0x01, 0xc0"));
}

static void too_long(void)
{
    FAULTS("#GP: an instruction of 16 bytes", GP, 0, EMIT(HERE ".fill 15, 1, 0x66\n nop"));
    check_equal("and RIP is its start", caught.ip, marked);
    WORKS("an instruction of 15 bytes", EMIT(".fill 14, 1, 0x66\n nop"));
}

static void general_protection(void)
{
    FAULTS("#GP: CR0.PG without PE", GP, 0, write_cr0(CR0_PG));
    FAULTS("#GP: CR0.NW without CD", GP, 0, write_cr0(read_cr0() | 1 << 29));
    FAULTS("#GP: CR0 bits above 31", GP, 0, write_cr0(read_cr0() | 1ul << 32));
    FAULTS("#GP: a reserved bit of CR4", GP, 0, write_cr4(read_cr4() | 1ul << 31));
    FAULTS("#GP: CR4.PAE cleared in long mode", GP, 0, write_cr4(read_cr4() & ~CR4_PAE));
    FAULTS("#GP: a reserved bit of CR8", GP, 0, write_cr8(16));
    FAULTS("#GP: CR3 beyond MAXPHYADDR", GP, 0, write_cr3(read_cr3() | 1ul << 52));
    FAULTS("#GP: EFER.LME cleared with paging on", GP, 0, wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_LME));
    FAULTS("#GP: a reserved bit of EFER", GP, 0, wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 2));
    FAULTS("#GP: HLT at CPL 3", GP, 0, RING_3(EMIT("hlt")));
    FAULTS("#GP: CLI at CPL 3", GP, 0, RING_3(EMIT("cli")));
    FAULTS("#GP: MOV from CR0 at CPL 3", GP, 0, RING_3((void)read_cr0()));
    FAULTS("#GP: MOV to DR7 at CPL 3", GP, 0, RING_3(write_dr7(0)));
    FAULTS("#GP: RDMSR at CPL 3", GP, 0, RING_3((void)rdmsr(MSR_EFER)));
    FAULTS("#GP: LGDT at CPL 3", GP, 0, RING_3(EMIT("lgdt [rsp]")));
    FAULTS("#GP: LMSW at CPL 3", GP, 0, RING_3(EMIT("lmsw %0" : : "r"((u16)1))));
    FAULTS("#GP: CLTS at CPL 3", GP, 0, RING_3(EMIT("clts")));
    FAULTS("#GP: WBINVD at CPL 3", GP, 0, RING_3(EMIT("wbinvd")));
    FAULTS("#GP: OUT at CPL 3", GP, 0, RING_3(out8(0x80, 0)));
}

static void alignment(void)
{
    static _Alignas(16) u8 data[32];
    word word_address = (word)data + 1;
    write_cr0(read_cr0() | CR0_AM);
    set_flags(FLAG_FIXED | FLAG_AC);
    WORKS("#AC never at CPL 0", read32(word_address));
    set_flags(FLAG_FIXED | FLAG_AC);
    FAULTS("#AC: a dword", AC, 0, RING_3(read32(word_address)));
    set_flags(FLAG_FIXED | FLAG_AC);
    FAULTS("#AC: a word", AC, 0, RING_3(read16(word_address)));
    set_flags(FLAG_FIXED | FLAG_AC);
    FAULTS("#AC: a write", AC, 0, RING_3(write64(word_address + 3, 0)));
    set_flags(FLAG_FIXED | FLAG_AC);
    WORKS("#AC: not for bytes", RING_3(read8(word_address)));
    set_flags(FLAG_FIXED);
    WORKS("#AC: not without EFLAGS.AC", RING_3(read32(word_address)));
    write_cr0(read_cr0() & ~CR0_AM);
    set_flags(FLAG_FIXED | FLAG_AC);
    WORKS("#AC: not without CR0.AM", RING_3(read32(word_address)));
    set_flags(FLAG_FIXED);
}

static void user_mode_prevention(void)
{
    if (!(cpuid(7, 0).c >> 2 & 1)) {
        skip("UMIP");
        return;
    }
    struct table table;
    WORKS("SGDT at CPL 3 without UMIP", RING_3(EMIT("sgdt %0" : "=m"(table))));
    write_cr4(read_cr4() | CR4_UMIP);
    FAULTS("UMIP: SGDT", GP, 0, RING_3(EMIT("sgdt %0" : "=m"(table))));
    FAULTS("UMIP: SIDT", GP, 0, RING_3(EMIT("sidt %0" : "=m"(table))));
    FAULTS("UMIP: SLDT", GP, 0, RING_3(EMIT("sldt ax" : : : "eax")));
    FAULTS("UMIP: STR", GP, 0, RING_3(EMIT("str ax" : : : "eax")));
    FAULTS("UMIP: SMSW", GP, 0, RING_3(EMIT("smsw ax" : : : "eax")));
    WORKS("UMIP: nothing changes at CPL 0", EMIT("smsw ax\n str ax" : : : "eax"));
    write_cr4(read_cr4() & ~CR4_UMIP);
}

void run(void)
{
    arithmetic();
    traps();
    invalid_opcodes();
    too_long();
    general_protection();
    alignment();
    user_mode_prevention();
}
