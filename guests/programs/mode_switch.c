/*
 * Out of long mode and back: paging off in compatibility mode, protected mode with and without PAE paging, and long mode
 * again; what EFER.LMA says, and what is refused (SDM vol. 3, 9.8.5).
 */
#include "guest.h"

word seen[8];
static u64 pdpt[4] __attribute__((aligned(32)));
u32 legacy_directory[1024] __attribute__((aligned(PAGE)));

/* 32-bit code between compatibility mode and the way back; it must save nothing but what it says. */
#define BELOW(text)                                                                                                \
    EMIT("push rbx\n push 0x38\n push offset 11f\n rex.w retf\n .code32\n 11:" text                                 \
         "\n jmp 0x08:12f\n .code64\n 12: pop rbx" : : : "rax", "rcx", "rdx", "memory", "cc")

#define PAGING_OFF "mov eax, cr0\n and eax, 0x7fffffff\n mov cr0, eax\n"
#define PAGING_ON "mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n"
#define READ_EFER "mov ecx, 0xc0000080\n rdmsr\n"

static void off_and_on(void)
{
    BELOW(PAGING_OFF READ_EFER "mov [seen], eax\n" PAGING_ON READ_EFER "mov [seen + 8], eax");
    check_equal("paging off: LMA is clear, LME stays", seen[0], EFER_LME | EFER_NXE);
    check_equal("paging on: LMA is set", seen[1], EFER_LME | EFER_LMA | EFER_NXE);
}

static void protected_paging(void)
{
    extern u64 identity_directories[4 * 512];
    for (int index = 0; index < 4; index++)
        pdpt[index] = (word)&identity_directories[512 * index] | P;
    static u64 value;
    value = 0x1234;
    marked = (word)&value;
    seen[4] = read_cr3(), seen[5] = (word)pdpt;
    BELOW(PAGING_OFF READ_EFER "and eax, ~0x100\n wrmsr\n mov eax, [seen + 40]\n mov cr3, eax\n" PAGING_ON
          READ_EFER "mov [seen], eax\n mov edx, [marked]\n mov eax, [edx]\n mov [seen + 8], eax\n"
          PAGING_OFF READ_EFER "or eax, 0x100\n wrmsr\n mov eax, [seen + 32]\n mov cr3, eax\n" PAGING_ON);
    check_equal("PAE paging without LME: no long mode", seen[0], EFER_NXE);
    check_equal("PAE paging works", seen[1], 0x1234);
}

static void legacy_paging(void)
{
    for (u32 index = 0; index < 1024; index++)
        legacy_directory[index] = index << 22 | P | W | U | LARGE;
    BELOW(PAGING_OFF READ_EFER "and eax, ~0x100\n wrmsr\n mov eax, 0x10\n mov cr4, eax\n"
          "mov eax, offset legacy_directory\n mov cr3, eax\n"
          PAGING_ON "mov edx, [marked]\n mov eax, [edx]\n mov [seen + 8], eax\n" PAGING_OFF
          "mov eax, 0x20\n mov cr4, eax\n" READ_EFER "or eax, 0x100\n wrmsr\n mov eax, [seen + 32]\n"
          "mov cr3, eax\n" PAGING_ON);
    check_equal("32-bit paging works", seen[1], 0x1234);
    check_equal("and long mode again", rdmsr(MSR_EFER), EFER_LME | EFER_LMA | EFER_NXE);
}

static void refusals(void)
{
    FAULTS("paging off in 64-bit mode", GP, 0, write_cr0(read_cr0() & ~CR0_PG));
    FAULTS("LME cleared while paging is on", GP, 0, wrmsr(MSR_EFER, EFER_NXE));
    FAULTS("PAE cleared in long mode", GP, 0, write_cr4(0));
    check_equal("PE cannot go while PG is on", CATCH(write_cr0(read_cr0() & ~CR0_PE)), GP);
}

static void wide_registers(void)
{
    u64 kept, value = 0x1122334455667788;
    EMIT("mov r12, %1\n push 0x38\n push offset 11f\n rex.w retf\n .code32\n 11: nop\n jmp 0x08:12f\n .code64\n"
         "12: mov %0, r12"
         : "=r"(kept) : "r"(value) : "r12", "memory");
    check_equal("R8 to R15 outlive compatibility mode", kept, value);
}

void run(void)
{
    off_and_on();
    protected_paging();
    legacy_paging();
    refusals();
    wide_registers();
}
