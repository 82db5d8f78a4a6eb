/*
 * A and D bits: A in every entry used, never for an access that did not happen; D in the leaf, only for a write that
 * was committed (SDM vol. 3, 4.8).
 */
#include "guest.h"

static const u64 linear = TEST_AREA;
static volatile u64 *entry;

static u64 used(void) { return *entry & (A | D); }

static void reset(u64 flags)
{
    *entry = (*entry & 0xffffffffff000) | P | flags;
    invlpg(linear);
}

static void set_by_accesses(void)
{
    reset(W);
    *entry_of(linear, 4) &= ~A;
    *entry_of(linear, 3) &= ~A;
    *entry_of(linear, 2) &= ~A;
    write_cr3(read_cr3());
    (void)read8(linear);
    check_equal("a read sets A only", used(), A);
    for (int level = 2; level <= 4; level++)
        check_equal("and in the entries above", *entry_of(linear, level) & (A | D), A);
    write8(linear, 1);
    check_equal("a write through a cached read translation sets D", used(), A | D);
    reset(W);
    write8(linear, 1);
    check_equal("a write sets both", used(), A | D);
    reset(W);
    EMIT("lock add byte ptr [%0], 0" : : "r"(linear) : "memory", "cc");
    check_equal("a locked read-modify-write", used(), A | D);
    reset(W);
    EMIT("push [%0]\n pop rax" : : "r"(linear) : "rax");
    check_equal("a push from it reads", used(), A);
    reset(W);
    write8(linear, 0xc3);
    reset(W);
    ((void (*)(void))linear)();
    check_equal("a fetch sets A only", used(), A);
    u64 large = TEST_AREA + (1ull << 30);
    *entry_of(large, 2) = 0x400000 | P | W | LARGE;
    write8(large + 0x1000, 0);
    check_equal("a write sets D of a 2-MByte page", *entry_of(large, 2) & (A | D), A | D);
    reset(W | A | D);
    (void)read8(linear);
    check_equal("the processor never clears them", used(), A | D);
}

static void not_set_without_an_access(void)
{
    reset(W);
    invlpg(linear);
    EMIT("prefetcht0 [%0]" : : "r"(linear));
    EMIT("lea rax, [%0]" : : "r"(linear) : "rax");
    EMIT("nop dword ptr [%0]" : : "r"(linear));
    EMIT("xor eax, eax\n test eax, eax\n jz 1f\n mov rax, [%0]\n 1:" : : "r"(linear) : "rax", "cc");
    check_equal("a load that is jumped over", used() & D, 0);
    reset(W);
    EMIT("xor ecx, ecx\n mov rsi, %0\n mov rdi, %0\n rep movsb" : : "r"(linear) : "rcx", "rsi", "rdi", "memory");
    check_equal("REP with a count of 0", used(), 0);
    FAULTS("a write that NX and rights refuse", PF, PF_P | PF_W, reset(0); write8(linear, 1));
    check_equal("a refused write sets no D", used() & D, 0);
    reset(0);
    FAULTS("a user access to a supervisor page", PF, PF_P | PF_W | PF_U, RING_3(write8(linear, 1)));
    check_equal("sets no D either", used() & D, 0);
}

static void only_committed_writes(void)
{
    u64 absent = linear + PAGE;
    map(absent, 0, 0);
    reset(W);
    FAULTS("a write that crosses into a missing page", PF, PF_W, write64(absent - 4, 0));
    check_equal("CR2 is in the missing page", caught.cr2, absent);
    check_equal("which sets no D in the page that is there", used() & D, 0);
    check_equal("and writes nothing there", read32(absent - 4), 0);
    reset(W);
    FAULTS("CMPXCHG16B on a bad boundary", GP, 0,
           EMIT("cmpxchg16b [%0]" : : "r"(linear + 8) : "rax", "rdx", "memory", "cc"));
    check_equal("which sets no D", used() & D, 0);
    reset(W);
    write_cr4(read_cr4() | CR4_OSFXSR);
    FAULTS("MOVAPS to a bad boundary", GP, 0, EMIT("movaps [%0], xmm0" : : "r"(linear + 8) : "memory"));
    check_equal("which sets no D of its own", used() & D, 0);
    reset(W);
    FAULTS("DIV from memory by 0", DE, 0,
           EMIT("xor edx, edx\n div qword ptr [%0]" : : "r"(linear + 16) : "rax", "rdx", "cc"));
    check_equal("is a read", used(), A);
    task.ist[0] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(PF, 1);
    reset(W);
    FAULTS("POP to memory from a missing stack", PF, 0,
           EMIT("mov rbx, rsp\n mov rsp, %1\n pop qword ptr [%0]\n mov rsp, rbx"
                : : "r"(linear), "r"(absent) : "rbx"));
    check_equal("which sets no D in its target", used() & D, 0);
    reset(W);
    EMIT("mov eax, 1\n cmpxchg [%0], ecx" : : "r"(linear + 32) : "eax", "cc", "memory");
    check_equal("CMPXCHG that does not match writes all the same", used(), A | D);
}

void run(void)
{
    void *data = new_pages(1);
    entry = map(linear, (u64)data, P | W);
    set_by_accesses();
    not_set_without_an_access();
    only_committed_writes();
}
