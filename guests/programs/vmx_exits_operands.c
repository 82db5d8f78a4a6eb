/*
 * Exits of instructions with operands: descriptor-table and VMX instructions in a guest, what the instruction
 * information and the qualification tell (SDM vol. 3, 28.2.1, 28.2.5, tables 28-9 to 28-14).
 */
#include "vmx.h"

/* Parts of the instruction information, as far as tables define them. */
enum {
    SCALE_4 = 2, REGISTER_SHIFT = 3, REGISTER_MASK = 0xf << 3, ADDRESS_64 = 2 << 7, ADDRESS_32 = 1 << 7,
    ADDRESS_MASK = 7 << 7, IN_REGISTER = 1 << 10, SEGMENT_SHIFT = 15, SEGMENT_MASK = 7 << 15, INDEX_SHIFT = 18,
    INDEX_MASK = 0xf << 18, NO_INDEX = 1 << 22, BASE_SHIFT = 23, BASE_MASK = 0xf << 23, NO_BASE = 1 << 27,
    IDENTITY_SHIFT = 28, IDENTITY_MASK = 3 << 28,
};
#define SECOND_SHIFT 28
#define SECOND_MASK 0xf0000000u
#define MEMORY_MASK (3 | ADDRESS_MASK | IN_REGISTER | SEGMENT_MASK | INDEX_MASK | NO_INDEX | BASE_MASK | NO_BASE)
/* [RBX + 4 * R9 + displacement] */
#define INDEXED (SCALE_4 | ADDRESS_64 | SEGMENT_DS << SEGMENT_SHIFT | 9 << INDEX_SHIFT | 3 << BASE_SHIFT)
#define ON_STACK (ADDRESS_64 | SEGMENT_SS << SEGMENT_SHIFT | NO_INDEX | 4 << BASE_SHIFT)

struct instruction {
    const char *name;
    u32 reason, length;
    u64 displacement;
    u32 mask, information;
    void *code;
};

static void exits(const struct instruction *instruction)
{
    begin_at(&guest, instruction->code);
    check_equal(instruction->name, enter(&guest), instruction->reason);
    check_instruction("length and displacement", instruction->length, instruction->displacement);
    u32 information = get(VM_EXIT_INSTRUCTION_INFORMATION);
    /* Without an index there is no scale, with a register no address. */
    u32 mask = instruction->information & NO_INDEX ? instruction->mask & ~(INDEX_MASK | 3u) : instruction->mask;
    if (instruction->information & NO_BASE)
        mask &= ~BASE_MASK;
    check_equal("instruction information", information & mask, instruction->information & mask);
}

static void all(const struct instruction *instructions, size_t count)
{
    for (size_t index = 0; index < count; index++)
        exits(&instructions[index]);
}

#define ALL(instructions) all(instructions, sizeof(instructions) / sizeof *(instructions))

static void descriptor_tables(void)
{
    ENABLE_OR_SKIP(SECONDARY_CONTROLS, DESCRIPTOR_TABLE_EXITING, "descriptor-table exiting");
    const u32 mask = MEMORY_MASK | IDENTITY_MASK;
    const struct instruction of_tables[] = {
        {"SGDT", EXIT_GDTR_OR_IDTR, 5, 0x10, mask, ON_STACK, CODE("sgdt [rsp + 0x10]")},
        {"SIDT", EXIT_GDTR_OR_IDTR, 4, 0, mask, ON_STACK | 1 << IDENTITY_SHIFT, CODE("sidt [rsp]")},
        {"LGDT", EXIT_GDTR_OR_IDTR, 9, 0x11223344, mask, INDEXED | 2 << IDENTITY_SHIFT,
         CODE("lgdt [rbx + 4 * r9 + 0x11223344]")},
        {"LIDT", EXIT_GDTR_OR_IDTR, 9, -0x1000ull, mask, INDEXED | 3 << IDENTITY_SHIFT,
         CODE("lidt [rbx + 4 * r9 - 0x1000]")},
    };
    ALL(of_tables);
    const u32 in_register = IN_REGISTER | REGISTER_MASK | IDENTITY_MASK;
    const struct instruction of_registers[] = {
        {"SLDT to memory", EXIT_LDTR_OR_TR, 4, 0, mask, ON_STACK, CODE("sldt word ptr [rsp]")},
        {"SLDT to a register", EXIT_LDTR_OR_TR, 3, 0, in_register, IN_REGISTER | 1 << REGISTER_SHIFT,
         CODE("sldt ecx")},
        {"STR", EXIT_LDTR_OR_TR, 4, 0, in_register, IN_REGISTER | 10 << REGISTER_SHIFT | 1 << IDENTITY_SHIFT,
         CODE("str r10d")},
        {"LLDT", EXIT_LDTR_OR_TR, 3, 0, in_register, IN_REGISTER | 2 << IDENTITY_SHIFT, CODE("lldt ax")},
        {"LTR", EXIT_LDTR_OR_TR, 3, 0, in_register, IN_REGISTER | 2 << REGISTER_SHIFT | 3 << IDENTITY_SHIFT,
         CODE("ltr dx")},
    };
    ALL(of_registers);
    disable(SECONDARY_CONTROLS, DESCRIPTOR_TABLE_EXITING);
    RUNS("none exits where it is not asked for", "sub rsp, 32\n sgdt [rsp]\n lgdt [rsp]\n sidt [rsp]\n lidt [rsp]");
    RUNS("nor those of LDTR and TR", "sldt eax\n str eax\n xor eax, eax\n lldt ax");
}

/* FS has a base here, but the displacement is the instruction's alone. */
static void vmx_instructions(void)
{
    const u32 pointer = MEMORY_MASK, second = MEMORY_MASK | SECOND_MASK;
    const u32 registers = IN_REGISTER | REGISTER_MASK | SECOND_MASK;
    const struct instruction instructions[] = {
        {"VMCLEAR", EXIT_VMCLEAR, 5, 0, pointer, ON_STACK, CODE("vmclear [rsp]")},
        {"VMPTRLD", EXIT_VMPTRLD, 9, 0x11223344, pointer, INDEXED, CODE("vmptrld [rbx + 4 * r9 + 0x11223344]")},
        {"VMPTRST", EXIT_VMPTRST, 4, 8, pointer,
         ADDRESS_64 | SEGMENT_DS << SEGMENT_SHIFT | NO_INDEX | 6 << BASE_SHIFT, CODE("vmptrst [rsi + 8]")},
        {"VMPTRST by FS", EXIT_VMPTRST, 5, 8, pointer,
         ADDRESS_64 | SEGMENT_FS << SEGMENT_SHIFT | NO_INDEX | 6 << BASE_SHIFT, CODE("vmptrst fs:[rsi + 8]")},
        {"VMPTRST with a 32-bit address", EXIT_VMPTRST, 5, 8, pointer,
         ADDRESS_32 | SEGMENT_DS << SEGMENT_SHIFT | NO_INDEX | 6 << BASE_SHIFT, CODE("vmptrst [esi + 8]")},
        {"VMPTRST to an absolute address", EXIT_VMPTRST, 8, 0x1000, pointer,
         ADDRESS_64 | SEGMENT_DS << SEGMENT_SHIFT | NO_INDEX | NO_BASE, CODE("vmptrst ds:0x1000")},
        {"VMXON", EXIT_VMXON, 5, 0, pointer, ON_STACK, CODE("vmxon [rsp]")},
        {"VMREAD to a register", EXIT_VMREAD, 3, 0, registers,
         IN_REGISTER | 3 << REGISTER_SHIFT | 2u << SECOND_SHIFT, CODE("vmread rbx, rdx")},
        {"VMREAD to memory", EXIT_VMREAD, 4, 0, second, ON_STACK | 2u << SECOND_SHIFT, CODE("vmread [rsp], rdx")},
        {"VMWRITE from a register", EXIT_VMWRITE, 4, 0, registers,
         IN_REGISTER | 3 << REGISTER_SHIFT | 9u << SECOND_SHIFT, CODE("vmwrite r9, rbx")},
        {"VMWRITE from memory", EXIT_VMWRITE, 4, 0, second, ON_STACK | 7u << SECOND_SHIFT,
         CODE("vmwrite rdi, [rsp]")},
        {"VMLAUNCH", EXIT_VMLAUNCH, 3, 0, 0, 0, CODE("vmlaunch")},
        {"VMRESUME", EXIT_VMRESUME, 3, 0, 0, 0, CODE("vmresume")},
        {"VMXOFF", EXIT_VMXOFF, 3, 0, 0, 0, CODE("vmxoff")},
    };
    ALL(instructions);
}

static void invalidations(void)
{
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT) || !offered(SECONDARY_CONTROLS, ENABLE_VPID)) {
        skip("EPT and VPID");
        return;
    }
    const u32 second = MEMORY_MASK | SECOND_MASK;
    const struct instruction instructions[] = {
        {"INVEPT", EXIT_INVEPT, 6, 0, second, ON_STACK | 1u << SECOND_SHIFT, CODE("invept rcx, [rsp]")},
        {"INVVPID", EXIT_INVVPID, 11, 0x11223344, second, INDEXED | 10u << SECOND_SHIFT,
         CODE("invvpid r10, [rbx + 4 * r9 + 0x11223344]")},
    };
    ALL(instructions);
}

/* The displacement is then an address: that of the next instruction is added (SDM vol. 3, 28.2.1). */
static void relative(void)
{
    const u8 *code = CODE("vmptrst [rip + 0x100]");
    begin_at(&guest, code);
    check_equal("VMPTRST relative to RIP", enter(&guest), EXIT_VMPTRST);
    check_instruction("its address", 7, (u64)code + 7 + 0x100);
    check_equal("has no base", get(VM_EXIT_INSTRUCTION_INFORMATION) & (NO_BASE | NO_INDEX), NO_BASE | NO_INDEX);
}

static void at_ring_3(void) { RING_3(EMIT("vmread rax, rcx")); }

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    guest.registers = (struct guest_registers){.bx = TEST_AREA, .r9 = 1};
    set(GUEST_FS_BASE, 0x10000);
    descriptor_tables();
    vmx_instructions();
    invalidations();
    relative();
    begin_at(&guest, at_ring_3);
    check_equal("VMREAD at CPL 3 exits too", enter(&guest), EXIT_VMREAD);
    check_equal("from there", get(GUEST_CS_SELECTOR), USER_CODE);
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
