/* First execution of code: straight-line functions of 50 to 100 instructions, written, then each run once. */

#include "code.h"

#define TEMPLATES 64
#define LENGTH (8u << 20)
#define SLOTS 16
#define LEAST 50
#define MOST 100

enum kind { ADD, XOR, MULTIPLY, ROTATE, LEA, STORE, LOAD, NOT, KINDS };

/* One instruction: RAX holds a function's value, RDI points to the slots; the number is an operand. */
struct instruction {
    unsigned kind;
    uint32_t number;
};

/* What functions are copies of: in code, and as data to know the answer by. */
struct template {
    struct instruction instructions[MOST];
    unsigned char code[3 + MOST * 7 + 1];
    size_t count, length;
};

static struct template templates[TEMPLATES];
static unsigned char *code, *entries[LENGTH / (LEAST * 3)];
static uint64_t slots[SLOTS];

static const struct form {
    unsigned char opcode[4], opcode_length, operand_length;
    uint32_t operands; /* a mask */
} forms[KINDS] = {
    [ADD] = {{0x48, 0x05}, 2, 4, 0xffffffff},            /* add rax, imm32 */
    [XOR] = {{0x48, 0x35}, 2, 4, 0xffffffff},            /* xor rax, imm32 */
    [MULTIPLY] = {{0x48, 0x69, 0xc0}, 3, 4, 0xffffffff}, /* imul rax, rax, imm32 */
    [ROTATE] = {{0x48, 0xc1, 0xc0}, 3, 1, 63},           /* rol rax, imm8 */
    [LEA] = {{0x48, 0x8d, 0x44, 0x80}, 4, 1, 127},       /* lea rax, [rax + 4 * rax + disp8] */
    [STORE] = {{0x48, 0x89, 0x47}, 3, 1, 8 * (SLOTS - 1)}, /* mov [rdi + disp8], rax */
    [LOAD] = {{0x48, 0x03, 0x47}, 3, 1, 8 * (SLOTS - 1)},  /* add rax, [rdi + disp8] */
    [NOT] = {{0x48, 0xf7, 0xd0}, 3, 0, 0},               /* not rax */
};

static unsigned char *encode(unsigned char *to, struct instruction instruction)
{
    const struct form *form = &forms[instruction.kind];
    memcpy(to, form->opcode, form->opcode_length);
    memcpy(to + form->opcode_length, &instruction.number, form->operand_length);
    return to + form->opcode_length + form->operand_length;
}

/* What the instruction does to the value. */
static uint64_t apply(struct instruction instruction, uint64_t value)
{
    uint64_t extended = (uint64_t)(int64_t)(int32_t)instruction.number;
    unsigned by = instruction.number;
    switch ((enum kind)instruction.kind) {
    case ADD: return value + extended;
    case XOR: return value ^ extended;
    case MULTIPLY: return value * extended;
    case ROTATE: return by ? value << by | value >> (64 - by) : value;
    case LEA: return 5 * value + extended;
    case STORE: return slots[by / 8] = value;
    case LOAD: return value + slots[by / 8];
    default: return ~value;
    }
}

static void make(struct template *template, uint64_t *seed)
{
    static const unsigned char move_to_rax[3] = {0x48, 0x89, 0xf0}; /* mov rax, rsi */
    unsigned char *to = template->code;
    template->count = LEAST + (next_random(seed) >> 16) % (MOST - LEAST + 1);
    memcpy(to, move_to_rax, sizeof move_to_rax);
    to += sizeof move_to_rax;
    for (size_t i = 0; i < template->count; i++) {
        struct instruction *instruction = &template->instructions[i];
        instruction->kind = (next_random(seed) >> 16) % KINDS;
        instruction->number = (uint32_t)(next_random(seed) >> 16) & forms[instruction->kind].operands;
        to = encode(to, *instruction);
    }
    *to++ = 0xc3; /* ret */
    template->length = (size_t)(to - template->code);
}

/* Fill the memory with functions; their number. */
static size_t emit(void)
{
    unsigned char *to = code;
    size_t count = 0;
    while (to + sizeof templates[0].code <= code + LENGTH) {
        const struct template *template = &templates[count % TEMPLATES];
        memcpy(to, template->code, template->length);
        entries[count++] = to;
        to += template->length;
    }
    return count;
}

/* What the last function makes of what the ones before it made of 1. */
static uint64_t work(void)
{
    uint64_t (*function)(uint64_t *slots, uint64_t value), value = 1;
    size_t count = emit();
    memset(slots, 0, sizeof slots);
    for (size_t i = 0; i < count; i++) {
        memcpy(&function, &entries[i], sizeof function);
        value = function(slots, value);
    }
    return value;
}

/* The same without running them. */
static uint64_t expected(void)
{
    uint64_t value = 1;
    size_t count = emit();
    memset(slots, 0, sizeof slots);
    for (size_t i = 0; i < count; i++) {
        const struct template *template = &templates[i % TEMPLATES];
        for (size_t k = 0; k < template->count; k++)
            value = apply(template->instructions[k], value);
    }
    return value;
}

int main(int argc, char **argv)
{
    uint64_t seed = 2024;
    code = map_code(LENGTH, PROT_READ | PROT_WRITE | PROT_EXEC);
    touch(entries, sizeof entries);
    for (int i = 0; i < TEMPLATES; i++)
        make(&templates[i], &seed);
    return measure("first_run", work, expected(), 1, argc, argv);
}
