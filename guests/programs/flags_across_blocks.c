/*
 * Status flags that live longer than a block: read behind jumps of every kind, calls, returns, memory accesses, faults
 * and interrupts, and partly overwritten on the way (SDM vol. 1, appendix A).
 */
#include "guest.h"

enum { STATUS = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF };

/* What sets the flags: 0x7f + 1, 0xff + 1, 0x80 - 1 in bytes. */
#define OVERFLOW "mov al, 0x7f\n add al, 1\n"
#define CARRY "mov al, 0xff\n add al, 1\n"
#define BORROW "mov al, 0x80\n sub al, 1\n"
enum {
    AFTER_OVERFLOW = FLAG_OF | FLAG_SF | FLAG_AF,
    AFTER_CARRY = FLAG_CF | FLAG_ZF | FLAG_AF | FLAG_PF,
    AFTER_BORROW = FLAG_OF | FLAG_AF,
};

/* A new block, whatever the translator does. */
#define JUMP "jmp 9f\n .balign 64\n 9:"

#define FLAGS_AFTER(name, expected, text)                                                                          \
    do {                                                                                                           \
        word status;                                                                                               \
        EMIT(text "\n pushf\n pop %0" : "=r"(status) : : "rax", "rcx", "rdx", "rsi", "rdi", "r10", "r11", "memory", "cc"); \
        check_equal(name, status & STATUS, expected);                                                              \
    } while (0)

#define VALUE_AFTER(name, expected, text)                                                                          \
    do {                                                                                                           \
        u64 value;                                                                                                 \
        EMIT(text : "=a"(value) : : "rcx", "rdx", "rsi", "rdi", "r10", "r11", "memory", "cc");                     \
        check_equal(name, value, expected);                                                                        \
    } while (0)

u64 long_number[4] = {~0ull, ~0ull, ~0ull, 0}, scratch[8];

__attribute__((naked, used)) static void nothing(void) { EMIT("ret"); }

/* ECX calls deep, and CF set at the bottom. */
__attribute__((naked, used)) static void recurse(void)
{
    EMIT("push rcx\n lea rcx, [rcx - 1]\n jrcxz 1f\n call recurse\n pop rcx\n ret\n 1: stc\n pop rcx\n ret");
}

static void control_transfers(void)
{
    FLAGS_AFTER("a direct jump", AFTER_OVERFLOW, OVERFLOW JUMP);
    FLAGS_AFTER("an indirect jump", AFTER_CARRY, CARRY "lea rcx, [rip + 1f]\n jmp rcx\n .balign 64\n 1:");
    FLAGS_AFTER("a call and its return", AFTER_BORROW, BORROW "call nothing");
    FLAGS_AFTER("an indirect call", AFTER_BORROW, "lea rcx, [rip + nothing]\n" BORROW "call rcx");
    FLAGS_AFTER("a call through memory", AFTER_CARRY,
                "lea rcx, [rip + nothing]\n mov [scratch], rcx\n" CARRY "call [scratch]");
    FLAGS_AFTER("a branch not taken", AFTER_OVERFLOW, OVERFLOW "jc 1f\n 1:");
    FLAGS_AFTER("a branch taken", AFTER_CARRY, CARRY "jc 1f\n .balign 64\n 1:");
    FLAGS_AFTER("JRCXZ", AFTER_CARRY, "xor ecx, ecx\n" CARRY "jrcxz 1f\n nop\n 1:");
    FLAGS_AFTER("LOOP", AFTER_CARRY, "mov ecx, 3\n" CARRY "1: loop 1b");
    VALUE_AFTER("2000 calls deep", 1, "mov ecx, 2000\n clc\n call recurse\n setc al\n movzx eax, al");
    VALUE_AFTER("a chain of branches on one comparison", 1,
                "mov eax, 3\n cmp eax, 4\n ja 8f\n jae 8f\n jb 1f\n jmp 8f\n 1: jl 2f\n jmp 8f\n 2: js 3f\n jmp 8f\n"
                "3: jne 4f\n"
                "8: mov eax, 0\n jmp 5f\n 4: mov eax, 1\n 5:");
}

static void accesses(void)
{
    FLAGS_AFTER("loads and stores of pages not touched before", AFTER_OVERFLOW,
                OVERFLOW "mov rcx, [0x900000]\n mov [0x901008], rcx\n push rcx\n pop rcx");
    FLAGS_AFTER("the same again, now that they are known", AFTER_CARRY,
                CARRY "mov rcx, [0x900000]\n mov [0x901008], rcx\n push rcx\n pop rcx");
    FLAGS_AFTER("string instructions", AFTER_CARRY,
                "mov rsi, offset scratch\n mov rdi, rsi\n" CARRY "movsb\n lodsb\n stosb");
    FLAGS_AFTER("registers that the translator keeps elsewhere", AFTER_CARRY,
                CARRY "mov r10, rax\n mov r11, r10\n mov [scratch], r11\n mov r10, [scratch]\n mov r9, r10\n mov rcx, r9");
    FLAGS_AFTER("a device", AFTER_BORROW, "mov edx, 0x80\n" BORROW "out dx, al");
}

static void skip_one(struct frame *frame) { frame->ip += frame->vector == UD ? 2 : 0; }

static void events(void)
{
    handlers[UD] = handlers[0x41] = skip_one;
    FLAGS_AFTER("a fault, its handler and IRET", AFTER_OVERFLOW, OVERFLOW "ud2");
    FLAGS_AFTER("INT and IRET", AFTER_CARRY, CARRY "int 0x41");
    FLAGS_AFTER("CPUID, RDTSC, RDMSR", AFTER_CARRY, "push rbx\n" CARRY "cpuid\n rdtsc\n mov ecx, 0x10\n rdmsr\n pop rbx");
    handlers[UD] = handlers[0x41] = NULL;
}

static void partial_writers(void)
{
    VALUE_AFTER("CF through INC, a jump and a load", 17,
                "stc\n mov eax, 5\n inc eax\n" JUMP "mov rcx, [0x902000]\n adc eax, 10");
    VALUE_AFTER("flags through a shift by 0", 1,
                "xor ecx, ecx\n mov eax, 1\n cmp eax, 2\n shl edx, cl\n" JUMP "setb al\n movzx eax, al");
    VALUE_AFTER("flags through a rotate by its width", 1,
                "mov ecx, 32\n cmp eax, eax\n rol edx, cl\n setz al\n movzx eax, al");
    VALUE_AFTER("CF through a loop of loads, stores and DEC", 1,
                "mov ecx, 4\n mov rsi, offset long_number\n stc\n 1: adc qword ptr [rsi], 0\n lea rsi, [rsi + 8]\n"
                "dec ecx\n jnz 1b\n"
                "mov rax, [long_number + 24]");
    FLAGS_AFTER("OF through STC and CMC", AFTER_OVERFLOW, OVERFLOW "stc\n cmc\n" JUMP);
    VALUE_AFTER("SAHF, a jump, LAHF", 0xd7, "mov ah, 0xd5\n sahf\n" JUMP "lahf\n movzx eax, ah");
    FLAGS_AFTER("instructions that change none", AFTER_CARRY,
                CARRY "not edx\n xchg edx, ecx\n bswap edx\n lea edx, [rcx + rcx]\n movzx edx, cl\n" JUMP);
}

static void readers(void)
{
    VALUE_AFTER("CMOVC over a jump", 9, "mov eax, 1\n mov edx, 9\n sub eax, 2\n mov eax, 0\n" JUMP "cmovc eax, edx");
    VALUE_AFTER("RCL over a jump", 1, "stc\n mov eax, 0\n" JUMP "rcl eax, 1");
    VALUE_AFTER("SBB of a register with itself", 0xffffffff, "mov eax, 1\n cmp eax, 2\n" JUMP "sbb eax, eax");
    VALUE_AFTER("CF of MUL", 1, "mov eax, 0x80000000\n mov ecx, 2\n mul ecx\n" JUMP "setc al\n movzx eax, al");
    VALUE_AFTER("PF", 1, "mov eax, 3\n and eax, eax\n" JUMP "setp al\n movzx eax, al");
    VALUE_AFTER("AF by LAHF", 0x10, "mov eax, 0xf\n add al, 1\n" JUMP "lahf\n movzx eax, ah\n and eax, 0x10");
}

void run(void)
{
    control_transfers();
    accesses();
    events();
    partial_writers();
    readers();
}
