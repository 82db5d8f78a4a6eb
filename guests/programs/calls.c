/*
 * Calls and returns that do not pair: deep recursion, returns to changed addresses, coroutines that exchange stacks,
 * jump tables, threaded code, tail calls, RET n (SDM vol. 1, 6.4).
 */
#include "guest.h"

typedef u64 function(u64);

__attribute__((noinline)) static u64 sum_to(u64 number) { return number ? number + sum_to(number - 1) : 0; }

static void deep(void)
{
    static u8 room[1 << 20] __attribute__((aligned(16)));
    u64 result;
    EMIT("mov rbx, rsp\n mov rsp, %1\n mov edi, 20000\n call %2\n mov rsp, rbx"
         : "=a"(result) : "r"(room + sizeof room), "r"(sum_to)
         : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    check_equal("20000 calls deep", result, 20000ull * 20001 / 2);
}

static void unpaired(void)
{
    u64 value;
    EMIT("xor eax, eax\n call 1f\n jmp 3f\n 1: mov qword ptr [rsp], offset 2f\n ret\n 2: mov eax, 5\n 3:"
         : "=a"(value) : : "memory", "cc");
    check_equal("a return address that was changed", value, 5);
    EMIT("push offset 1f\n ret\n mov eax, 1\n 1: mov eax, 7" : "=a"(value) : : "memory");
    check_equal("a return without a call", value, 7);
    EMIT("call 1f\n 1: pop rax\n sub rax, offset 1b" : "=a"(value) : : "memory", "cc");
    check_equal("a call without a return", value, 0);
    EMIT("mov rbx, rsp\n push 3\n push 4\n call 1f\n sub rbx, rsp\n mov rax, rbx\n jmp 2f\n 1: ret 16\n 2:"
         : "=a"(value) : : "rbx", "memory", "cc");
    check_equal("RET 16", value, 0);
    EMIT("mov rbx, rsp\n call 1f\n 1: call 2f\n 2: call 3f\n 3: add rsp, 16\n call 4f\n jmp 5f\n 4: ret\n"
         "5: add rsp, 8\n sub rbx, rsp\n mov rax, rbx"
         : "=a"(value) : : "rbx", "memory", "cc");
    check_equal("frames thrown away", value, 0);
}

static u8 other_stack[4096] __attribute__((aligned(16)));
word stacks[2];
static u64 trail;

/* Exchange stacks with the other routine. */
__attribute__((naked, noinline)) static void exchange(void)
{
    EMIT("push rbx\n push rbp\n push r12\n push r13\n push r14\n push r15\n mov rax, rsp\n xchg rax, [stacks]\n"
         "mov rsp, rax\n"
         "pop r15\n pop r14\n pop r13\n pop r12\n pop rbp\n pop rbx\n ret");
}

__attribute__((used)) static void coroutine(void)
{
    for (u64 turn = 1;; turn++) {
        trail = trail * 10 + 2;
        exchange();
    }
}

static void coroutines(void)
{
    u64 *top = (u64 *)(other_stack + sizeof other_stack - 8);
    *--top = (word)coroutine;
    stacks[0] = (word)(top - 6);
    for (int turn = 0; turn < 5; turn++) {
        trail = trail * 10 + 1;
        exchange();
    }
    check_equal("two routines take turns", trail, 1212121212);
}

static u64 add_one(u64 value) { return value + 1; }
static u64 twice(u64 value) { return value * 2; }
static u64 minus_three(u64 value) { return value - 3; }

static void indirect(void)
{
    static function *const table[] = {add_one, twice, minus_three};
    u64 value = 5, expected = 5;
    for (u64 turn = 0; turn < 3000; turn++) {
        function *volatile chosen = table[turn * 7 % 3];
        value = chosen(value) & 0xffff;
        expected = (turn * 7 % 3 == 0 ? expected + 1 : turn * 7 % 3 == 1 ? expected * 2 : expected - 3) & 0xffff;
    }
    check_equal("one indirect call, three targets", value, expected);
    /* Threaded code: each piece jumps to the next through a table. */
    EMIT("mov rsi, offset 9f\n mov rax, 1\n mov rcx, [rsi]\n add rsi, 8\n jmp rcx\n"
         "1: add rax, rax\n mov rcx, [rsi]\n add rsi, 8\n jmp rcx\n"
         "2: add rax, 3\n mov rcx, [rsi]\n add rsi, 8\n jmp rcx\n"
         ".section .data\n 9: .quad 1b, 1b, 2b, 1b, 2b, 3f\n .text\n 3:"
         : "=a"(value) : : "rcx", "rsi", "memory", "cc");
    check_equal("threaded code", value, ((1 * 2 * 2) + 3) * 2 + 3);
}

void run(void)
{
    deep();
    unpaired();
    coroutines();
    indirect();
}
