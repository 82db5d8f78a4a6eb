/*
 * 32-bit code in flat segments and out of them: addresses that wrap at 4 GiB, segments that change under running code,
 * calls and flags, code that changes, REP; at CPL 0 and 3, with paging and without.
 */
#include "guest.h"

enum { MOVED = FREE, SHORT = FREE + 8, LINEAR = 0x40000000 };

u32 numbers[16];
static _Alignas(PAGE) u8 code[2 * PAGE];
static _Alignas(PAGE) u32 directory[1024], table[1024];

__attribute__((noinline)) static u32 load(u32 address)
{
    u32 value;
    EMIT("mov %0, [%1]" : "=r"(value) : "r"(address) : "memory");
    return value;
}

static void wrapping(void)
{
    numbers[3] = 0x1234;
    u32 value;
    EMIT("mov eax, %1\n mov %0, [eax + 0x7fffffff]" : "=r"(value) : "r"((u32)&numbers[3] - 0x7fffffff) : "eax");
    check_equal("a displacement wraps at 4 GiB", value, 0x1234);
    EMIT("mov ecx, 0x40000000\n mov eax, %1\n mov %0, [eax + ecx * 4]"
         : "=r"(value) : "r"((u32)&numbers[3]) : "eax", "ecx");
    check_equal("so does a scaled index", value, 0x1234);
    EMIT("lea %0, [%1 + 0x10]" : "=r"(value) : "r"(0xfffffff8));
    check_equal("so does LEA", value, 8);
    EMIT("mov eax, -1\n add eax, 1\n adc eax, 0\n mov %0, eax" : "=r"(value) : : "eax", "cc");
    check_equal("arithmetic of 32 bits carries out of bit 31", value, 1);
}

static void changing_segments(void)
{
    u32 first = (u32)numbers;
    numbers[0] = 10, numbers[1] = 11;
    set_descriptor(MOVED, 4, 0xfffff, DATA, BIG | PAGES);
    set_descriptor(SHORT, first, 3, DATA, BIG);
    bool right = true;
    for (u32 round = 0; round < 20; round++) {
        right &= load(first) == 10;
        u32 moved;
        EMIT("mov ds, %1\n push %2\n call load_symbol\n add esp, 4\n mov ecx, 0x10\n mov ds, ecx"
             : "=a"(moved) : "r"((u16)MOVED), "r"(first)
             : "ecx", "edx", "memory", "cc");
        right &= moved == 11;
    }
    check("the same load through DS with another base, turn by turn", right);
    WORKS("a limit that the load keeps", EMIT("mov ds, %0\n mov eax, [%1]\n mov ecx, 0x10\n mov ds, ecx"
                                              : : "r"((u16)SHORT), "r"(0) : "eax", "ecx"));
    FAULTS("and one that it does not", GP, 0, EMIT("mov ds, %0\n mov eax, [%1]" : : "r"((u16)SHORT), "r"(1) : "eax"));
    check_equal("DS is flat again", load((u32)numbers), 10);
}

/* For the assembly above: a name that it can call. */
__attribute__((used, noinline)) u32 load_symbol(u32 address) { return load(address); }

static u32 call(const u8 *at)
{
    u32 result;
    EMIT("call %1" : "=a"(result) : "r"(at) : "ecx", "edx", "memory", "cc");
    return result;
}

static void changing_code(void)
{
    bool right = true;
    for (u32 round = 0; round < 50; round++) {
        code[0] = 0xb8;
        write32((word)code + 1, round);
        code[5] = 0xc3;
        right &= call(code) == round;
    }
    check("code written and run again and again", right);
    u8 *at = code + PAGE - 3;
    at[0] = 0xb8, at[5] = 0xc3;
    write32((word)at + 1, 0x11223344);
    check_equal("an instruction across two pages", call(at), 0x11223344);
    code[PAGE] = 0x99;
    check_equal("its second part rewritten", call(at), 0x11993344);
    u32 value;
    EMIT("mov dword ptr [1f + 1], 0x77\n 1: mov eax, 0x11" : "=a"(value) : : "memory");
    check_equal("the next instruction", value, 0x77);
}

static void flags_and_calls(void)
{
    u32 value;
    EMIT("mov al, 0x7f\n add al, 1\n call 1f\n pushf\n pop %0\n jmp 2f\n 1: ret\n 2:"
         : "=r"(value) : : "eax", "memory", "cc");
    check_equal("flags through a call", value & (FLAG_OF | FLAG_SF | FLAG_CF | FLAG_ZF), FLAG_OF | FLAG_SF);
    EMIT("stc\n mov eax, 5\n inc eax\n jmp 1f\n .align 64\n 1: adc eax, 10" : "=a"(value) : : "cc");
    check_equal("CF through INC and a jump", value, 17);
    EMIT("xor eax, eax\n mov ecx, 1000\n 1: add eax, ecx\n loop 1b" : "=a"(value) : : "ecx", "cc");
    check_equal("LOOP", value, 500500);
    EMIT("push offset 1f\n ret 0\n 2: mov eax, 1\n 1: mov eax, 9" : "=a"(value) : : "memory");
    check_equal("a return without a call", value, 9);
    EMIT("call 1f\n 1: pop eax\n sub eax, offset 1b" : "=a"(value) : : "memory", "cc");
    check_equal("a call without a return", value, 0);
    u64 product;
    EMIT("mov eax, 0xffffffff\n mov ecx, 0xffffffff\n mul ecx" : "=A"(product) : : "ecx", "cc");
    check_equal("MUL of 32 bits", product, 0xfffffffe00000001);
}

static void strings(void)
{
    static u8 from[64], to[64];
    for (u32 index = 0; index < 64; index++)
        from[index] = index + 1;
    u32 si = (u32)from, di = (u32)to, count = 50;
    EMIT("rep movsb" : "+S"(si), "+D"(di), "+c"(count) : : "memory");
    check("REP MOVSB", !memcmp(from, to, 50) && !to[50] && !count && di == (u32)to + 50);
    si = (u32)from, di = (u32)to, count = 64;
    EMIT("repe cmpsb" : "+S"(si), "+D"(di), "+c"(count) : : "cc");
    check_equal("REPE CMPSB", count, 13);
}

static void with_paging(void)
{
    for (u32 index = 0; index < 16; index++)
        directory[index] = index << 22 | P | W | U | LARGE;
    directory[LINEAR >> 22] = (u32)table | P | W | U;
    table[0] = (u32)code | P | W | U;
    write_cr4(CR4_PSE);
    write_cr3((u32)directory);
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
    code[0] = 0xb8;
    write32((word)code + 1, 5);
    check_equal("with paging: code at another address", call((u8 *)LINEAR), 5);
    write32((word)code + 1, 6);
    check_equal("rewritten at the first", call((u8 *)LINEAR), 6);
    u32 result = 0;
    RING_3(result = call((u8 *)LINEAR));
    check_equal("at CPL 3", result, 6);
    table[0] = (u32)code | P | W;
    invlpg(LINEAR);
    FAULTS("no longer the user's", PF, PF_P | PF_U, RING_3((void)call((u8 *)LINEAR)));
    table[0] = 0;
    invlpg(LINEAR);
    FAULTS("no longer there", PF, 0, (void)call((u8 *)LINEAR));
    check_equal("but where it was", call(code), 6);
    write_cr0(read_cr0() & ~CR0_PG);
    check_equal("and with paging off", call(code), 6);
}

void run(void)
{
    wrapping();
    changing_segments();
    changing_code();
    flags_and_calls();
    strings();
    with_paging();
}
