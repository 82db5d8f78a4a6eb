/*
 * VMREAD and VMWRITE of every field that the processor has: widths, halves, read-only and unsupported ones
 * (SDM vol. 3, 25.11.2, appendix B; IA32_VMX_VMCS_ENUM, A.9).
 */
#include "vmx.h"

enum { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };
enum { TYPE_CONTROL, TYPE_READ_ONLY, TYPE_GUEST, TYPE_HOST };

#define FINE ~0ull

static const u64 masks[] = {0xffff, ~0ull, 0xffffffff, ~0ull};
static bool writes_all_fields;

/* Processors may drop the reserved bits of access rights. */
static u64 mask_of(u64 field)
{
    bool access_rights = field >= GUEST_ES_ACCESS_RIGHTS && field <= GUEST_TR_ACCESS_RIGHTS;
    return access_rights ? 0x1f0ff : masks[field >> 13 & 3];
}

static bool supported(u64 field)
{
    u64 value = 0;
    return vmread(field, &value) == SUCCEED;
}

static u64 error(enum vm_result result) { return result == FAIL_VALID ? get(VM_INSTRUCTION_ERROR) : 0; }

static bool holds(u64 field, u64 value)
{
    u64 mask = mask_of(field);
    return vmwrite(field, value) == SUCCEED && (get(field) & mask) == (value & mask);
}

static bool round_trip(u64 field)
{
    static const u64 values[] = {~0ull, 0, 0x123456789abcdef0, 0xfedcba9876543210};
    for (size_t index = 0; index < sizeof values / sizeof *values; index++)
        if (!holds(field, values[index]))
            return false;
    return true;
}

static bool halves(u64 field)
{
    set(field, 0x1111111122222222);
    return get(field + 1) == 0x11111111 && vmwrite(field + 1, 0x5555555533333333) == SUCCEED &&
           get(field) == 0x3333333322222222;
}

static bool read_only(u64 field)
{
    return writes_all_fields ? round_trip(field) : error(vmwrite(field, 0)) == ERROR_READ_ONLY_FIELD;
}

static bool no_half(u64 field)
{
    u64 value = 0;
    return error(vmread(field + 1, &value)) == ERROR_UNSUPPORTED_FIELD &&
           error(vmwrite(field + 1, 0)) == ERROR_UNSUPPORTED_FIELD;
}

/* The first field of a type and a width for which something does not hold, or FINE. */
static u64 all(u64 type, u64 width, bool (*what)(u64 field))
{
    u64 highest = rdmsr(MSR_VMX_VMCS_ENUM) >> 1 & 0x1ff;
    for (u64 index = 0; index <= highest; index++) {
        u64 field = width << 13 | type << 10 | index << 1;
        if (supported(field) && !what(field))
            return field;
    }
    return FINE;
}

static void every_field(void)
{
    static const char *const names[] = {"16 bits", "64 bits", "32 bits", "natural width"};
    for (u64 width = WIDTH_16; width <= WIDTH_NATURAL; width++) {
        check_equal(names[width], all(TYPE_CONTROL, width, round_trip), FINE);
        check_equal("of the guest", all(TYPE_GUEST, width, round_trip), FINE);
        check_equal("of the host", all(TYPE_HOST, width, round_trip), FINE);
        check_equal("read-only ones", all(TYPE_READ_ONLY, width, read_only), FINE);
    }
    check_equal("the halves of 64-bit controls", all(TYPE_CONTROL, WIDTH_64, halves), FINE);
    check_equal("of the guest's fields", all(TYPE_GUEST, WIDTH_64, halves), FINE);
    check_equal("of the host's fields", all(TYPE_HOST, WIDTH_64, halves), FINE);
    check_equal("16-bit fields have none", all(TYPE_GUEST, WIDTH_16, no_half), FINE);
    check_equal("nor 32-bit ones", all(TYPE_GUEST, WIDTH_32, no_half), FINE);
    check_equal("nor natural ones", all(TYPE_GUEST, WIDTH_NATURAL, no_half), FINE);
}

static void unsupported(void)
{
    static const struct {
        const char *name;
        u64 field;
    } cases[] = {
        {"an index that no field has", 0x69fe},
        {"bit 12 of the encoding", GUEST_RIP | 1 << 12},
        {"bit 15", GUEST_RIP | 1 << 15},
        {"bit 31", GUEST_RIP | 1u << 31},
        {"bit 32", GUEST_RIP | 1ull << 32},
        {"bit 63", GUEST_RIP | 1ull << 63},
    };
    set(GUEST_RIP, 0);
    for (size_t index = 0; index < sizeof cases / sizeof *cases; index++) {
        u64 value = 0x77;
        check_equal(cases[index].name, error(vmread(cases[index].field, &value)), ERROR_UNSUPPORTED_FIELD);
        check_equal("reads nothing", value, 0x77);
        check_equal("VMWRITE too", error(vmwrite(cases[index].field, 0x77)), ERROR_UNSUPPORTED_FIELD);
    }
    check_equal("writes nothing", get(GUEST_RIP), 0);
}

/* With a memory operand, 64 bits are read and written, whatever the field's width. */
static void memory(void)
{
    u64 value[2] = {0x5555555555555555, 0x6666666666666666}, field = GUEST_CS_SELECTOR;
    set(GUEST_CS_SELECTOR, 0x9876);
    EMIT("vmread %0, %1" : "+m"(*value) : "r"(field) : "cc");
    check_equal("VMREAD to memory", value[0], 0x9876);
    check_equal("writes 8 bytes", value[1], 0x6666666666666666);
    field = GUEST_RIP;
    EMIT("vmwrite %1, %0" : : "m"(value[1]), "r"(field) : "cc");
    check_equal("VMWRITE from memory", get(GUEST_RIP), 0x6666666666666666);
    FAULTS("VMREAD to a page that is not there", PF, PF_W, EMIT("vmread [rax], rcx" : : "a"(TEST_AREA), "c"(field)));
    FAULTS("VMWRITE from it", PF, 0, EMIT("vmwrite rcx, [rax]" : : "a"(TEST_AREA), "c"(field)));
}

void run(void)
{
    vmx_begin();
    writes_all_fields = rdmsr(MSR_VMX_MISC) >> 29 & 1;
    vmcs_begin(&guest);
    every_field();
    unsupported();
    memory();
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
