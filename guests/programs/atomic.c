/*
 * LOCK across a cache line and a page, CMPXCHG8B/16B, XADD, non-temporal stores, cache-line and fence instructions
 * (SDM vol. 3, 8.1.2; vol. 2 for the instructions).
 */
#include "guest.h"

static _Alignas(64) u64 area[32];

static void compare_exchange(void)
{
    u64 low = 1, high = 2;
    u8 equal;
    area[0] = 1, area[1] = 2;
    EMIT("mov rbx, 3\n mov rcx, 4\n lock cmpxchg16b [%3]\n setz %2"
         : "+a"(low), "+d"(high), "=q"(equal) : "r"(area) : "rbx", "rcx", "memory", "cc");
    check_equal("CMPXCHG16B, equal: ZF", equal, 1);
    check("CMPXCHG16B, equal: RCX:RBX is stored", area[0] == 3 && area[1] == 4);
    EMIT("lock cmpxchg16b [%3]\n setz %2"
         : "+a"(low), "+d"(high), "=q"(equal) : "r"(area) : "rbx", "rcx", "memory", "cc");
    check_equal("CMPXCHG16B, not equal: ZF", equal, 0);
    check("CMPXCHG16B, not equal: RDX:RAX is loaded", low == 3 && high == 4);
    FAULTS("CMPXCHG16B off its boundary", GP, 0,
           EMIT("lock cmpxchg16b [%0]" : : "r"(&area[1]) : "rax", "rdx", "memory", "cc"));
    area[0] = 0x0000000200000001;
    u32 old_low = 1, old_high = 2;
    EMIT("mov ebx, 5\n mov ecx, 6\n lock cmpxchg8b [%2]"
         : "+a"(old_low), "+d"(old_high) : "r"(area) : "rbx", "rcx", "memory", "cc");
    check_equal("CMPXCHG8B", area[0], 0x0000000600000005);
    u64 accumulator = ~0ull;
    area[0] = 0xffffffff00000000;
    EMIT("cmpxchg dword ptr [%1], ecx" : "+a"(accumulator) : "r"(area) : "memory", "cc");
    check_equal("CMPXCHG of 32 bits, not equal, clears the upper half of RAX", accumulator, 0);
    FAULTS("LOCK CMPXCHG with a register", UD, 0, EMIT(".byte 0xf0, 0x0f, 0xb1, 0xc8"));
}

static void across_boundaries(void)
{
    word line = (word)area + 64 - 4;
    write64(line, 41);
    EMIT("lock inc qword ptr [%0]" : : "r"(line) : "memory", "cc");
    check_equal("LOCK INC across a cache line", read64(line), 42);
    u8 *frames = new_pages(2);
    word page = (word)frames + PAGE - 4;
    write64(page, ~0ull);
    EMIT("lock add qword ptr [%0], 2" : : "r"(page) : "memory", "cc");
    check_equal("LOCK ADD across a page", read64(page), 1);
    u64 value = 77;
    EMIT("xchg [%1], %0" : "+r"(value) : "r"(page) : "memory");
    check_equal("XCHG across a page: old", value, 1);
    check_equal("XCHG across a page: new", read64(page), 77);
    EMIT("lock bts dword ptr [%0], 31" : : "r"(page) : "memory", "cc");
    check_equal("LOCK BTS across a page", read64(page), 77 | 1ull << 31);
    EMIT("mov eax, 77\n bts rax, 31\n mov ecx, 5\n lock cmpxchg [%0], rcx"
         : : "r"(page) : "rax", "rcx", "memory", "cc");
    check_equal("LOCK CMPXCHG across a page", read64(page), 5);
}

static void non_temporal(void)
{
    EMIT("movnti [%0], %1\n sfence" : : "r"(area), "r"(0x1234567890abcdef) : "memory");
    check_equal("MOVNTI", area[0], 0x1234567890abcdef);
    EMIT("movq xmm0, %1\n pslldq xmm0, 8\n movntdq [%0], xmm0\n sfence" : : "r"(area), "r"(99ull) : "memory");
    check("MOVNTDQ", area[0] == 0 && area[1] == 99);
    FAULTS("MOVNTDQ off its boundary", GP, 0, EMIT("movntdq [%0], xmm0" : : "r"(&area[1]) : "memory"));
    FAULTS("MOVNTI to a missing page", PF, PF_W, EMIT("movnti [%0], rax" : : "r"(TEST_AREA) : "memory"));
}

static void cache_lines(void)
{
    area[0] = 5;
    EMIT("clflush [%0]\n mfence" : : "r"(area) : "memory");
    check_equal("CLFLUSH changes nothing", area[0], 5);
    FAULTS("CLFLUSH of a missing page", PF, 0, EMIT("clflush [%0]" : : "r"(TEST_AREA)));
    FAULTS("CLFLUSH of a non-canonical address", GP, 0, EMIT("clflush [%0]" : : "r"(1ull << 63)));
    WORKS("CLFLUSH at CPL 3", RING_3(EMIT("clflush [%0]" : : "r"(area))));
    map(TEST_AREA, (u64)new_pages(1), P);
    WORKS("CLFLUSH of a read-only page", EMIT("clflush [%0]" : : "r"(TEST_AREA)));
    if (cpuid(7, 0).b >> 23 & 1)
        WORKS("CLFLUSHOPT", EMIT("clflushopt [%0]" : : "r"(area)));
    if (cpuid(7, 0).b >> 24 & 1)
        WORKS("CLWB", EMIT("clwb [%0]" : : "r"(area)));
    WORKS("WBINVD at CPL 0", EMIT("wbinvd"));
    WORKS("the fences", EMIT("lfence\n sfence\n mfence"));
    static word offered;
    offered = cpuid(1, 0).c >> 3 & 1 ? NONE : UD;
    FAULTS("MONITOR works if it is offered", offered, 0, EMIT("monitor" : : "a"(area), "c"(0), "d"(0)));
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    compare_exchange();
    across_boundaries();
    non_temporal();
    cache_lines();
}
