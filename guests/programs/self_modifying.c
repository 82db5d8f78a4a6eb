/*
 * Code that changes: the next instruction, the same page, another page, through an alias, by REP MOVS, staged through
 * INT3, a jump's target and displacement; data that lies among code (SDM vol. 3, 11.6, 8.1.3).
 */
#include "guest.h"

enum { MOV_EAX = 0xb8, RET = 0xc3, INT3 = 0xcc, JMP_SHORT = 0xeb, CALL = 0xe8 };

static u8 *page;
typedef u32 function(void);

/* mov eax, VALUE; ret */
static void write_function(u8 *at, u32 value)
{
    at[0] = MOV_EAX;
    write32((word)at + 1, value);
    at[5] = RET;
}

static u32 call(const void *at) { return ((function *)(word)at)(); }

static void other_pages(void)
{
    for (u32 round = 1; round <= 20; round++) {
        write_function(page, round);
        if (call(page) != round)
            give_up("the code of an earlier round ran");
    }
    check_equal("code written and run again and again", call(page), 20);
    write8((word)page + 1, 99);
    check_equal("one byte changed", call(page), 99);
    EMIT("lock inc byte ptr [%0]" : : "r"(page + 1) : "memory", "cc");
    check_equal("by a locked instruction", call(page), 100);
    EMIT("xchg %0, [%1]" : : "r"(7), "r"(page + 1) : "memory");
    check_equal("by XCHG", call(page), 7);
    write_function(page + 0x800, 5);
    check_equal("data beside the code: the code stays", call(page), 7);
    check_equal("and the new code runs", call(page + 0x800), 5);
    static u8 source[6];
    write_function(source, 0x1234);
    EMIT("rep movsb" : "+D"((u8 *){page}), "+S"((u8 *){source}), "+c"((u64){6}) : : "memory");
    check_equal("by REP MOVSB", call(page), 0x1234);
    u64 words = 0x0102030405060708;
    EMIT("movq xmm0, %0\n movdqu [%1], xmm0" : : "r"((words << 8) | MOV_EAX), "r"(page) : "memory");
    page[5] = RET;
    check_equal("by an SSE store", call(page), 0x05060708);
}

static void aliases(void)
{
    map(TEST_AREA, (u64)page, P | W);
    map(TEST_AREA + PAGE, (u64)page, P | W);
    write_function(page, 1);
    check_equal("code through one address", call((void *)TEST_AREA), 1);
    check_equal("and another", call((void *)(TEST_AREA + PAGE)), 1);
    write32(TEST_AREA + PAGE + 1, 2);
    check_equal("a write through an alias", call((void *)TEST_AREA), 2);
    check_equal("is seen through every address", call(page), 2);
    u8 *other = new_pages(1);
    write_function(other, 3);
    map(TEST_AREA, (u64)other, P | W);
    check_equal("another page at the same address", call((void *)TEST_AREA), 3);
    map(TEST_AREA, (u64)page, P);
    check_equal("and the first one again, read-only now", call((void *)TEST_AREA), 2);
    write32((word)page + 1, 4);
    check_equal("which does not keep others from writing", call((void *)TEST_AREA), 4);
}

static void same_block(void)
{
    u32 value;
    /* The instruction that follows is already decoded anywhere but on a processor. */
    EMIT("mov dword ptr [1f + 1], 0x77\n 1: mov eax, 0x11" : "=a"(value) : : "memory");
    check_equal("the next instruction", value, 0x77);
    EMIT("mov ecx, 5\n xor eax, eax\n 1: add eax, 1\n inc byte ptr [1b + 2]\n loop 1b"
         : "=a"(value) : : "ecx", "memory", "cc");
    check_equal("an immediate in a loop", value, 1 + 2 + 3 + 4 + 5);
    EMIT("mov byte ptr [1f], 0x90\n mov byte ptr [1f + 1], 0x90\n xor eax, eax\n 1: inc eax\n inc eax"
         : "=a"(value) : : "memory", "cc");
    check_equal("an instruction removed", value, 1);
    EMIT("mov byte ptr [1f + 1], 3f - 1f - 2\n mov eax, 1\n 1: jmp 2f\n 2: mov eax, 2\n jmp 4f\n 3: mov eax, 3\n 4:"
         : "=a"(value) : : "memory");
    check_equal("a jump's displacement", value, 3);
    EMIT("push rdi\n mov rdi, offset 1f + 1\n mov eax, 0x55\n stosb\n pop rdi\n 1: mov eax, 0x11"
         : "=a"(value) : : "memory");
    check_equal("the next instruction but one, by STOSB", value, 0x55);
}

static unsigned breakpoints;
static void breakpoint(struct frame *frame)
{
    breakpoints++;
    frame->ip = (word)page + 5;
}

/* Linux's way: INT3 first, then the tail, then the first byte; the processor may be anywhere meanwhile. */
static void staged_patching(void)
{
    handlers[BP] = breakpoint;
    write_function(page, 1);
    map(TEST_AREA + PAGE, (u64)page, P | W);
    for (u32 round = 0; round < 10; round++) {
        write8(TEST_AREA + PAGE, INT3);
        EMIT("cpuid" : : "a"(0) : "rbx", "rcx", "rdx", "memory");
        (void)call(page);
        write32(TEST_AREA + PAGE + 1, round);
        EMIT("cpuid" : : "a"(0) : "rbx", "rcx", "rdx", "memory");
        write8(TEST_AREA + PAGE, MOV_EAX);
        if (call(page) != round)
            give_up("a patched instruction is the old one");
    }
    check_equal("staged patching: the trap was met each time", breakpoints, 10);
    handlers[BP] = NULL;
}

static void linked_blocks(void)
{
    /* A caller in one page, a target in another that changes, and the other way round. */
    u8 *caller = new_pages(1), *target = new_pages(1);
    caller[0] = CALL;
    write32((word)caller + 1, (u32)(target - (caller + 5)));
    caller[5] = RET;
    write_function(target, 1);
    for (int turn = 0; turn < 3; turn++)
        (void)call(caller);
    write_function(target, 2);
    check_equal("a jump's target changed", call(caller), 2);
    write_function(target + 0x100, 3);
    write32((word)caller + 1, (u32)(target + 0x100 - (caller + 5)));
    check_equal("the jump changed", call(caller), 3);
    map(TEST_AREA, (u64)caller, P | W);
    map(TEST_AREA + (word)target - (word)caller, (u64)target, P | W);
    check_equal("the pair at another address", call((void *)TEST_AREA), 3);
    u8 *replaced = new_pages(1);
    write_function(replaced + 0x100, 4);
    map(TEST_AREA + (word)target - (word)caller, (u64)replaced, P | W);
    check_equal("the target's page exchanged by the page table", call((void *)TEST_AREA), 4);
    *entry_of(TEST_AREA + (word)target - (word)caller, 1) = 0;
    invlpg(TEST_AREA + (word)target - (word)caller);
    FAULTS("the target's page taken away", PF, PF_FETCH, (void)call((void *)TEST_AREA));
}

static void code_across_pages(void)
{
    u8 *two = new_pages(2);
    u8 *at = two + PAGE - 3;
    write_function(at, 0x11223344);
    check_equal("an instruction across two pages", call(at), 0x11223344);
    two[PAGE] = 0x99;
    check_equal("its second part rewritten", call(at), 0x11993344);
    at[1] = 0x55;
    check_equal("its first part rewritten", call(at), 0x11993355);
}

static void data_in_code_pages(void)
{
    write_function(page, 0x31);
    for (u32 round = 0; round < 1000; round++) {
        write32((word)page + 0x400, round);
        if (call(page) != 0x31 || read32((word)page + 0x400) != round)
            give_up("data in a code page went wrong");
    }
    check("a thousand writes of data into a page of code", true);
    write8((word)page + 6, 0x90);
    check_equal("a write right behind the code", call(page), 0x31);
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    page = new_pages(1);
    other_pages();
    aliases();
    same_block();
    staged_patching();
    linked_blocks();
    code_across_pages();
    data_in_code_pages();
}
