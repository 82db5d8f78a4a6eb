/*
 * What every guest program has: checks that print a line, exceptions as values, descriptors, pages, ports.
 *
 * The same interface serves 64-bit programs (long_mode.S) and 32-bit ones (protected_mode.S); a `word` is as wide
 * as a register. A program is one function, `run`. It starts at CPL 0 with interrupts disabled, flat segments and
 * an IDT in which every vector leads to `trap` (trap.c); 64-bit programs have paging on, 32-bit ones off.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word;

/* The program. It returns when its checks are done; the process's exit code says whether all were ok. */
void run(void);

/* ---- checks (check.c): each prints "ok NAME" or "FAIL NAME: got ... expected ..." on port 0xe9 ---- */

void check(const char *name, bool holds);
void check_equal(const char *name, u64 got, u64 expected);
/* Say that the processor lacks what the following checks need. */
void skip(const char *what);
/* Print, for a program's own diagnosis. */
void print(const char *text);
void print_hex(u64 value);
/* End now, failed. */
__attribute__((noreturn)) void give_up(const char *why);

/* ---- exceptions and interrupts (trap.c) ---- */

enum vector {
    DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13,
    PF = 14, MF = 16, AC = 17, XM = 19,
    TO_RING_0 = 0x80, /* what `to_ring_0` uses */
    NONE = 0x100,
};

/* What the stubs in vectors.S push; `sp` and `ss` exist in a 32-bit frame only if the CPL changed. */
struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
    word gs, fs, es, ds, di, si, bp, ignored_sp, bx, dx, cx, ax;
#endif
    word vector, error, ip, cs, flags, sp, ss;
};

typedef void handler(struct frame *);

/* Called in place of `caught`'s mechanism, if not NULL; it may change the frame that it returns through. */
extern handler *handlers[256];

/* The last exception that no handler took. */
extern struct caught {
    word vector, error, ip, cs, flags, sp, ss, cr2;
} caught;

/* An address that assembly marks with HERE, to compare with `caught.ip`. */
extern word marked;
#ifdef __x86_64__
#define HERE "mov qword ptr [marked], offset 77f\n 77: "
#else
#define HERE "mov dword ptr [marked], offset 77f\n 77: "
#endif

/* Returns false; an exception until `disarm` makes it return once more, true, at CPL 0. */
__attribute__((returns_twice)) bool arm(void);
void disarm(void);

/* Run statements; the value is the vector of the exception that ended them, or NONE. */
#define CATCH(...)                                                                                                 \
    ({                                                                                                             \
        caught = (struct caught){.vector = NONE};                                                                  \
        if (!arm()) {                                                                                              \
            __VA_ARGS__;                                                                                           \
        }                                                                                                          \
        disarm();                                                                                                  \
        caught.vector;                                                                                             \
    })

/* Check that statements raise an exception, with this error code (0 for those without one). */
#define FAULTS(name, vector, error_code, ...)                                                                      \
    do {                                                                                                           \
        (void)CATCH(__VA_ARGS__);                                                                                  \
        check_fault(name, vector, error_code);                                                                     \
    } while (0)

/* Check that statements raise no exception. */
#define WORKS(name, ...) FAULTS(name, NONE, 0, __VA_ARGS__)

void check_fault(const char *name, word vector, word error_code);

/* Run statements at CPL 3, on the same stack. */
#define RING_3(...)                                                                                                \
    do {                                                                                                           \
        to_ring_3();                                                                                               \
        __VA_ARGS__;                                                                                               \
        to_ring_0();                                                                                               \
    } while (0)

void to_ring_3(void);
void to_ring_0(void);

/* ---- descriptors ---- */

enum selector {
    KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, USER_CODE_32 = 0x18 | 3, USER_DATA = 0x20 | 3,
    USER_CODE = 0x28 | 3, USER_DATA_64 = 0x30 | 3, KERNEL_CODE_32 = 0x38, CODE_16 = 0x40, DATA_16 = 0x48,
    TASK = 0x50, LOCAL_TABLE = 0x60,
    FREE = 0x70, /* from here up to 0xff, for programs */
};
#ifndef __x86_64__
#define USER_CODE USER_CODE_32
#endif

/* Access bytes (SDM vol. 3, 3.4.5), without DPL; and the flags beside them. */
enum {
    PRESENT = 0x80, CODE = 0x9a, CODE_CONFORMING = 0x9e, CODE_EXECUTE_ONLY = 0x98, DATA = 0x92, DATA_READ_ONLY = 0x90,
    DATA_EXPAND_DOWN = 0x96, LDT = 0x82, TASK_AVAILABLE = 0x89, TASK_BUSY = 0x8b, TASK_GATE = 0x85,
#ifdef __x86_64__
    CALL_GATE = 0x8c, INTERRUPT_GATE = 0x8e, TRAP_GATE = 0x8f,
#else
    CALL_GATE_16 = 0x84, CALL_GATE = 0x8c, INTERRUPT_GATE = 0x8e, TRAP_GATE = 0x8f,
#endif
    BIG = 0x4, LONG = 0x2, PAGES = 0x8,
};
#define DPL(level) ((level) << 5)

extern u64 gdt[32];
extern u64 idt[512]; /* two words an entry in 64-bit programs, one in 32-bit ones */

struct __attribute__((packed)) table {
    u16 limit;
    word base;
};

/* A descriptor; `limit` counts bytes, or pages less one with PAGES. */
u64 descriptor(u32 base, u32 limit, u8 access, u8 flags);
void set_descriptor(u16 selector, u32 base, u32 limit, u8 access, u8 flags);
/* A system descriptor, for LDTs and TSSs: two entries in 64-bit programs. */
void set_system_descriptor(u16 selector, word base, u32 limit, u8 access);
void set_gate(u8 vector, word target, u16 selector, u8 access);
/* The stub that leads to `trap`. */
word stub_of(u8 vector);

#ifdef __x86_64__
struct __attribute__((packed)) task_state {
    u32 reserved;
    u64 rsp[3], reserved_2, ist[7], reserved_3;
    u16 reserved_4, io_map;
    u8 io_bits[8192 + 1];
};
void set_interrupt_stack(u8 vector, u8 ist);
#else
struct __attribute__((packed)) task_state {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trap, io_map;
    u8 interrupt_bits[32], io_bits[8192 + 1];
};
#endif
extern struct task_state task;

/* ---- pages (pages.c, 64-bit programs) ---- */

#define P 0x1ull
#define W 0x2ull
#define U 0x4ull
#define A 0x20ull
#define D 0x40ull
#define LARGE 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

#define PAGE 4096
/* Nothing is mapped here but by `map`; tables that it needs have P, W and U. */
#define TEST_AREA 0x400000000000ull
#define TEST_AREA_HIGH 0xffff900000000000ull

/* Map the 4-KByte page of `linear`; return the entry. */
volatile u64 *map(u64 linear, u64 physical, u64 flags);
/* The entry of `linear` in the table of a level: 1 (PTE) to 4 (PML4E); tables are made as needed. */
volatile u64 *entry_of(u64 linear, int level);
/* Zeroed pages of RAM, for data; identity-mapped. */
void *new_pages(size_t count);
/* Set or clear U in the identity map; programs start with it set. */
void identity_is_user(bool user);

/* ---- instructions ---- */

#define EMIT(...) asm volatile(__VA_ARGS__)

static inline void out8(u16 port, u8 value) { asm volatile("out dx, al" : : "d"(port), "a"(value)); }
static inline void out32(u16 port, u32 value) { asm volatile("out dx, eax" : : "d"(port), "a"(value)); }
static inline u8 in8(u16 port)
{
    u8 value;
    asm volatile("in al, dx" : "=a"(value) : "d"(port));
    return value;
}

static inline u64 rdmsr(u32 index)
{
    u32 low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}
static inline void wrmsr(u32 index, u64 value)
{
    asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

#define CONTROL_REGISTER(name)                                                                                     \
    static inline word read_##name(void)                                                                           \
    {                                                                                                              \
        word value;                                                                                                \
        asm volatile("mov %0, " #name : "=r"(value) : : "memory");                                                 \
        return value;                                                                                              \
    }                                                                                                              \
    static inline void write_##name(word value) { asm volatile("mov " #name ", %0" : : "r"(value) : "memory"); }
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(dr0)
CONTROL_REGISTER(dr1)
CONTROL_REGISTER(dr6)
CONTROL_REGISTER(dr7)
#ifdef __x86_64__
CONTROL_REGISTER(cr8)
#endif

static inline void invlpg(word linear) { asm volatile("invlpg [%0]" : : "r"(linear) : "memory"); }
static inline word flags(void)
{
    word value;
    asm volatile("pushf\n pop %0" : "=r"(value));
    return value;
}
static inline void set_flags(word value) { asm volatile("push %0\n popf" : : "r"(value) : "memory", "cc"); }
static inline u16 code_selector(void)
{
    u16 value;
    asm volatile("mov %0, cs" : "=r"(value));
    return value;
}

struct cpuid {
    u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid result;
    asm volatile("cpuid" : "=a"(result.a), "=b"(result.b), "=c"(result.c), "=d"(result.d) : "a"(leaf), "c"(subleaf));
    return result;
}

static inline u64 rdtsc(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static inline u8 read8(word address) { return *(volatile u8 *)address; }
static inline u16 read16(word address) { return *(volatile u16 *)address; }
static inline u32 read32(word address) { return *(volatile u32 *)address; }
static inline u64 read64(word address) { return *(volatile u64 *)address; }
static inline void write8(word address, u8 value) { *(volatile u8 *)address = value; }
static inline void write16(word address, u16 value) { *(volatile u16 *)address = value; }
static inline void write32(word address, u32 value) { *(volatile u32 *)address = value; }
static inline void write64(word address, u64 value) { *(volatile u64 *)address = value; }

void *memcpy(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);
int memcmp(const void *one, const void *other, size_t count);

/* ---- bits ---- */

enum cr0_bit { CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_NE = 0x20, CR0_WP = 0x10000, CR0_AM = 0x40000 };
#define CR0_PG 0x80000000ul
enum cr4_bit {
    CR4_VME = 1, CR4_PVI = 2, CR4_TSD = 4, CR4_DE = 8, CR4_PSE = 0x10, CR4_PAE = 0x20, CR4_PGE = 0x80,
    CR4_OSFXSR = 0x200, CR4_OSXMMEXCPT = 0x400, CR4_UMIP = 0x800, CR4_FSGSBASE = 0x10000, CR4_PCIDE = 0x20000,
    CR4_OSXSAVE = 0x40000, CR4_SMEP = 0x100000, CR4_SMAP = 0x200000, CR4_PKE = 0x400000,
};
enum flag_bit {
    FLAG_CF = 1, FLAG_FIXED = 2, FLAG_PF = 4, FLAG_AF = 0x10, FLAG_ZF = 0x40, FLAG_SF = 0x80, FLAG_TF = 0x100,
    FLAG_IF = 0x200, FLAG_DF = 0x400, FLAG_OF = 0x800, FLAG_IOPL = 0x3000, FLAG_NT = 0x4000, FLAG_RF = 0x10000,
    FLAG_VM = 0x20000, FLAG_AC = 0x40000, FLAG_VIF = 0x80000, FLAG_VIP = 0x100000, FLAG_ID = 0x200000,
};
enum page_fault_bit { PF_P = 1, PF_W = 2, PF_U = 4, PF_RESERVED = 8, PF_FETCH = 0x10, PF_KEY = 0x20 };
enum msr {
    MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_ADJUST = 0x3b, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176, MSR_PAT = 0x277, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_XSS = 0xda0,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
enum efer_bit { EFER_SCE = 1, EFER_LME = 0x100, EFER_LMA = 0x400, EFER_NXE = 0x800 };

#endif
