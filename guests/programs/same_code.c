/*
 * The same bytes at the same address mean what the moment's mode says: 64-bit or 32-bit code, CPL 0 or 3, one page table
 * or another, CR4 and EFER bits that change what an instruction may do.
 */
#include "guest.h"

u8 *code;
static int turn;

/* Call `code` in compatibility mode at CPL 0; EAX is its result. */
static u32 call_32(u32 value)
{
    u32 result;
    EMIT("push 0x38\n push offset 11f\n rex.w retf\n .code32\n 11: call edx\n jmp 0x08:12f\n .code64\n 12:"
         : "=a"(result) : "a"(value), "d"((u32)(word)code) : "rcx", "memory", "cc");
    return result;
}

static u64 call_64(u64 value)
{
    u64 result;
    EMIT("call %2" : "=a"(result) : "a"(value), "r"(code) : "rcx", "rdx", "memory", "cc");
    return result;
}

static void widths(void)
{
    /* 64-bit: add rax, 1 (REX.W). 32-bit: dec eax; add eax, 1. */
    static const u8 bytes[] = {0x48, 0x83, 0xc0, 0x01, 0xc3};
    memcpy(code, bytes, sizeof bytes);
    bool right = true;
    for (u64 turn = 0; turn < 50; turn++) {
        right &= call_64(0xffffffff + turn) == 0x100000000 + turn;
        right &= call_32(turn) == turn;
    }
    check("REX.W in one mode is DEC in the other, turn by turn", right);
    /* 64-bit: mov eax, [rip + 0]; then the bytes are skipped. 32-bit: mov eax, [absolute 0x...]. */
    static const u8 relative[] = {0x8b, 0x05, 0x01, 0, 0, 0, 0xc3, 0x78, 0x56, 0x34, 0x12};
    memcpy(code, relative, sizeof relative);
    write32(1, 0xabcdef);
    check_equal("an address relative to RIP", call_64(0), 0x12345678);
    check_equal("is absolute in 32-bit code", call_32(0), 0xabcdef);
    check_equal("and relative once more", call_64(0), 0x12345678);
}

static void privileges(void)
{
    static const u8 bytes[] = {0x0f, 0x20, 0xd0, 0xc3}; /* mov rax, cr2 */
    memcpy(code, bytes, sizeof bytes);
    write_cr2(0x77);
    for (turn = 0; turn < 3; turn++) {
        check_equal("a privileged instruction at CPL 0", call_64(0), 0x77);
        FAULTS("and at CPL 3", GP, 0, RING_3((void)call_64(0)));
        write_cr2(0x77);
    }
}

static void rights(void)
{
    static const u8 store[] = {0x89, 0x02, 0xc3}; /* mov [rdx], eax */
    memcpy(code, store, sizeof store);
    u64 linear = TEST_AREA;
    map(linear, (u64)new_pages(1), P | W);
    for (turn = 0; turn < 3; turn++) {
        WORKS("a supervisor store to a supervisor page",
              EMIT("call %0" : : "r"(code), "d"(linear), "a"(1) : "memory"));
        FAULTS("a user store by the same code", PF, PF_P | PF_W | PF_U,
               RING_3(EMIT("call %0" : : "r"(code), "d"(linear), "a"(1) : "memory")));
    }
}

static void features(void)
{
    static const u8 bytes[] = {0x0f, 0x57, 0xc0, 0xc3}; /* xorps xmm0, xmm0 */
    memcpy(code, bytes, sizeof bytes);
    for (turn = 0; turn < 3; turn++) {
        write_cr4(read_cr4() | CR4_OSFXSR);
        WORKS("SSE with OSFXSR", (void)call_64(0));
        write_cr0(read_cr0() | CR0_TS);
        FAULTS("SSE under TS", NM, 0, (void)call_64(0));
        EMIT("clts");
        WORKS("SSE after CLTS", (void)call_64(0));
        write_cr4(read_cr4() & ~CR4_OSFXSR);
        FAULTS("SSE without OSFXSR", UD, 0, (void)call_64(0));
    }
    static const u8 system_call[] = {0x0f, 0x05, 0xc3};
    memcpy(code, system_call, sizeof system_call);
    FAULTS("SYSCALL without SCE", UD, 0, (void)call_64(0));
    FAULTS("RDTSC allowed, then not", GP, 0, RING_3((void)rdtsc()); write_cr4(read_cr4() | CR4_TSD); RING_3((void)rdtsc()));
    write_cr4(read_cr4() & ~CR4_TSD);
}

/* Two address spaces with different code at one address. */
static void spaces(void)
{
    extern u64 pml4[512];
    static const u8 one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
    u8 *first = new_pages(1), *second = new_pages(1);
    memcpy(first, one, sizeof one);
    memcpy(second, two, sizeof two);
    u64 *other_root = new_pages(1), root = read_cr3(), linear = TEST_AREA + (1ull << 39);
    map(linear, (u64)first, P);
    memcpy(other_root, pml4, PAGE);
    other_root[linear >> 39 & 511] = 0;
    u8 *kept = code;
    code = (u8 *)linear;
    bool right = true;
    write_cr3((u64)other_root);
    u64 *pdpt = new_pages(1), *directory = new_pages(1), *table = new_pages(1);
    other_root[linear >> 39 & 511] = (u64)pdpt | P | W | U;
    pdpt[0] = (u64)directory | P | W | U, directory[0] = (u64)table | P | W | U, table[0] = (u64)second | P;
    for (turn = 0; turn < 50; turn++) {
        write_cr3(root);
        right &= call_64(0) == 1;
        write_cr3((u64)other_root);
        right &= call_64(0) == 2;
    }
    write_cr3(root);
    code = kept;
    check("two address spaces, one address, two codes", right);
}

void run(void)
{
    code = new_pages(1);
    widths();
    privileges();
    rights();
    features();
    spaces();
}
