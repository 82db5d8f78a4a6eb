/*
 * What programs that are hypervisors share (SDM vol. 3, chapters 24-31): the VMX instructions, a VMCS for a 64-bit
 * guest that shares paging, GDT, IDT and TSS with its host, and the way in and out.
 *
 * A guest is a piece of the same program: CODE("assembly") or a function of C. It ends with VMCALL. Its exceptions
 * come through the same IDT, so that CATCH and `check` work in it as in the host.
 */
#ifndef VMX_H
#define VMX_H

#include "guest.h"
#include "vmx_fields.h"

/* ---- the VMX instructions, and how they end (SDM vol. 3, 31.2) ---- */

enum vm_result { SUCCEED, FAIL_INVALID, FAIL_VALID };

#define VMX_INSTRUCTION(text, ...)                                                                                 \
    ({                                                                                                             \
        bool carry, zero;                                                                                          \
        asm volatile(text : "=@ccc"(carry), "=@ccz"(zero) : __VA_ARGS__ : "memory");                               \
        carry ? FAIL_INVALID : zero ? FAIL_VALID : SUCCEED;                                                        \
    })

static inline enum vm_result vmxon(u64 region) { return VMX_INSTRUCTION("vmxon %2", "m"(region)); }
static inline enum vm_result vmxoff(void) { return VMX_INSTRUCTION("vmxoff", "X"(0)); }
static inline enum vm_result vmclear(u64 region) { return VMX_INSTRUCTION("vmclear %2", "m"(region)); }
static inline enum vm_result vmptrld(u64 region) { return VMX_INSTRUCTION("vmptrld %2", "m"(region)); }
static inline enum vm_result vmwrite(u64 field, u64 value)
{
    return VMX_INSTRUCTION("vmwrite %2, %3", "r"(field), "r"(value));
}
static inline enum vm_result vmread(u64 field, u64 *value)
{
    bool carry, zero;
    asm volatile("vmread %2, %3" : "=@ccc"(carry), "=@ccz"(zero), "+r"(*value) : "r"(field) : "memory");
    return carry ? FAIL_INVALID : zero ? FAIL_VALID : SUCCEED;
}
static inline u64 vmptrst(void)
{
    u64 region = 0;
    asm volatile("vmptrst %0" : "=m"(region) : : "cc");
    return region;
}

struct invalidation {
    u64 what, linear;
};
/* Types of INVEPT and INVVPID (SDM vol. 3, 31.3). */
enum { SINGLE_EPT = 1, ALL_EPTS = 2, ONE_ADDRESS = 0, ONE_VPID = 1, ALL_VPIDS = 2, ONE_VPID_BUT_GLOBALS = 3 };
static inline enum vm_result invept(u64 type, u64 ept_pointer)
{
    struct invalidation descriptor = {ept_pointer, 0};
    return VMX_INSTRUCTION("invept %2, %3", "r"(type), "m"(descriptor));
}
static inline enum vm_result invvpid(u64 type, u64 vpid, u64 linear)
{
    struct invalidation descriptor = {vpid, linear};
    return VMX_INSTRUCTION("invvpid %2, %3", "r"(type), "m"(descriptor));
}

/* ---- VMX operation, and fields of the current VMCS ---- */

/* Enter VMX operation; end the program if the processor has no VMX. Returns the VMXON region. */
u64 vmx_begin(void);
/* Set what VMXON asks for, up to but without it: IA32_FEATURE_CONTROL, CR0, CR4. */
void vmx_prepare(void);
/* A region with the revision identifier, for VMXON or a VMCS. */
u64 new_vmx_region(void);

/* A field; the program ends if there is none. */
u64 get(enum vmcs_field field);
void set(enum vmcs_field field, u64 value);

/* Whether a word of controls, named by its field, may have these bits set; or clear. */
bool offered(enum vmcs_field controls, u32 bits);
bool may_be_clear(enum vmcs_field controls, u32 bits);
void enable(enum vmcs_field controls, u32 bits);
void disable(enum vmcs_field controls, u32 bits);
/* The same, but skip the rest of the caller's checks if it is not offered. */
#define ENABLE_OR_SKIP(controls, bits, what)                                                                       \
    do {                                                                                                           \
        if (!offered(controls, bits)) {                                                                            \
            skip(what);                                                                                            \
            return;                                                                                                \
        }                                                                                                          \
        enable(controls, bits);                                                                                    \
    } while (0)

/* ---- guests ---- */

struct guest_registers {
    u64 ax, cx, dx, bx, bp, si, di, r8, r9, r10, r11, r12, r13, r14, r15;
};

struct guest {
    struct guest_registers registers; /* all but those that the VMCS holds */
    u64 launched;
    u64 vmcs;
    u8 *stack; /* its end */
};

/* The guest of programs that need one. */
extern struct guest guest;

/* Make a VMCS current that holds a valid state, and all controls at their least. */
void vmcs_begin(struct guest *guest);
/* Have the guest begin at `code`, at CPL 0, active, on an empty stack, with nothing pending. */
void begin_at(struct guest *guest, const void *code);
/* After `begin_at`: begin at CPL 3. */
void begin_at_ring_3(void);
/* After `begin_at`: in 32-bit protected mode, 4 GiB mapped to themselves by 4-MByte pages; IDTR is not set. */
void begin_protected(void);
/* After `begin_protected`: in virtual-8086 mode (`real` false) or in real mode, at selector:0, all segments alike. */
void begin_16_bit(u16 selector, bool real);
void set_segment(enum segment segment, u16 selector, u64 base, u32 limit, u32 access_rights);
/* Move the guest's RIP beyond the instruction that exited. */
void skip_instruction(void);

/* Enter the guest, by VMLAUNCH or VMRESUME, until it exits. Returns the exit reason, or `ENTER_FAILED(error)`. */
u32 enter(struct guest *guest);
#define ENTER_FAILED(error) (0x10000u + (error))
#define ENTER_FAILED_INVALID ENTER_FAILED(0)

/* Code of a guest, in place; it ends with VMCALL. */
#define CODE(text)                                                                                                 \
    ({                                                                                                             \
        void *code;                                                                                                \
        asm volatile("lea %0, 771f[rip]\n jmp 772f\n 771: " text "\n vmcall\n ud2\n 772:" : "=r"(code));           \
        code;                                                                                                      \
    })

/* Inject an event at the next VM entry: its type, vector and so on. */
static inline void inject(u32 information) { set(VM_ENTRY_INTERRUPTION_INFORMATION, INTERRUPTION_VALID | information); }

/* Run code in the guest, and check why it exits. */
#define EXITS(name, reason, text)                                                                                  \
    do {                                                                                                           \
        begin_at(&guest, CODE(text));                                                                              \
        check_equal(name, enter(&guest), reason);                                                                  \
    } while (0)
/* Check that it comes to its end. */
#define RUNS(name, text) EXITS(name, EXIT_VMCALL, text)

/* Run a function in the guest to its end. */
void run_guest(const char *name, void (*function)(void));

/* Check what the last exit tells of an instruction: its length, and the qualification. */
void check_instruction(const char *name, u64 length, u64 qualification);

/* ---- states that VM entries refuse (SDM vol. 3, 27.2, 27.3) ---- */

struct change {
    enum vmcs_field field;
    u64 keep, put; /* it becomes (field & keep) | put */
};
#define OR(field, bits) {field, ~0ull, bits}
#define CLEAR(field, bits) {field, ~(u64)(bits), 0}
#define BE(field, value) {field, 0, value}

struct broken {
    const char *name;
    struct change changes[3];
};

/* For each, make the changes, enter a guest that would run, check the outcome, and undo them. */
void check_entries(const struct broken *states, size_t count, u32 expected);
#define ENTRIES_FAIL(states, expected) check_entries(states, sizeof(states) / sizeof *(states), expected)

/* ---- extended page tables (SDM vol. 3, 29.3) ---- */

enum ept_bit {
    EPT_READ = 1, EPT_WRITE = 2, EPT_EXECUTE = 4, EPT_ALL = 7, EPT_WRITE_BACK = 6 << 3, EPT_LARGE = 0x80,
    EPT_ACCESSED = 0x100, EPT_DIRTY = 0x200,
};
enum { EPT_POINTER_ACCESSED_DIRTY = 0x40 };

/* IA32_VMX_EPT_VPID_CAP (SDM vol. 3, A.10). */
#define CAPABLE_EXECUTE_ONLY (1ull << 0)
#define CAPABLE_1G (1ull << 17)
#define CAPABLE_ACCESSED_DIRTY (1ull << 21)
#define CAPABLE_ADVANCED_INFORMATION (1ull << 22)
bool ept_capable(u64 what);

/* An EPT pointer: 4 GiB mapped to themselves by 2-MByte pages, with all rights. */
u64 new_ept(void);
/* The entry of a guest-physical address at a level, 1 to 4; large pages above it are split. */
volatile u64 *ept_entry(u64 ept_pointer, u64 physical, int level);
/* Turn on EPT with `new_ept`, and return it. */
u64 enable_ept(void);

#endif
