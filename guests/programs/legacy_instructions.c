/*
 * What 64-bit mode has left behind: decimal arithmetic, PUSHA and POPA, ENTER's nesting, 16-bit stacks, LDS, XLAT,
 * LOOP with CX, 16-bit addresses (SDM vol. 2 for the instructions; vol. 3, 5.3, 22.21 for stacks).
 */
#include "guest.h"

enum { SMALL_STACK = FREE, STATUS = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF };

/* AX and the status flags after an instruction. */
#define DECIMAL(text, ax, before)                                                                                  \
    ({                                                                                                             \
        u32 value = (ax), status = (before) | FLAG_FIXED;                                                          \
        EMIT("push %1\n popf\n" text "\n pushf\n pop %1" : "+a"(value), "+r"(status) : : "cc");                    \
        (value & 0xffff) << 16 | (status & STATUS);                                                                \
    })

static void decimal(void)
{
    check_equal("DAA", DECIMAL("daa", 0xae, 0), 0x14u << 16 | FLAG_CF | FLAG_PF | FLAG_AF);
    check_equal("DAA with AF", DECIMAL("daa", 0x12, FLAG_AF), 0x18u << 16 | FLAG_PF | FLAG_AF);
    check_equal("DAS", DECIMAL("das", 0xee, 0), 0x88u << 16 | FLAG_CF | FLAG_PF | FLAG_AF | FLAG_SF);
    check_equal("AAA", DECIMAL("aaa", 0x000b, 0) & ~(u32)(FLAG_ZF | FLAG_SF | FLAG_PF), 0x0101u << 16 | FLAG_CF | FLAG_AF);
    check_equal("AAA of a digit", DECIMAL("aaa", 0x0305, 0) & ~(u32)(FLAG_ZF | FLAG_SF | FLAG_PF), 0x0305u << 16);
    check_equal("AAS", DECIMAL("aas", 0x0205, FLAG_AF) & ~(u32)(FLAG_ZF | FLAG_SF | FLAG_PF),
                0x000fu << 16 | FLAG_CF | FLAG_AF);
    check_equal("AAM", DECIMAL("aam", 0x004d, 0) & ~(u32)(FLAG_CF | FLAG_AF), 0x0707u << 16);
    check_equal("AAM with another base", DECIMAL("aam 16", 0x00ab, 0) >> 16, 0x0a0b);
    check_equal("AAD", DECIMAL("aad", 0x0707, 0) >> 16, 0x004d);
    FAULTS("AAM 0", DE, 0, (void)DECIMAL("aam 0", 1, 0));
    check_equal("SALC", DECIMAL(".byte 0xd6", 0x1200, FLAG_CF) >> 16, 0x12ff);
}

u32 stored[8], stack_pointer, kept_pointer, seen[6];

static void push_all(void)
{
    EMIT("pusha\n mov eax, 1\n mov ecx, 2\n mov edx, 3\n mov ebx, 4\n mov ebp, 6\n mov esi, 7\n mov edi, 8\n"
         "mov [stack_pointer], esp\n pusha\n"
         "mov esi, esp\n mov edi, offset stored\n mov ecx, 8\n rep movsd\n add esp, 32\n popa" : : : "memory");
    check_equal("PUSHA: EDI is lowest", stored[0], 8);
    check_equal("PUSHA: the ESP of before", stored[3], stack_pointer);
    check_equal("PUSHA: EAX is highest", stored[7], 1);
    EMIT("mov [stack_pointer], esp\n pusha\n mov dword ptr [esp + 12], 0\n popa\n mov [kept_pointer], esp"
         : : : "memory");
    check_equal("POPA throws the ESP in the frame away", kept_pointer, stack_pointer);
    EMIT("mov [stack_pointer], esp\n pushaw\n mov [kept_pointer], esp\n popaw" : : : "memory");
    check_equal("PUSHA of words", stack_pointer - kept_pointer, 16);
}

static void frames(void)
{
    EMIT("push ebp\n mov ebp, esp\n push 0x11\n push 0x22\n"
         "enter 8, 3\n mov [seen], ebp\n mov eax, [ebp - 4]\n mov [seen + 4], eax\n mov eax, [ebp - 8]\n"
         "mov [seen + 8], eax\n"
         "mov eax, [ebp - 12]\n mov [seen + 12], eax\n mov eax, ebp\n sub eax, esp\n mov [seen + 16], eax\n"
         "leave\n add esp, 8\n pop ebp" : : : "eax", "memory");
    check_equal("ENTER with level 3: the first display entry", seen[1], 0x11);
    check_equal("the second", seen[2], 0x22);
    check_equal("the last is the new frame", seen[3], seen[0]);
    check_equal("and room below", seen[4], 12 + 8);
}

__attribute__((naked)) static void breakpoint(void) { EMIT("mov [seen], esp\n iret"); }

/* On a stack of 64 KiB at 0x20000, whose pointer is SP alone; ESP's upper half stays. */
static void small_stack(void)
{
    set_descriptor(SMALL_STACK, 0x20000, 0xffff, DATA, 0);
    memset((void *)0x20000, 0, 0x10000);
    EMIT("mov [kept_pointer], esp\n mov ss, %0\n mov esp, 0x12340000\n"
         "push 0x55667788\n mov [seen], esp\n pop eax\n mov [seen + 4], eax\n mov [seen + 8], esp\n"
         "mov esp, 0x12340000\n call 1f\n 1: mov [seen + 12], esp\n"
         "mov eax, 0x10\n mov ss, eax\n mov esp, [kept_pointer]"
         : : "r"(SMALL_STACK) : "eax", "memory");
    check_equal("SP wraps below 0; the upper half of ESP stays", seen[0], 0x1234fffc);
    check_equal("POP brings the dword back", seen[1], 0x55667788);
    check_equal("and wraps back", seen[2], 0x12340000);
    check_equal("CALL pushes there", seen[3], 0x1234fffc);
    check_equal("namely at the top", read32(0x2fffc) != 0, 1);
    set_gate(BP, (word)breakpoint, KERNEL_CODE, INTERRUPT_GATE);
    EMIT("mov ss, %0\n mov esp, 0xabcd8000\n int3\n mov [seen + 4], esp\n mov eax, 0x10\n mov ss, eax\n"
         "mov esp, [kept_pointer]"
         : : "r"(SMALL_STACK) : "eax", "memory");
    check_equal("an interrupt pushes at SP", seen[0], 0xabcd7ff4);
    check_equal("IRET pops at SP", seen[1], 0xabcd8000);
    check_equal("CS is in its frame", read32(0x27ff8), KERNEL_CODE);
}

u8 table[256];
struct __attribute__((packed)) {
    u32 offset;
    u16 selector;
} pointer = {0x12345678, KERNEL_DATA};

static void addresses(void)
{
    write32(0x8123, 0xcafe);
    u32 value;
    EMIT("mov ebx, 0xffff8000\n mov esi, 0x123\n mov %0, [bx + si]" : "=r"(value) : : "ebx", "esi");
    check_equal("a 16-bit address", value, 0xcafe);
    EMIT("mov ebx, 0xf000\n mov esi, 0x9123\n mov %0, [bx + si]" : "=r"(value) : : "ebx", "esi");
    check_equal("wraps at 64 KiB", value, 0xcafe);
    EMIT("mov ecx, 0x10003\n xor eax, eax\n 1: inc eax\n .byte 0x67\n loop 1b\n mov %0, ecx"
         : "=r"(value) : : "eax", "ecx", "cc");
    check_equal("LOOP with a 16-bit address size counts CX", value, 0x10000);
    table[200] = 77;
    EMIT("mov eax, 0x100 + 200\n mov ebx, offset table\n xlatb\n movzx %0, al" : "=r"(value) : : "eax", "ebx");
    check_equal("XLAT", value, 77);
    u32 selector;
    EMIT("push es\n les %0, [pointer]\n mov %1, es\n pop es" : "=r"(value), "=r"(selector));
    check_equal("LES: the offset", value, 0x12345678);
    check_equal("LES: the selector", selector, KERNEL_DATA);
}

void run(void)
{
    decimal();
    push_all();
    frames();
    small_stack();
    addresses();
}
