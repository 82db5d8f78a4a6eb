/*
 * Memory that is a device's, in the middle of any instruction: PUSH, POP, CALL, REP, SSE, read-modify-write, LOCK, page
 * crossings between RAM and device. An address that nobody claims reads as ones; the local APIC answers as it should.
 */
#include "apic.h"

#define NOBODY 0xd0000000ul

static void unclaimed(void)
{
    check_equal("a byte", read8(NOBODY), 0xff);
    check_equal("a word", read16(NOBODY + 2), 0xffff);
    check_equal("a dword", read32(NOBODY + 4), 0xffffffff);
    check_equal("a qword", read64(NOBODY + 8), ~0ull);
    check_equal("a dword off its boundary", read32(NOBODY + 3), 0xffffffff);
    WORKS("a write", write64(NOBODY, 0));
    check_equal("is lost", read64(NOBODY), ~0ull);
}

static void read_modify_write(void)
{
    u64 value = 5;
    u8 carry;
    EMIT("add dword ptr [%1], 1\n setc %0" : "=q"(carry) : "r"(NOBODY) : "memory", "cc");
    check_equal("ADD computes with what was read", carry, 1);
    EMIT("lock xadd [%1], %0" : "+r"(value) : "r"(NOBODY) : "memory", "cc");
    check_equal("LOCK XADD", value, ~0ull);
    value = 1;
    EMIT("xchg [%1], %0" : "+r"(value) : "r"(NOBODY) : "memory");
    check_equal("XCHG", value, ~0ull);
    EMIT("mov rax, -1\n lock cmpxchg [%1], rcx\n setz %0" : "=q"(carry) : "r"(NOBODY) : "rax", "memory", "cc");
    check_equal("CMPXCHG", carry, 1);
    EMIT("bt dword ptr [%1], %2\n setc %0" : "=q"(carry) : "r"(NOBODY), "r"(100) : "cc");
    check_equal("BT beyond its operand", carry, 1);
}

static void stacks(void)
{
    u64 value;
    EMIT("push qword ptr [%1]\n pop %0" : "=r"(value) : "r"(NOBODY));
    check_equal("PUSH from a device", value, ~0ull);
    EMIT("push 7\n pop qword ptr [%0]" : : "r"(NOBODY) : "memory");
    EMIT("mov rcx, rsp\n mov rsp, %1\n pop %0\n mov rdx, rsp\n mov rsp, rcx\n sub rdx, %1\n add %0, rdx"
         : "=&r"(value) : "r"(NOBODY) : "rcx", "rdx", "cc");
    check_equal("POP from a stack that is a device", value, 7);
    EMIT("mov rcx, rsp\n mov rsp, %1\n push rax\n call 1f\n 1: mov %0, rsp\n mov rsp, rcx"
         : "=&r"(value) : "r"(NOBODY + 64) : "rcx", "memory");
    check_equal("PUSH and CALL to one", value, NOBODY + 48);
    task.ist[0] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(PF, 1);
    FAULTS("RET from one goes to nowhere", PF, PF_FETCH, EMIT("mov rsp, %0\n ret" : : "r"(NOBODY)));
    check_equal("namely all ones", caught.ip, ~0ull);
    set_interrupt_stack(PF, 0);
}

static void strings(void)
{
    static u8 target[64];
    u64 count = 40, si = NOBODY, di = (word)target;
    EMIT("rep movsb" : "+c"(count), "+S"(si), "+D"(di) : : "memory");
    check("REP MOVSB from a device", target[0] == 0xff && target[39] == 0xff && !target[40] && !count && si == NOBODY + 40);
    count = 5, si = (word)target, di = NOBODY;
    EMIT("rep movsq" : "+c"(count), "+S"(si), "+D"(di) : : "memory");
    check("REP MOVSQ to a device", !count && di == NOBODY + 40);
    count = 3, si = NOBODY, di = NOBODY + 100;
    EMIT("rep movsd" : "+c"(count), "+S"(si), "+D"(di) : : "memory");
    check("REP MOVSD from device to device", !count && si == NOBODY + 12 && di == NOBODY + 112);
    count = 10, di = NOBODY;
    EMIT("repe scasb" : "+c"(count), "+D"(di) : "a"(0xff) : "cc");
    check("REPE SCASB through a device", !count && di == NOBODY + 10);
    count = 8, si = (word)target, di = NOBODY;
    EMIT("repe cmpsb" : "+c"(count), "+S"(si), "+D"(di) : : "cc");
    check("REPE CMPSB with a device", !count);
    count = 4, di = NOBODY;
    EMIT("rep stosw" : "+c"(count), "+D"(di) : "a"(1) : "memory");
    check("REP STOSW to a device", !count && di == NOBODY + 8);
    u64 last;
    count = 3, si = NOBODY;
    EMIT("xor eax, eax\n rep lodsd" : "=a"(last), "+c"(count), "+S"(si) : : "cc");
    check_equal("REP LODSD from a device", last, 0xffffffff);
}

static void vectors(void)
{
    u64 low, high;
    EMIT("movdqu xmm0, [%2]\n movq %0, xmm0\n psrldq xmm0, 8\n movq %1, xmm0" : "=r"(low), "=r"(high) : "r"(NOBODY));
    check("an SSE load", low == ~0ull && high == ~0ull);
    WORKS("an SSE store", EMIT("movdqu [%0], xmm0\n movaps [%0], xmm0" : : "r"(NOBODY) : "memory"));
    EMIT("xorps xmm0, xmm0\n por xmm0, [%1]\n movq %0, xmm0" : "=r"(low) : "r"(NOBODY));
    check_equal("an SSE operand", low, ~0ull);
    EMIT("fninit\n fld qword ptr [%1]\n fxam\n fnstsw ax\n movzx rax, ax\n mov %0, rax\n fninit"
         : "=r"(low) : "r"(NOBODY) : "rax");
    check_equal("an x87 load of a NaN", low & 0x4500, 0x0100);
    static _Alignas(64) u8 image[512];
    EMIT("fxsave64 [%0]" : : "r"(image) : "memory");
    WORKS("FXSAVE to a device", EMIT("fxsave64 [%0]" : : "r"(NOBODY) : "memory"));
}

static void between_ram_and_device(void)
{
    u8 *ram = new_pages(1);
    map(TEST_AREA, (u64)ram, P | W);
    map(TEST_AREA + PAGE, NOBODY, P | W);
    write32((word)ram + PAGE - 4, 0x11223344);
    check_equal("a qword, half RAM, half device", read64(TEST_AREA + PAGE - 4), 0xffffffff11223344);
    write64(TEST_AREA + PAGE - 4, 0x5566);
    check_equal("written, the RAM half stays", read64(TEST_AREA + PAGE - 4), 0xffffffff00005566);
    u64 count = 16, si = TEST_AREA + PAGE - 8, di = (word)ram;
    EMIT("rep movsb" : "+c"(count), "+S"(si), "+D"(di) : : "memory");
    check_equal("REP MOVSB across", read64((word)ram + 8), ~0ull);
}

static void a_device_that_answers(void)
{
    apic_enable();
    apic_write(APIC_TPR, 0);
    u32 version = apic_read(APIC_VERSION);
    u64 value = version;
    EMIT("cmp dword ptr [%1], %k0\n sete %b0\n movzx %0, %b0" : "+q"(value) : "r"(APIC_BASE + APIC_VERSION) : "cc");
    check_equal("CMP with a register of the local APIC", value, 1);
    EMIT("or dword ptr [%0], 0x30" : : "r"(APIC_BASE + APIC_TPR) : "memory", "cc");
    EMIT("add dword ptr [%0], 0x10" : : "r"(APIC_BASE + APIC_TPR) : "memory", "cc");
    check_equal("OR and ADD to one, each once", apic_read(APIC_TPR), 0x40);
    EMIT("push %0\n pop qword ptr [%1]" : : "r"(0x20ull), "r"(APIC_BASE + APIC_TPR) : "memory");
    check_equal("POP to one", apic_read(APIC_TPR), 0x20);
    EMIT("stosd" : : "a"(0x50), "D"(APIC_BASE + APIC_TPR) : "memory");
    check_equal("STOSD to one", apic_read(APIC_TPR), 0x50);
    u64 count = 1, si = APIC_BASE + APIC_VERSION;
    static u32 copy;
    EMIT("rep movsd" : "+c"(count), "+S"(si) : "D"(&copy) : "memory");
    check_equal("MOVSD from one", copy, version);
    apic_write(APIC_TPR, 0);
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    unclaimed();
    read_modify_write();
    stacks();
    strings();
    vectors();
    between_ram_and_device();
    a_device_that_answers();
}
