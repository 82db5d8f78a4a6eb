/*
 * Accesses near each other in straight-line code, which a translator may check together: each must still be
 * refused, marked and repeated by itself, whatever lies between them (SDM vol. 3, 4.6 to 4.10).
 */
#include "guest.h"

static const u64 first = TEST_AREA, second = TEST_AREA + PAGE;
static u8 *frames[3];

static void both(u64 first_rights, u64 second_rights)
{
    map(first, (u64)frames[0], first_rights);
    map(second, (u64)frames[1], second_rights);
}

static u64 state_at_fault[2];
static void keep_registers(struct frame *frame)
{
    state_at_fault[0] = frame->cx;
    state_at_fault[1] = frame->dx;
    frame->ip = marked;
    caught.vector = frame->vector, caught.error = frame->error, caught.cr2 = read_cr2();
}

static void faults_in_a_row(void)
{
    both(P | W, 0);
    write64(second - 16, 0), write64(second - 8, 0);
    handlers[PF] = keep_registers;
    caught.vector = NONE;
    EMIT("mov qword ptr [marked], offset 1f\n mov ecx, 1\n mov edx, 1\n mov qword ptr [%0 - 16], 11\n"
         "mov ecx, 2\n mov qword ptr [%0 - 8], 22\n mov edx, 2\n mov qword ptr [%0], 33\n mov ecx, 3\n"
         "mov qword ptr [%0 + 8], 44\n 1:" : : "r"(second) : "rcx", "rdx", "memory");
    handlers[PF] = NULL;
    check_equal("the third store faults", caught.vector << 8 | caught.error, PF << 8 | PF_W);
    check_equal("at its address", caught.cr2, second);
    check("the first two are done", read64(second - 16) == 11 && read64(second - 8) == 22);
    check("and the registers between them", state_at_fault[0] == 2 && state_at_fault[1] == 2);
    both(P | W, P);
    write64(second - 8, 0);
    FAULTS("a store, and one to a page that only reads", PF, PF_P | PF_W,
           EMIT("mov rax, [%0]\n mov qword ptr [%0 - 8], 5\n mov rax, [%0 + 8]\n mov [%0 + 16], rax"
                : : "r"(second) : "rax", "memory"));
    check_equal("at the latter's address", caught.cr2, second + 16);
    check_equal("the former is done", read64(second - 8), 5);
}

static void marks(void)
{
    both(P | W, P | W);
    volatile u64 *one = entry_of(first, 1), *two = entry_of(second, 1);
    EMIT("mov rax, [%0 - 8]\n mov rcx, [%0 - 16]\n mov rdx, [%0 + 8]"
         : : "r"(second) : "rax", "rcx", "rdx", "memory");
    check("loads mark both as accessed, neither as dirty", (*one & (A | D)) == A && (*two & (A | D)) == A);
    both(P | W, P | W);
    EMIT("mov [%0 - 8], rax\n mov rcx, [%0]\n mov rdx, [%0 + 8]" : : "r"(second) : "rcx", "rdx", "memory");
    check("a store marks its own page only", (*one & (A | D)) == (A | D) && (*two & (A | D)) == A);
    both(P | W, P | W);
    EMIT("mov rcx, [%0 - 8]\n xor eax, eax\n jz 1f\n mov [%0 - 16], rcx\n 1:"
         : : "r"(second) : "rax", "rcx", "memory", "cc");
    check_equal("a store jumped over marks nothing", *one & (A | D), A);
    both(P | W, 0);
    FAULTS("a load that faults before a store", PF, 0,
           EMIT("mov rcx, [%0 - 8]\n mov rcx, [%0]\n mov [%0 - 16], rcx" : : "r"(second) : "rcx", "memory"));
    check_equal("leaves the store's page clean", *one & (A | D), A);
}

/* Each pair of accesses has something between them that changes what the second may do. */
static void changes_between(void)
{
    both(P | W, P | W);
    volatile u64 *entry = entry_of(first, 1);
    write64((word)frames[0] + 8, 1), write64((word)frames[2] + 8, 2);
    u64 value, other = (u64)frames[2] | P | W, was = (u64)frames[0] | P | W;
    EMIT("mov rax, [%1]\n mov [%2], %3\n invlpg [%1]\n mov %0, [%1 + 8]"
         : "=&r"(value) : "r"(first), "r"(entry), "r"(other) : "rax", "memory");
    check_equal("INVLPG: another page", value, 2);
    EMIT("mov rax, [%1]\n mov [%2], %3\n mov rax, cr3\n mov cr3, rax\n mov %0, [%1 + 8]"
         : "=&r"(value) : "r"(first), "r"(entry), "r"(was) : "rax", "memory");
    check_equal("a write of CR3: another page", value, 1);
    *entry &= ~W;
    invlpg(first);
    write_cr0(read_cr0() & ~CR0_WP);
    FAULTS("WP set between two stores", PF, PF_P | PF_W,
           EMIT("mov [%0], rax\n mov rax, cr0\n or eax, 0x10000\n mov cr0, rax\n mov [%0 + 8], rax"
                : : "r"(first) : "rax", "memory"));
    write_cr0(read_cr0() | CR0_WP);
    *entry |= W;
    invlpg(first);
    u64 page_table_entry = (u64)frames[0] | P;
    FAULTS("a right taken between two stores", PF, PF_P | PF_W,
           EMIT("mov [%0], rax\n mov [%1], %2\n invlpg [%0]\n mov [%0 + 8], rax"
                : : "r"(first), "r"(entry), "r"(page_table_entry) : "memory"));
}

static void access_control_between(void)
{
    struct cpuid seven = cpuid(7, 0);
    if (!(seven.b >> 20 & 1)) {
        skip("SMAP");
        return;
    }
    both(P | W | U, P | W | U);
    identity_is_user(false);
    write_cr4(read_cr4() | CR4_SMAP);
    FAULTS("CLAC between two loads", PF, PF_P,
           EMIT("stac\n mov rax, [%0]\n clac\n mov rax, [%0 + 8]" : : "r"(first) : "rax"));
    check_equal("refuses the second", caught.cr2, first + 8);
    WORKS("STAC between two loads",
          EMIT("mov rax, [%1]\n stac\n mov rax, [%0]\n mov rax, [%0 + 8]\n clac"
               : : "r"(first), "r"(frames[0]) : "rax"));
    FAULTS("POPF that clears AC between two stores", PF, PF_P | PF_W,
           EMIT("stac\n mov [%0], rax\n push 2\n popf\n mov [%0 + 8], rax" : : "r"(first) : "memory", "cc"));
    write_cr4(read_cr4() & ~CR4_SMAP);
    set_flags(FLAG_FIXED);
    if (seven.c >> 3 & 1) {
        write_cr4(read_cr4() | CR4_PKE);
        FAULTS("WRPKRU between two loads", PF, PF_P | PF_KEY,
               EMIT("mov rsi, [%0]\n xor ecx, ecx\n xor edx, edx\n mov eax, 1\n wrpkru\n mov rsi, [%0 + 8]"
                    : : "r"(first) : "rax", "rcx", "rdx", "rsi"));
        EMIT("wrpkru" : : "a"(0), "c"(0), "d"(0));
        write_cr4(read_cr4() & ~CR4_PKE);
    } else {
        skip("protection keys");
    }
    identity_is_user(true);
}

static void bases_between(void)
{
    static u64 values[4] = {10, 11, 12, 13};
    u64 one, two;
    wrmsr(MSR_FS_BASE, (word)values);
    EMIT("mov rsi, fs:[8]\n mov ecx, 0xc0000100\n mov rax, %2\n mov rdx, rax\n shr rdx, 32\n wrmsr\n"
         "mov %1, fs:[8]\n mov %0, rsi"
         : "=&r"(one), "=&r"(two) : "r"((word)values + 16) : "rax", "rcx", "rdx", "rsi", "cc");
    check("the base of FS changed between two loads", one == 11 && two == 13);
    EMIT("mov rcx, %2\n mov %0, [rcx]\n add rcx, 8\n mov %1, [rcx]\n inc rcx"
         : "=&r"(one), "=&r"(two) : "r"(values) : "rcx", "cc");
    check("the base register changed between two loads", one == 10 && two == 11);
    EMIT("mov rcx, %1\n mov rcx, [rcx]\n mov %0, rcx" : "=r"(one) : "r"(values) : "rcx");
    check_equal("a load into its own base", one, 10);
    values[0] = (word)&values[2];
    EMIT("mov rcx, %1\n mov rcx, [rcx]\n mov %0, [rcx + 8]" : "=r"(one) : "r"(values) : "rcx");
    check_equal("and on from there", one, 13);
}

static void sliding(void)
{
    both(P | W, P | W);
    bool right = true;
    for (u64 offset = 0; offset < 160; offset++) {
        u64 base = second - 120 + offset, sum;
        for (u64 at = 0; at < 64; at += 8)
            write64(base + at, offset * 8 + at);
        EMIT("mov rax, [%1]\n add rax, [%1 + 8]\n add rax, [%1 + 24]\n add rax, [%1 + 56]\n"
             "inc qword ptr [%1 + 40]\nmov rcx, [%1 + 40]\n add rax, rcx\n mov [%1 + 16], rax\n mov %0, [%1 + 16]"
             : "=&r"(sum) : "r"(base) : "rax", "rcx", "memory", "cc");
        right &= sum == 5 * offset * 8 + 0 + 8 + 24 + 56 + 40 + 1;
    }
    check("eight words at every distance from a page's end", right);
}

static void stack_frames(void)
{
    both(0, P | W);
    task.ist[0] = (u64)new_pages(1) + PAGE;
    set_interrupt_stack(PF, 1);
    FAULTS("the fourth PUSH of six leaves the page", PF, PF_W,
           EMIT("mov rsp, %0\n push 1\n push 2\n push 3\n push 4\n push 5\n push 6" : : "r"(second + 24) : "memory"));
    check_equal("RSP has moved by three", caught.sp, second);
    check("three are pushed", read64(second) == 3 && read64(second + 8) == 2 && read64(second + 16) == 1);
    both(P | W, 0);
    write64(second - 16, 7), write64(second - 8, 8);
    FAULTS("the third POP of four leaves the page", PF, 0,
           EMIT("mov rsp, %0\n pop rax\n pop rcx\n pop rdx\n pop rsi"
                : : "r"(second - 16) : "rax", "rcx", "rdx", "rsi"));
    check_equal("RSP has moved by two", caught.sp, second);
    set_interrupt_stack(PF, 0);
}

static void with_devices(void)
{
    map(first, (u64)frames[0], P | W);
    map(second, 0xd0000000, P | W);
    u64 ram, device;
    write64(second - 8, 5);
    EMIT("mov %0, [%2 - 8]\n mov %1, [%2]\n mov [%2 + 8], %0\n add %0, [%2 - 8]"
         : "=&r"(ram), "=&r"(device) : "r"(second) : "memory", "cc");
    check("RAM and a device in neighbouring pages", ram == 10 && device == ~0ull);
}

static void with_code(void)
{
    u8 *code = frames[2];
    map(first, (u64)code, P | W);
    memset(code, 0x90, 64);
    code[0] = 0xb8, code[5] = 0xc3;
    u32 before, after;
    write32((word)code + 1, 1);
    EMIT("mov qword ptr [%2 + 64], 1\n call %3\n mov esi, eax\n mov qword ptr [%2 + 72], 2\n"
         "mov dword ptr [%2 + 1], 2\n call %3\n mov %0, esi\n mov %1, eax"
         : "=&r"(before), "=&r"(after) : "r"(first), "r"(code) : "rax", "rsi", "memory", "cc");
    check("a page that becomes code between two stores", before == 1 && after == 2);
}

void run(void)
{
    for (int index = 0; index < 3; index++)
        frames[index] = new_pages(2); /* not next to each other */
    faults_in_a_row();
    marks();
    changes_between();
    access_control_between();
    bases_between();
    sliding();
    stack_frames();
    with_devices();
    with_code();
}
