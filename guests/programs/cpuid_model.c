/*
 * CPUID tells one story: leaves agree with each other, features that need others have them, what is announced works
 * and what is not raises #UD (SDM vol. 2, CPUID). Constant whoever asks.
 */
#include "guest.h"

static u32 bit(u32 value, unsigned number) { return value >> number & 1; }

static void ranges(void)
{
    struct cpuid basic = cpuid(0, 0), extended = cpuid(0x80000000, 0);
    check("the highest basic leaf reaches topology and XSAVE", basic.a >= 0xd && basic.a < 0x100);
    check("the highest extended leaf reaches address sizes", extended.a >= 0x80000008);
    check("there is a vendor", basic.b && basic.c && basic.d);
    struct cpuid beyond = cpuid(basic.a + 1, 0), last = cpuid(basic.a, 0);
    check("beyond the highest leaf there is zero, or the last leaf's data",
          !(beyond.a | beyond.b | beyond.c | beyond.d) || !memcmp(&beyond, &last, sizeof last));
    struct cpuid first = cpuid(1, 0), again = cpuid(1, 77);
    check("a leaf without subleaves ignores ECX", !memcmp(&first, &again, sizeof first));
    u32 upper;
    EMIT("mov rax, -1\n mov eax, 0\n or rax, 0\n mov rcx, -1\n mov rbx, -1\n mov eax, 1\n cpuid\n shr rbx, 32\n"
         "mov %0, ebx"
         : "=r"(upper) : : "rax", "rbx", "rcx", "rdx", "cc");
    check_equal("the upper halves are cleared", upper, 0);
}

static void sizes(void)
{
    struct cpuid address = cpuid(0x80000008, 0);
    check("physical addresses have 36 to 52 bits", (address.a & 0xff) >= 36 && (address.a & 0xff) <= 52);
    u32 linear = bit(cpuid(7, 0).c, 16) ? 57 : 48;
    check_equal("linear addresses have 48 bits unless there is LA57", address.a >> 8 & 0xff, linear);
    check_equal("a cache line has 64 bytes", (cpuid(1, 0).b >> 8 & 0xff) * 8, 64);
}

static void features(void)
{
    struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0), extended = cpuid(0x80000001, 0);
    check("long mode, NX, SYSCALL", bit(extended.d, 29) && bit(extended.d, 20) && bit(extended.d, 11));
    check("what 64-bit systems take for granted", bit(one.d, 0) && bit(one.d, 4) && bit(one.d, 5) && bit(one.d, 6) &&
          bit(one.d, 8) && bit(one.d, 9) && bit(one.d, 13) && bit(one.d, 15) && bit(one.d, 24) && bit(one.d, 26));
    check("AVX needs XSAVE", !bit(one.c, 28) || bit(one.c, 26));
    check("AVX2 needs AVX", !bit(seven.b, 5) || bit(one.c, 28));
    check("FMA and F16C need AVX", !(bit(one.c, 12) || bit(one.c, 29)) || bit(one.c, 28));
    check("AVX-512's parts need its foundation",
          !(bit(seven.b, 17) || bit(seven.b, 30) || bit(seven.b, 31)) || bit(seven.b, 16));
    check("SSE4.2 needs SSE4.1 needs SSSE3", (!bit(one.c, 20) || bit(one.c, 19)) && (!bit(one.c, 19) || bit(one.c, 9)));
    check("a hypervisor says so", bit(one.c, 31));
    check("the hypervisor's leaves answer", cpuid(0x40000000, 0).a >= 0x40000000);
}

static void extended_state(void)
{
    if (!bit(cpuid(1, 0).c, 26)) {
        skip("XSAVE");
        return;
    }
    struct cpuid main = cpuid(0xd, 0);
    check_equal("XCR0 offers x87 and SSE", main.a & 3, 3);
    check_equal("XCR0 offers AVX with AVX", main.a >> 2 & 1, bit(cpuid(1, 0).c, 28));
    check("AVX-512's three come together", (main.a >> 5 & 7) == 0 || (main.a >> 5 & 7) == 7);
    check_equal("AVX-512 goes with its state", main.a >> 5 & 1, bit(cpuid(7, 0).b, 16));
    u32 end = 576;
    for (u32 number = 2; number < 32; number++) {
        struct cpuid part = cpuid(0xd, number);
        if (bit(main.a, number) && part.b + part.a > end)
            end = part.b + part.a;
        if (!bit(main.a, number) && (part.a | part.b))
            give_up("a component that XCR0 does not offer has a size");
    }
    check_equal("the largest area holds every component", main.c, end);
}

static void topology(void)
{
    struct cpuid core = cpuid(0xb, 1);
    check_equal("x2APIC ID and APIC ID agree", cpuid(0xb, 0).d & 0xff, cpuid(1, 0).b >> 24);
    check_equal("leaf 0xb: the second level is cores", core.c >> 8 & 0xff, 2);
    check("leaf 4: a level-1 data cache", (cpuid(4, 0).a & 0xff) == 0x21 || !cpuid(4, 0).a);
}

/* Each must work if it is announced, and raise #UD if not. */
#define ANNOUNCED(name, present, instruction)                                                                      \
    check_equal(name " as announced", CATCH(EMIT(instruction : : : "rax", "rbx", "rcx", "rdx", "rsi", "memory", "cc")), \
                (present) ? NONE : UD)

static void announcements(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    struct cpuid one = cpuid(1, 0), seven = cpuid(7, 0), extended = cpuid(0x80000001, 0);
    ANNOUNCED("RDRAND", bit(one.c, 30), "rdrand rax");
    ANNOUNCED("RDSEED", bit(seven.b, 18), "rdseed rax");
    ANNOUNCED("POPCNT", bit(one.c, 23), "popcnt rax, rbx");
    ANNOUNCED("CRC32", bit(one.c, 20), "crc32 eax, ebx");
    ANNOUNCED("PSHUFB", bit(one.c, 9), "pshufb xmm0, xmm1");
    ANNOUNCED("AESENC", bit(one.c, 25), "aesenc xmm0, xmm1");
    ANNOUNCED("PCLMULQDQ", bit(one.c, 1), "pclmulqdq xmm0, xmm1, 0");
    ANNOUNCED("MOVBE", bit(one.c, 22), "mov rsi, rsp\n movbe rax, [rsi]");
    ANNOUNCED("ANDN", bit(seven.b, 3), "andn rax, rbx, rcx");
    ANNOUNCED("PEXT", bit(seven.b, 8), "pext rax, rbx, rcx");
    ANNOUNCED("ADCX", bit(seven.b, 19), "adcx rax, rbx");
    ANNOUNCED("SHA1MSG1", bit(seven.b, 29), "sha1msg1 xmm0, xmm1");
    ANNOUNCED("RDPID", bit(seven.c, 22), "rdpid rax");
    ANNOUNCED("RDTSCP", bit(extended.d, 27), "rdtscp");
    ANNOUNCED("LAHF", bit(extended.c, 0), "lahf");
    ANNOUNCED("GF2P8MULB", bit(seven.c, 8), "gf2p8mulb xmm0, xmm1");
    /* KVM's hypercall is announced by KVM's signature. */
    u32 hypervisor = cpuid(0x40000000, 0).b;
    ANNOUNCED("VMCALL", bit(one.c, 31) && hypervisor == 0x4b4d564b, "vmcall");
    /* Without its bit this is BSR, which every processor has. */
    u64 count;
    EMIT("mov eax, 0x10\n lzcnt rax, rax" : "=a"(count) : : "cc");
    check_equal("LZCNT, or else BSR", count, bit(extended.c, 5) ? 59 : 4);
    EMIT("mov eax, 0x10\n tzcnt rax, rax" : "=a"(count) : : "cc");
    check_equal("TZCNT and BSF agree here", count, 4);
}

static void from_ring_3(void)
{
    static struct cpuid kernel, user;
    kernel = cpuid(7, 0);
    RING_3(user = cpuid(7, 0));
    check("CPUID at CPL 3 is the same", !memcmp(&kernel, &user, sizeof user));
}

void run(void)
{
    ranges();
    sizes();
    features();
    extended_state();
    topology();
    announcements();
    from_ring_3();
}
