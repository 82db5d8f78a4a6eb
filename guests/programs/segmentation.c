/*
 * Segments in protected mode: types, limits, expand-down, null selectors, conforming code, the LDT, and LAR, LSL, VERR,
 * VERW (SDM vol. 3, 5.3 to 5.8; vol. 2 for the instructions).
 */
#include "guest.h"

enum { S = FREE, ABSENT_DATA = FREE + 8, SYSTEM = FREE + 16, BEYOND = 0x100 };

static u8 data[64] = {1, 2, 3, 4};

#define LOAD(register, selector) EMIT("mov " #register ", %0" : : "r"((u16)(selector)) : "memory")

static void load_fs(u32 base, u32 limit, u8 access, u8 flags)
{
    set_descriptor(S, base, limit, access, flags);
    LOAD(fs, S);
}

/* One byte, or four, at an offset of FS. */
static void get8(u32 offset) { EMIT("mov al, fs:[%0]" : : "r"(offset) : "eax"); }
static void get32(u32 offset) { EMIT("mov eax, fs:[%0]" : : "r"(offset) : "eax"); }
static void put8(u32 offset) { EMIT("mov byte ptr fs:[%0], 9" : : "r"(offset) : "memory"); }

static void bases_and_limits(void)
{
    load_fs((u32)data, 7, DATA, BIG);
    u32 value;
    EMIT("mov %0, fs:[1]" : "=r"(value));
    check_equal("the base is added", value, 0x00040302);
    WORKS("the last byte", get8(7));
    FAULTS("one byte beyond", GP, 0, get8(8));
    WORKS("the last dword", get32(4));
    FAULTS("a dword across the limit", GP, 0, get32(5));
    FAULTS("an offset that wraps with its size", GP, 0, get32(0xfffffffe));
    load_fs((u32)data, 0, DATA, BIG | PAGES);
    WORKS("a limit in pages: its last byte", get8(4095));
    FAULTS("a limit in pages: beyond", GP, 0, get8(4096));
    set_descriptor(S, 0, 0xfffff, DATA, BIG | PAGES);
    WORKS("a new descriptor has no effect before it is loaded", get8(4095));
    FAULTS("nor its limit", GP, 0, get8(4096));
    set_descriptor(S, 0, 15, DATA | DPL(3), BIG);
    FAULTS("the limit of SS", SS, 0, RING_3(EMIT("mov ss, %0\n mov ecx, [esp]" : : "r"((u16)(S | 3)) : "ecx")));
    FAULTS("the limit of SS, with EBP as base", SS, 0, RING_3(EMIT("mov ss, %0\n mov ecx, [ebp + 16]"
                                                                   : : "r"((u16)(S | 3)) : "ecx")));
}

static void expand_down(void)
{
    load_fs(0, 0xfff, DATA_EXPAND_DOWN, BIG);
    FAULTS("expand-down: at the limit", GP, 0, get8(0xfff));
    WORKS("expand-down: above it", get8(0x1000));
    WORKS("expand-down: big ends at 4 GiB", get8(0xffffffff));
    FAULTS("expand-down: a dword from the limit's last byte", GP, 0, get32(0xffe));
    load_fs(0, 0xfff, DATA_EXPAND_DOWN, 0);
    WORKS("expand-down: small ends at 64 KiB", get8(0xffff));
    FAULTS("expand-down: small, beyond", GP, 0, get8(0x10000));
    FAULTS("expand-down: small, a dword across the end", GP, 0, get32(0xfffd));
}

static void types(void)
{
    load_fs((u32)data, 63, DATA_READ_ONLY, BIG);
    WORKS("read-only data: read", get8(0));
    FAULTS("read-only data: write", GP, 0, put8(0));
    load_fs((u32)data, 63, CODE, BIG);
    WORKS("readable code: read", get8(0));
    FAULTS("readable code: write", GP, 0, put8(0));
    set_descriptor(S, 0, 63, CODE_EXECUTE_ONLY, BIG);
    FAULTS("execute-only code into FS", GP, S, LOAD(fs, S));
    FAULTS("code into SS", GP, KERNEL_CODE, LOAD(ss, KERNEL_CODE));
    set_descriptor(S, 0, 63, DATA_READ_ONLY, BIG);
    FAULTS("read-only data into SS", GP, S, LOAD(ss, S));
    set_descriptor(S, 0, 63, DATA | DPL(3), BIG);
    FAULTS("SS of another DPL", GP, S, LOAD(ss, S));
    FAULTS("SS of another RPL", GP, KERNEL_DATA, LOAD(ss, KERNEL_DATA | 1));
    set_descriptor(S, 0, 63, DATA, BIG);
    FAULTS("data of DPL 0 with RPL 3", GP, S, LOAD(fs, S | 3));
    FAULTS("data of DPL 0 at CPL 3", GP, S, RING_3(LOAD(fs, S)));
    set_descriptor(ABSENT_DATA, 0, 63, DATA, BIG);
    gdt[ABSENT_DATA >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("an absent segment into FS", NP, ABSENT_DATA, LOAD(fs, ABSENT_DATA));
    FAULTS("an absent segment into SS", SS, ABSENT_DATA, LOAD(ss, ABSENT_DATA));
    FAULTS("a system descriptor into FS", GP, TASK, LOAD(fs, TASK));
    FAULTS("a selector beyond the GDT", GP, BEYOND, LOAD(fs, BEYOND));
    FAULTS("MOV to CS", UD, 0, EMIT(".byte 0x8e, 0xc8"));
    gdt[S >> 3] &= ~(1ull << 40);
    LOAD(fs, S);
    check_equal("loading sets the accessed bit", gdt[S >> 3] >> 40 & 1, 1);
}

static u16 null_selector;

static void null_selectors(void)
{
    for (null_selector = 0; null_selector < 4; null_selector++) {
        WORKS("a null selector into FS", LOAD(fs, null_selector));
        FAULTS("access through it", GP, 0, get8(0));
    }
    FAULTS("a null selector into SS", GP, 0, LOAD(ss, 0));
    LOAD(fs, KERNEL_DATA);
    WORKS("FS is usable again", get8((u32)data));
}

static void far_call(u16 selector)
{
    struct __attribute__((packed)) {
        u32 offset;
        u16 selector;
    } target = {0, selector};
    EMIT("mov dword ptr [%0], offset 1f\n call fword ptr [%0]\n jmp 2f\n 1: mov eax, cs\n mov [marked], eax\n retf\n"
         "2:"
         : : "r"(&target) : "eax", "memory");
}

static void code_segments(void)
{
    set_descriptor(S, 0, 0xfffff, CODE_CONFORMING, BIG | PAGES);
    WORKS("a far call to conforming code", far_call(S));
    check_equal("has CPL 0 at CPL 0", marked, S);
    RING_3(far_call(S));
    check_equal("has CPL 3 at CPL 3", marked, S | 3);
    FAULTS("a far call to data", GP, KERNEL_DATA, far_call(KERNEL_DATA));
    FAULTS("a far call to null", GP, 0, far_call(0));
    FAULTS("a far call to inner code", GP, KERNEL_CODE, RING_3(far_call(KERNEL_CODE)));
    FAULTS("a far call to outer code", GP, USER_CODE & ~3, far_call(USER_CODE));
    set_descriptor(S, 0, 0xfffff, CODE, BIG | PAGES);
    gdt[S >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("a far call to absent code", NP, S, far_call(S));
    set_descriptor(S, 0, 0xff, CODE, BIG);
    FAULTS("a far call beyond the limit", GP, 0, far_call(S));
    check("is refused before the jump", (caught.cs & ~7) == KERNEL_CODE);
}

static void local_table(void)
{
    static u64 local[2];
    local[1] = descriptor((u32)data, 3, DATA | PRESENT, BIG);
    set_system_descriptor(LOCAL_TABLE, (u32)local, sizeof local - 1, LDT);
    FAULTS("a local selector without an LDT", GP, 0xc, LOAD(fs, 0xc));
    EMIT("lldt %0" : : "r"((u16)LOCAL_TABLE));
    u16 selector;
    EMIT("sldt %0" : "=r"(selector));
    check_equal("SLDT", selector, LOCAL_TABLE);
    WORKS("a local selector", LOAD(fs, 0xc));
    WORKS("its segment", get32(0));
    FAULTS("its limit", GP, 0, get8(4));
    FAULTS("a local selector beyond the LDT", GP, 0x14, LOAD(fs, 0x14));
    FAULTS("LLDT of data", GP, KERNEL_DATA, EMIT("lldt %0" : : "r"((u16)KERNEL_DATA)));
    FAULTS("LLDT of a local selector", GP, 0xc, EMIT("lldt %0" : : "r"((u16)0xc)));
    FAULTS("LLDT at CPL 3", GP, 0, RING_3(EMIT("lldt %0" : : "r"((u16)LOCAL_TABLE))));
    gdt[LOCAL_TABLE >> 3] &= ~((u64)PRESENT << 40);
    FAULTS("LLDT of an absent table", NP, LOCAL_TABLE, EMIT("lldt %0" : : "r"((u16)LOCAL_TABLE)));
    EMIT("lldt %0" : : "r"((u16)0));
    FAULTS("after LLDT of null", GP, 0xc, LOAD(fs, 0xc));
    FAULTS("LTR of a busy task", GP, TASK, EMIT("ltr %0" : : "r"((u16)TASK)));
    FAULTS("LTR of null", GP, 0, EMIT("ltr %0" : : "r"((u16)0)));
}

/* The result if the instruction sets ZF, else all ones. */
#define ASK(instruction, selector)                                                                                 \
    ({                                                                                                             \
        u32 result;                                                                                                \
        EMIT(instruction " %0, %1\n jz 1f\n mov %0, -1\n 1:" : "=&r"(result) : "r"((u32)(selector)) : "cc");       \
        result;                                                                                                    \
    })
#define VERIFY(instruction, selector)                                                                              \
    ({                                                                                                             \
        u8 result;                                                                                                 \
        EMIT(instruction " %1\n setz %0" : "=q"(result) : "r"((u16)(selector)) : "cc");                            \
        result;                                                                                                    \
    })
#define REFUSED 0xffffffff

static void questions(void)
{
    check_equal("LAR of flat code", ASK("lar", KERNEL_CODE) & 0xf0ff00, 0x00c09b00); /* 19:16 are undefined */
    check_equal("LSL of flat code", ASK("lsl", KERNEL_CODE), 0xffffffff);
    set_descriptor(S, 0, 0x1234, DATA, 0);
    check_equal("LSL in bytes", ASK("lsl", S), 0x1234);
    set_descriptor(S, 0, 0x1234, DATA, PAGES);
    check_equal("LSL in pages", ASK("lsl", S), 0x1234fff);
    check_equal("LAR of null", ASK("lar", 0), REFUSED);
    check_equal("LAR beyond the table", ASK("lar", BEYOND), REFUSED);
    check_equal("LAR with RPL 3 of DPL 0", ASK("lar", S | 3), REFUSED);
    set_descriptor(SYSTEM, 0, 0x67, TASK_AVAILABLE, 0);
    check_equal("LAR of a TSS", ASK("lar", SYSTEM), 0x8900);
    check_equal("LSL of a TSS", ASK("lsl", SYSTEM), 0x67);
    set_descriptor(SYSTEM, 0, 0x67, CALL_GATE, 0);
    check_equal("LAR of a call gate", ASK("lar", SYSTEM), 0x8c00);
    check_equal("LSL of a call gate", ASK("lsl", SYSTEM), REFUSED);
    set_descriptor(SYSTEM, 0, 0x67, INTERRUPT_GATE, 0);
    check_equal("LAR of an interrupt gate", ASK("lar", SYSTEM), REFUSED);

    check_equal("VERR of data", VERIFY("verr", KERNEL_DATA), 1);
    check_equal("VERW of data", VERIFY("verw", KERNEL_DATA), 1);
    check_equal("VERR of readable code", VERIFY("verr", KERNEL_CODE), 1);
    check_equal("VERW of code", VERIFY("verw", KERNEL_CODE), 0);
    set_descriptor(S, 0, 1, CODE_EXECUTE_ONLY, 0);
    check_equal("VERR of execute-only code", VERIFY("verr", S), 0);
    set_descriptor(S, 0, 1, DATA_READ_ONLY, 0);
    check_equal("VERW of read-only data", VERIFY("verw", S), 0);
    check_equal("VERR with RPL 3", VERIFY("verr", S | 3), 0);
    set_descriptor(S, 0, 1, CODE_CONFORMING, 0);
    check_equal("VERR of conforming code with RPL 3", VERIFY("verr", S | 3), 1);
    check_equal("VERR of a system segment", VERIFY("verr", TASK), 0);
    u8 adjusted;
    u16 selector = KERNEL_DATA | 1;
    EMIT("arpl %0, %2\n setz %1" : "+r"(selector), "=q"(adjusted) : "r"((u16)3) : "cc");
    check_equal("ARPL raises the RPL", selector | adjusted << 16, KERNEL_DATA | 3 | 1 << 16);
    EMIT("arpl %0, %2\n setz %1" : "+r"(selector), "=q"(adjusted) : "r"((u16)1) : "cc");
    check_equal("ARPL never lowers it", selector | adjusted << 16, KERNEL_DATA | 3);
}

void run(void)
{
    bases_and_limits();
    expand_down();
    types();
    null_selectors();
    code_segments();
    local_table();
    questions();
}
