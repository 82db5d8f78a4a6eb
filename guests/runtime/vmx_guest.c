/* Guests: where they begin, how they are entered, and what is checked of them; see vmx.h. */
#include "vmx.h"

#ifdef __x86_64__

struct guest guest;

enum vm_result vm_enter(struct guest *guest);
extern u8 guest_returns[];

_Static_assert(offsetof(struct guest, launched) == 15 * 8, "vmx_enter.S");

void begin_at(struct guest *guest, const void *code)
{
    u64 *stack = (u64 *)guest->stack - 1;
    *stack = (u64)guest_returns;
    set(GUEST_RIP, (u64)code);
    set(GUEST_RSP, (u64)stack);
    set(GUEST_RFLAGS, FLAG_FIXED);
    set(GUEST_INTERRUPTIBILITY_STATE, 0);
    set(GUEST_ACTIVITY_STATE, ACTIVE);
    set(GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    set(VM_ENTRY_INTERRUPTION_INFORMATION, 0);
    set_segment(SEGMENT_CS, KERNEL_CODE, 0, 0xffffffff, 0xa09b);
    set_segment(SEGMENT_SS, KERNEL_DATA, 0, 0xffffffff, 0xc093);
}

void begin_at_ring_3(void)
{
    set_segment(SEGMENT_CS, USER_CODE, 0, 0xffffffff, 0xa0fb);
    set_segment(SEGMENT_SS, USER_DATA, 0, 0xffffffff, 0xc0f3);
}

void begin_protected(void)
{
    static u32 *directory;
    if (!directory) {
        directory = new_pages(1);
        for (u32 index = 0; index < PAGE / sizeof *directory; index++)
            directory[index] = index << 22 | LARGE | P | W | U;
    }
    disable(VM_ENTRY_CONTROLS, IA_32E_MODE_GUEST);
    set_segment(SEGMENT_CS, KERNEL_CODE_32, 0, 0xffffffff, 0xc09b);
    set(GUEST_CR3, (u64)directory);
    set(GUEST_CR4, CR4_VMXE | CR4_PSE);
}

void begin_16_bit(u16 selector, bool real)
{
    for (enum segment segment = SEGMENT_ES; segment <= SEGMENT_GS; segment++)
        set_segment(segment, selector, selector << 4, 0xffff, !real ? 0xf3 : segment == SEGMENT_CS ? 0x9b : 0x93);
    set(GUEST_RFLAGS, real ? FLAG_FIXED : FLAG_FIXED | FLAG_VM);
    if (real)
        set(GUEST_CR0, get(GUEST_CR0) & ~(CR0_PE | CR0_PG));
}

void skip_instruction(void) { set(GUEST_RIP, get(GUEST_RIP) + get(VM_EXIT_INSTRUCTION_LENGTH)); }

u32 enter(struct guest *guest)
{
    switch (vm_enter(guest)) {
    case FAIL_INVALID:
        return ENTER_FAILED_INVALID;
    case FAIL_VALID:
        return ENTER_FAILED(get(VM_INSTRUCTION_ERROR));
    default:
        break;
    }
    u32 reason = get(EXIT_REASON);
    /* A VM entry that fails launches nothing. */
    if (!(reason & ENTRY_FAILURE))
        guest->launched = true;
    return reason;
}

void run_guest(const char *name, void (*function)(void))
{
    begin_at(&guest, function);
    check_equal(name, enter(&guest), EXIT_VMCALL);
}

void check_entries(const struct broken *states, size_t count, u32 expected)
{
    /* Where a bad state gets in, its guest comes to nothing. */
    set(EXCEPTION_BITMAP, 0xffffffff);
    set(GUEST_IDTR_LIMIT, 0);
    for (const struct broken *state = states; state < states + count; state++) {
        u64 before[3];
        begin_at(&guest, guest_returns);
        for (unsigned index = 0; index < 3; index++) {
            const struct change *change = &state->changes[index];
            before[index] = get(change->field);
            if (change->keep | change->put | change->field)
                set(change->field, (before[index] & change->keep) | change->put);
        }
        check_equal(state->name, enter(&guest), expected);
        for (unsigned index = 3; index-- > 0;)
            set(state->changes[index].field, before[index]);
    }
    set(EXCEPTION_BITMAP, 0);
    set(GUEST_IDTR_LIMIT, sizeof idt - 1);
    begin_at(&guest, guest_returns);
    check_equal("and all is well again", enter(&guest), EXIT_VMCALL);
}

void check_instruction(const char *name, u64 length, u64 qualification)
{
    if (get(VM_EXIT_INSTRUCTION_LENGTH) != length)
        check_equal(name, get(VM_EXIT_INSTRUCTION_LENGTH), length);
    else
        check_equal(name, get(EXIT_QUALIFICATION), qualification);
}

#endif
