/*
 * Segments in long mode: FS and GS bases, null selectors, compatibility mode with its limits and 32-bit addresses,
 * far transfers between the sub-modes, 64-bit call gates (SDM vol. 3, 5.2.1, 5.8.3.1; vol. 1, 3.4.2.1).
 */
#include "guest.h"

static void bases(void)
{
    static u64 values[2] = {11, 22};
    wrmsr(MSR_FS_BASE, (word)&values[0]);
    wrmsr(MSR_GS_BASE, (word)&values[1]);
    u64 fs, gs, address;
    EMIT("mov %0, fs:[0]\n mov %1, gs:[0]\n .byte 0x64\n lea %2, [rsp + 8]\n sub %2, rsp"
         : "=&r"(fs), "=&r"(gs), "=&r"(address) : : "cc");
    check_equal("FS base", fs, 11);
    check_equal("GS base", gs, 22);
    check_equal("LEA ignores it", address, 8);
    EMIT("mov %0, fs:[%1]" : "=r"(fs) : "r"((u64)&values[1] - (u64)&values[0]));
    check_equal("FS base plus a register", fs, 22);
    FAULTS("a 32-bit offset", PF, 0, EMIT("mov ecx, -8\n mov rax, gs:[ecx]" : : : "rax", "rcx"));
    check_equal("is zero-extended before the base is added", caught.cr2, (word)&values[1] + 0xfffffff8);
    EMIT("mov eax, 0x10\n mov gs, eax" : : : "eax");
    check_equal("a selector in GS loads a base of 32 bits", rdmsr(MSR_GS_BASE), 0);
    wrmsr(MSR_FS_BASE, 0x123456789a);
    EMIT("xor eax, eax\n mov fs, eax" : : : "eax");
    check_equal("a null selector in FS clears the base (or leaves it)", rdmsr(MSR_FS_BASE) & ~0x123456789aull, 0);
    if (cpuid(7, 0).b & 1) {
        u64 base;
        FAULTS("RDFSBASE without CR4.FSGSBASE", UD, 0, EMIT("rdfsbase rax" : : : "rax"));
        write_cr4(read_cr4() | CR4_FSGSBASE);
        WORKS("WRFSBASE at CPL 3", RING_3(EMIT("wrfsbase %0" : : "r"(0x7fffffffffffull))));
        EMIT("rdfsbase %0" : "=r"(base));
        check_equal("RDFSBASE", base, 0x7fffffffffff);
        EMIT("wrgsbase %0\n rdgsbase eax\n mov %0, rax" : "+r"(base) : : "rax");
        check_equal("RDGSBASE of 32 bits", base, 0xffffffff);
    } else {
        skip("FSGSBASE");
    }
}

static void null_selectors(void)
{
    EMIT("xor eax, eax\n mov ds, eax\n mov es, eax\n mov fs, eax" : : : "eax");
    WORKS("null DS and ES in 64-bit mode", write8((word)&gdt[31], 0));
    WORKS("null SS at CPL 0 in 64-bit mode", EMIT("xor eax, eax\n mov ss, eax\n push rax\n pop rax" : : : "eax"));
    FAULTS("null SS with RPL 3 at CPL 0", GP, 0, EMIT("mov eax, 3\n mov ss, eax" : : : "eax"));
    FAULTS("null SS at CPL 3", GP, 0, RING_3(EMIT("mov eax, 3\n mov ss, eax" : : : "eax")));
    FAULTS("LDS does not exist", UD, 0, EMIT(".byte 0xc5, 0x00"));
    EMIT("mov eax, 0x10\n mov ds, eax\n mov es, eax\n mov ss, eax" : : : "eax");
}

/* Run 32-bit code in compatibility mode at CPL 0; RAX is its result, or what a fault leaves. */
#define COMPATIBILITY(text, ...)                                                                                   \
    ({                                                                                                             \
        u64 result;                                                                                                \
        EMIT("push 0x38\n push offset 11f\n rex.w retf\n .code32\n 11:" text "\n jmp 0x08:12f\n .code64\n 12:"     \
             : "=a"(result) : __VA_ARGS__ : "rcx", "rdx", "memory", "cc");                                         \
        result;                                                                                                    \
    })

static void compatibility_mode(void)
{
    check_equal("40 is INC there", COMPATIBILITY("mov eax, 1\n .byte 0x40, 0x40"), 3);
    check_equal("32-bit operations clear the upper half", COMPATIBILITY("mov eax, -1"), 0xffffffff);
    static u32 value = 0xabcd;
    check_equal("an absolute address", COMPATIBILITY("mov eax, [%1]", "S"((u32)(word)&value)), 0xabcd);
    check_equal("addresses wrap at 4 GiB",
                COMPATIBILITY("mov eax, [esi + 0x7fffffff]", "S"((u32)(word)&value - 0x7fffffff)), 0xabcd);
    set_descriptor(FREE, (word)&value, 3, DATA, BIG);
    check_equal("bases count in DS",
                COMPATIBILITY("mov eax, 0x70\n mov ds, eax\n mov eax, [0]\n mov edx, 0x10\n mov ds, edx"), 0xabcd);
    FAULTS("limits count in DS", GP, 0, (void)COMPATIBILITY("mov eax, 0x70\n mov ds, eax\n mov eax, [1]"));
    EMIT("mov eax, 0x10\n mov ds, eax" : : : "eax");
    FAULTS("null DS there", GP, 0, (void)COMPATIBILITY("xor eax, eax\n mov ds, eax\n mov al, [0]"));
    EMIT("mov eax, 0x10\n mov ds, eax" : : : "eax");
    FAULTS("null SS there", GP, 0, (void)COMPATIBILITY("xor eax, eax\n mov ss, eax"));
    FAULTS("#UD of SYSCALL's 64-bit kin SWAPGS", UD, 0, (void)COMPATIBILITY(".byte 0x0f, 0x01, 0xf8"));
    check_equal("stack pointers of 32 bits", COMPATIBILITY("mov eax, esp\n push eax\n sub eax, esp\n pop edx"), 4);
    FAULTS("a fault there has its CS", UD, 0, (void)COMPATIBILITY("ud2"));
    check_equal("namely", caught.cs, KERNEL_CODE_32);
}

static void paging_below(void)
{
    u64 low = 0x80000000;
    u8 *page = new_pages(1);
    *entry_of(low, 2) &= ~LARGE;
    *entry_of(low, 2) = (u64)new_pages(1) | P | W | U;
    map(low, (u64)page, P | U);
    write32((word)page, 0x77);
    check_equal("compatibility mode walks four levels", COMPATIBILITY("mov eax, [%1]", "S"((u32)low)), 0x77);
    FAULTS("a page fault there", PF, PF_P | PF_W, (void)COMPATIBILITY("mov [%1], eax", "S"((u32)low)));
    check_equal("with a CR2 of 32 bits", caught.cr2, low);
}

void run(void)
{
    bases();
    null_selectors();
    compatibility_mode();
    paging_below();
}
