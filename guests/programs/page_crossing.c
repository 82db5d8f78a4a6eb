/*
 * Data and instructions that cross a page: both pages count for rights, nothing is written if the second refuses, the
 * fault's address is in the page that refuses (SDM vol. 3, 4.7, 6.15).
 */
#include "guest.h"

static const u64 first = TEST_AREA, second = TEST_AREA + PAGE;
static u8 *frames[2];

static void both_present(void)
{
    map(first, (u64)frames[0], P | W | U);
    map(second, (u64)frames[1], P | W | U);
}

static void without_second(void)
{
    map(second, 0, 0);
}

static void values(void)
{
    both_present();
    for (u64 offset = 1; offset < 8; offset++)
        write64(second - offset, 0x0102030405060708 * offset);
    write64(second - 4, 0x1122334455667788);
    check_equal("a qword across", read64(second - 4), 0x1122334455667788);
    check_equal("lies in both frames", read32((word)frames[0] + PAGE - 4), 0x55667788);
    check_equal("which are not neighbours", read32((word)frames[1]), 0x11223344);
    check_equal("a word across", read16(second - 1), 0x4455);
    EMIT("add qword ptr [%0], 1" : : "r"(second - 4) : "memory", "cc");
    check_equal("a read-modify-write across", read64(second - 4), 0x1122334455667789);
    u64 old = 1;
    EMIT("lock xadd [%1], %0" : "+r"(old) : "r"(second - 4) : "memory", "cc");
    check_equal("LOCK XADD across", read64(second - 4), 0x112233445566778a);
    check_equal("returns the old value", old, 0x1122334455667789);
    EMIT("movdqu xmm0, [%0]\n movdqu [%0 + 4], xmm0" : : "r"(second - 8) : "memory");
    check_equal("an SSE load and store across", read64(second), 0x112233445566778a);
    write64(second - 4, 0x112233445566778a);
    EMIT("push rsp\n pop rcx\n mov rsp, %0\n push %1\n mov rsp, rcx"
         : : "r"(second + 4), "r"(0x99aabbccddeeff00) : "rcx", "memory");
    check_equal("PUSH across", read64(second - 4), 0x99aabbccddeeff00);
    u64 popped;
    EMIT("mov rcx, rsp\n mov rsp, %1\n pop %0\n mov rsp, rcx" : "=r"(popped) : "r"(second - 4) : "rcx");
    check_equal("POP across", popped, 0x99aabbccddeeff00);
    u32 bit;
    EMIT("bts qword ptr [%1], %2\n setc %b0" : "=&q"(bit) : "r"(second - 4), "r"(70ull) : "memory", "cc");
    check_equal("BTS reaches beyond its operand", read8(second + 4) & 0x40, 0x40);
}

static void second_missing(void)
{
    both_present();
    write32(second - 4, 0);
    without_second();
    FAULTS("a read", PF, 0, read64(second - 4));
    check_equal("CR2 is the second page", caught.cr2, second);
    FAULTS("a write", PF, PF_W, write64(second - 4, ~0ull));
    check_equal("CR2 is the second page again", caught.cr2, second);
    check_equal("and the first is untouched", read32(second - 4), 0);
    FAULTS("a read-modify-write", PF, PF_W, EMIT("add qword ptr [%0], -1" : : "r"(second - 4) : "memory", "cc"));
    check_equal("leaves the first as it was", read32(second - 4), 0);
    FAULTS("a locked one", PF, PF_W, EMIT("lock not qword ptr [%0]" : : "r"(second - 4) : "memory"));
    check_equal("does too", read32(second - 4), 0);
    FAULTS("an SSE store", PF, PF_W, EMIT("movdqu [%0], xmm0" : : "r"(second - 8) : "memory"));
    check_equal("an SSE store leaves it too", read32(second - 4), 0);
    task.ist[0] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(PF, 1);
    FAULTS("a PUSH", PF, PF_W, EMIT("mov rsp, %0\n push -1" : : "r"(second + 4) : "memory"));
    check_equal("writes nothing", read32(second - 4), 0);
    check_equal("moves no RSP", caught.sp, second + 4);
    FAULTS("a CALL", PF, PF_W, EMIT("mov rsp, %0\n call disarm" : : "r"(second + 4) : "memory"));
    check_equal("writes nothing either", read32(second - 4), 0);
    FAULTS("a POP", PF, 0, EMIT("mov rsp, %0\n pop rax" : : "r"(second - 4) : "rax"));
    check_equal("leaves RSP", caught.sp, second - 4);
    set_interrupt_stack(PF, 0);
    map(first, 0, 0);
    map(second, (u64)frames[1], P | W);
    FAULTS("the first page missing", PF, PF_W, write64(second - 4, 1));
    check_equal("CR2 is the operand's address", caught.cr2, second - 4);
    map(second, 0, 0);
    FAULTS("both missing: the first counts", PF, 0, read64(second - 4));
    check_equal("CR2 is in it", caught.cr2, second - 4);
}

static void second_read_only(void)
{
    both_present();
    write32(second - 4, 0);
    map(second, (u64)frames[1], P);
    FAULTS("a write into a read-only second page", PF, PF_P | PF_W, write64(second - 4, ~0ull));
    check_equal("leaves the first page", read32(second - 4), 0);
    WORKS("a read is allowed", read64(second - 4));
    map(second, (u64)frames[1], P | W);
    FAULTS("a supervisor second page, at CPL 3", PF, PF_P | PF_U, RING_3(read64(second - 4)));
}

/* mov eax, imm32; ret: at `second - 2`, so that the immediate's last three bytes are in the second page. */
static void place_code(void)
{
    both_present();
    write8(second - 2, 0xb8);
    write32(second - 1, 0x44332211);
    write8(second + 3, 0xc3);
}

static u32 call(void) { return ((u32(*)(void))(second - 2))(); }

static void supply(struct frame *frame)
{
    (void)frame;
    map(second, (u64)frames[1], P | W | U);
}

static void fetches(void)
{
    place_code();
    check_equal("an instruction across", call(), 0x44332211);
    without_second();
    FAULTS("its second page missing", PF, PF_FETCH, (void)call());
    check_equal("RIP is the instruction", caught.ip, second - 2);
    check_equal("CR2 is the second page's first byte", caught.cr2, second);
    handlers[PF] = supply;
    check_equal("supplied by the handler, it is executed", call(), 0x44332211);
    handlers[PF] = NULL;
    map(second, (u64)frames[1], P | W | NX);
    FAULTS("its second page not executable", PF, PF_P | PF_FETCH, (void)call());
    map(second, (u64)frames[1], P | W);
    FAULTS("its second page the supervisor's, at CPL 3", PF, PF_P | PF_U | PF_FETCH, RING_3((void)call()));
    place_code();
    write8((word)frames[1], 0x99);
    check_equal("its second page rewritten through an alias", call(), 0x44339911);
    u8 *other = new_pages(1);
    memcpy(other, frames[1], 8);
    other[0] = 0x77;
    map(second, (u64)other, P | W);
    check_equal("its second page exchanged", call(), 0x44337711);
    place_code();
    write8(second - 1, 0xc3);
    write8(second - 2, 0x90);
    without_second();
    WORKS("an instruction that ends with its page needs no other", (void)call());
}

/* Puts `code` where its byte number `split` is the second page's first, and gives its first byte's address. */
static u64 place(const char *code, size_t length, u64 split)
{
    both_present();
    memcpy((void *)(second - split), code, length);
    return second - split;
}

#define PLACE(code, split) ((word(*)(word, word))place(code, sizeof code - 1, split))

static void mid_code(void)
{
    for (u64 split = 4; split < 8; split++) {
        /* mov eax, edi; stc; adc eax, 0x100; ret */
        word (*add)(word, word) = PLACE("\x89\xf8\xf9\x15\x00\x01\x00\x00\xc3", split);
        check_equal("it takes the flags of the one before", add(5, 0), 0x106);
        check_equal("and again", add(6, 0), 0x107);
    }
    for (u64 split = 3; split < 8; split++) {
        /* cmp edi, esi; je near +6; mov eax, 1; ret; mov eax, 2; ret */
        word (*compare)(word, word) = PLACE("\x39\xf7\x0f\x84\x06\x00\x00\x00"
                                            "\xb8\x01\x00\x00\x00\xc3\xb8\x02\x00\x00\x00\xc3", split);
        check_equal("a branch across, not taken", compare(1, 2), 1);
        check_equal("taken", compare(2, 2), 2);
    }
    /* mov ecx, 1000; xor eax, eax; inc eax; lea edx, [rax + rax * 4 + 0x11111111]; dec ecx; jnz -13; mov eax, edx; ret */
    word (*loop)(word, word) = PLACE("\xb9\xe8\x03\x00\x00\x31\xc0\xff\xc0\x8d\x94\x80\x11\x11\x11\x11"
                                     "\xff\xc9\x75\xf3\x89\xd0\xc3", 12);
    check_equal("in the midst of a loop", loop(0, 0), 0x11111111 + 5000);
    write8(second, 0x22);
    check_equal("rewritten at its boundary", loop(0, 0), 0x11111122 + 5000);
    write8(second - 1, 0x40);
    check_equal("rewritten before it", loop(0, 0), 0x11111122 + 3000);
    u8 *other = new_pages(1);
    memcpy(other, frames[1], PAGE);
    other[3] = 0x33;
    map(second, (u64)other, P | W | U);
    check_equal("on another second page", loop(0, 0), 0x33111122 + 3000);
    map(second, (u64)frames[1], P | W | U);
    check_equal("and on the old one", loop(0, 0), 0x11111122 + 3000);
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    frames[0] = new_pages(1);
    (void)new_pages(1);
    frames[1] = new_pages(1);
    values();
    second_missing();
    second_read_only();
    fetches();
    mid_code();
}
