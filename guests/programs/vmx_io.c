/*
 * Exits of I/O instructions: unconditional or by bitmaps, what the qualification tells, string instructions
 * (SDM vol. 3, 25.6.4, 26.1.3, 28.2.1 table 28-5).
 */
#include "vmx.h"

/* A port to which anything may be written. */
enum { PORT = 0x80, HIGH_PORT = 0x9234 };

/* Parts of the qualification. */
enum { IN = 1 << 3, STRING = 1 << 4, REPEATED = 1 << 5, IMMEDIATE = 1 << 6 };
#define IO(size, port) (((size) - 1) | (u64)(port) << 16)

static u8 *bitmap_a, *bitmap_b;
static u8 data[16];

struct instruction {
    const char *name;
    u32 length;
    u64 qualification;
    void *code;
};

static void registers(u16 port)
{
    guest.registers = (struct guest_registers){
        .ax = 0, .dx = port, .cx = 3, .si = (u64)data, .di = (u64)data,
    };
}

static void exits(const struct instruction *instruction, u16 port)
{
    begin_at(&guest, instruction->code);
    registers(port);
    check_equal(instruction->name, enter(&guest), EXIT_IO);
    check_instruction("length and qualification", instruction->length, instruction->qualification);
}

static void forms(void)
{
    const struct instruction instructions[] = {
        {"OUT DX, AL", 1, IO(1, PORT), CODE("out dx, al")},
        {"OUT DX, AX", 2, IO(2, PORT), CODE("out dx, ax")},
        {"OUT DX, EAX", 1, IO(4, PORT), CODE("out dx, eax")},
        {"OUT imm8, AL", 2, IO(1, PORT) | IMMEDIATE, CODE("out 0x80, al")},
        {"IN AL, DX", 1, IO(1, PORT) | IN, CODE("in al, dx")},
        {"IN AX, DX", 2, IO(2, PORT) | IN, CODE("in ax, dx")},
        {"IN EAX, DX", 1, IO(4, PORT) | IN, CODE("in eax, dx")},
        {"IN EAX, imm8", 2, IO(4, PORT) | IN | IMMEDIATE, CODE("in eax, 0x80")},
        {"OUTSB", 1, IO(1, PORT) | STRING, CODE("outsb")},
        {"REP OUTSW", 3, IO(2, PORT) | STRING | REPEATED, CODE(".byte 0x66\n rep outsd")},
        {"INSD", 1, IO(4, PORT) | STRING | IN, CODE("insd")},
        {"REP INSB", 2, IO(1, PORT) | STRING | REPEATED | IN, CODE("rep insb")},
    };
    for (size_t index = 0; index < sizeof instructions / sizeof *instructions; index++) {
        exits(&instructions[index], PORT);
        if (instructions[index].qualification & STRING)
            check_equal("guest-linear address", get(GUEST_LINEAR_ADDRESS), (u64)data);
    }
}

/* Table 28-8: address size in bits 9:7, for OUTS the segment in bits 17:15; if IA32_VMX_BASIC has bit 54. */
static void string_information(void)
{
    set(GUEST_FS_BASE, 0x10);
    begin_at(&guest, CODE("fs outsb"));
    registers(PORT);
    check_equal("OUTSB by FS", enter(&guest), EXIT_IO);
    check_equal("adds the base", get(GUEST_LINEAR_ADDRESS), (u64)data + 0x10);
    if (rdmsr(MSR_VMX_BASIC) >> 54 & 1) {
        check_equal("instruction information", get(VM_EXIT_INSTRUCTION_INFORMATION) & 0x38380,
                    SEGMENT_FS << 15 | 2 << 7);
        begin_at(&guest, CODE(".byte 0x67\n insb"));
        check_equal("INSB with a 32-bit address", enter(&guest), EXIT_IO);
        check_equal("is told", get(VM_EXIT_INSTRUCTION_INFORMATION) & 0x380, 1 << 7);
    } else {
        skip("instruction information of INS and OUTS");
    }
}

/* What was repeated before the exit is done: RCX and RSI are the guest's. */
static void repetition(void)
{
    begin_at(&guest, CODE("rep outsb"));
    registers(PORT);
    check_equal("REP OUTSB", enter(&guest), EXIT_IO);
    check_equal("exits at its first port access", guest.registers.cx, 3);
    guest.registers.cx = 2;
    guest.registers.si++;
    check_equal("and, resumed, at the next", enter(&guest), EXIT_IO);
    check_equal("where the host left it", get(GUEST_LINEAR_ADDRESS), (u64)data + 1);
    skip_instruction();
    check_equal("or not at all", enter(&guest), EXIT_VMCALL);
}

static void mark(u16 port, bool on)
{
    u8 *bitmap = port < 0x8000 ? bitmap_a : bitmap_b;
    u8 bit = 1 << port % 8;
    bitmap[port % 0x8000 / 8] = on ? bitmap[port % 0x8000 / 8] | bit : bitmap[port % 0x8000 / 8] & ~bit;
}

static u32 try(const void *code, u16 port)
{
    begin_at(&guest, code);
    registers(port);
    return enter(&guest);
}

static void bitmaps(void)
{
    const void *byte = CODE("out dx, al"), *word = CODE("out dx, ax"), *dword = CODE("in eax, dx");
    set(IO_BITMAP_A, (u64)bitmap_a);
    set(IO_BITMAP_B, (u64)bitmap_b);
    enable(PRIMARY_CONTROLS, USE_IO_BITMAPS);
    check_equal("bitmaps of zeros: no exit, although unconditional exits are asked for", try(byte, PORT), EXIT_VMCALL);
    disable(PRIMARY_CONTROLS, UNCONDITIONAL_IO_EXITING);
    check_equal("nor otherwise", try(byte, PORT), EXIT_VMCALL);
    mark(PORT, true);
    check_equal("the port's bit", try(byte, PORT), EXIT_IO);
    check_equal("not that of the next", try(byte, PORT + 1), EXIT_VMCALL);
    check_equal("nor of the one before", try(byte, PORT - 1), EXIT_VMCALL);
    mark(PORT, false);
    mark(PORT + 1, true);
    check_equal("a word takes in the next", try(word, PORT), EXIT_IO);
    check_equal("which the qualification does not tell", get(EXIT_QUALIFICATION), IO(2, PORT));
    mark(PORT + 1, false);
    mark(PORT + 3, true);
    check_equal("a dword takes in three", try(dword, PORT), EXIT_IO);
    check_equal("a word does not", try(word, PORT), EXIT_VMCALL);
    mark(PORT + 3, false);
    mark(HIGH_PORT, true);
    check_equal("bitmap B", try(byte, HIGH_PORT), EXIT_IO);
    check_equal("is of the upper half alone", try(byte, HIGH_PORT - 0x8000), EXIT_VMCALL);
    mark(HIGH_PORT, false);
    mark(0x8000, true);
    check_equal("a word across both", try(word, 0x7fff), EXIT_IO);
    mark(0x8000, false);
    check_equal("a word that wraps exits always", try(word, 0xffff), EXIT_IO);
    check_equal("its qualification", get(EXIT_QUALIFICATION), IO(2, 0xffff));
    mark(PORT, true);
    check_equal("IMMEDIATE ports", try(CODE("out 0x80, al"), PORT), EXIT_IO);
    check_equal("strings", try(CODE("outsb"), PORT), EXIT_IO);
    mark(PORT, false);
}

static void faults(void) { FAULTS("OUT at CPL 3 without permission faults", GP, 0, RING_3(out8(PORT, 0))); }

static void at_ring_3(void) { RING_3(out8(PORT, 0)); }

void run(void)
{
    vmx_begin();
    bitmap_a = new_pages(1);
    bitmap_b = new_pages(1);
    vmcs_begin(&guest);
    RUNS("without a control, I/O is the guest's", "mov dx, 0x80\n out dx, al\n in al, dx");
    enable(PRIMARY_CONTROLS, UNCONDITIONAL_IO_EXITING);
    forms();
    string_information();
    repetition();
    bitmaps();
    mark(PORT, true);
    run_guest("permissions come first", faults);
    begin_at(&guest, at_ring_3);
    set(GUEST_RFLAGS, FLAG_FIXED | FLAG_IOPL);
    check_equal("with IOPL 3 it exits", enter(&guest), EXIT_IO);
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
