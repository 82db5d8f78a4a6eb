/*
 * VM functions: EPTP switching, what it switches and what it refuses, at any privilege (SDM vol. 3, 26.5.6).
 */
#include "vmx.h"

enum { SWITCHING = 1, VIEWS = 2, REPEATS = 200, LIST_ENTRIES = 512, LENGTH = 3 };
static const u64 linear = TEST_AREA + 0x9000;

static u64 views[VIEWS], pages[VIEWS], *list;

static u32 try(void *code, u64 function, u64 index)
{
    begin_at(&guest, code);
    guest.registers.ax = function;
    guest.registers.cx = index;
    guest.registers.bx = linear;
    return enter(&guest);
}

static void switches(void)
{
    void *code = CODE("mov rsi, [rbx]\n vmfunc\n mov rdi, [rbx]\n mov qword ptr [rbx + 8], 7");
    set(EPT_POINTER, views[0]);
    check_equal("VMFUNC", try(code, 0, 1), EXIT_VMCALL);
    check_equal("before it, the page of the first view", guest.registers.si, 0x100);
    check_equal("after it, that of the second", guest.registers.di, 0x101);
    check_equal("which is written", read64(pages[1] + 8), 7);
    check_equal("the first is not", read64(pages[0] + 8), 0);
    check_equal("the EPT pointer is the second", get(EPT_POINTER), views[1]);
    check_equal("the upper halves of RAX and RCX", try(code, 5ull << 32, 5ull << 32), EXIT_VMCALL);
    check_equal("do not count", get(EPT_POINTER), views[0]);
    code = CODE("mov esi, 200\n xor edi, edi\n"
                "1: mov ecx, esi\n and ecx, 1\n xor eax, eax\n vmfunc\n mov rdx, [rbx]\n sub rdx, 0x100\n"
                "cmp rdx, rcx\n je 2f\n inc edi\n 2: inc qword ptr [rbx + 16]\n dec esi\n jnz 1b");
    check_equal("to and fro", try(code, 0, 0), EXIT_VMCALL);
    check_equal("no wrong page", guest.registers.di, 0);
    check_equal("half of the writes", read64(pages[0] + 16), REPEATS / 2);
    check_equal("and the other half", read64(pages[1] + 16), REPEATS / 2);
}

/* Code that differs by view. */
static void code_of_a_view(void)
{
    for (unsigned view = 0; view < VIEWS; view++) {
        write8(pages[view] + 0x100, 0xb8); /* mov eax, view + 1; ret */
        write32(pages[view] + 0x101, view + 1);
        write8(pages[view] + 0x105, 0xc3);
    }
    void *code = CODE("mov esi, 200\n xor edi, edi\n lea r8, [rbx + 0x100]\n"
                      "1: mov ecx, esi\n and ecx, 1\n xor eax, eax\n vmfunc\n call r8\n dec eax\n"
                      "cmp eax, ecx\n je 2f\n inc edi\n 2: dec esi\n jnz 1b");
    check_equal("code of two views", try(code, 0, 0), EXIT_VMCALL);
    check_equal("each runs its own", guest.registers.di, 0);
}

static void at_ring_3(void)
{
    void *code = CODE("vmfunc\n mov rdi, [rbx]");
    begin_at(&guest, code);
    begin_at_ring_3();
    guest.registers.ax = 0;
    guest.registers.cx = 1;
    guest.registers.bx = linear;
    check_equal("at CPL 3", enter(&guest), EXIT_VMCALL);
    check_equal("it switches too", guest.registers.di, 0x101);
}

static void check_exit(const char *name, u64 function, u64 index)
{
    void *code = CODE("vmfunc");
    set(EPT_POINTER, views[0]);
    check_equal(name, try(code, function, index), EXIT_VMFUNC);
    check_instruction("its length, no qualification", LENGTH, 0);
    check_equal("RIP is the instruction's", get(GUEST_RIP), (u64)code);
    check_equal("the EPT pointer stays", get(EPT_POINTER), views[0]);
}

static void refusals(void)
{
    check_exit("a function that is not enabled", 1, 0);
    check_exit("the last", 63, 0);
    check_exit("an index beyond the list", 0, LIST_ENTRIES);
    check_exit("far beyond it", 0, 0xffffffff);
    check_exit("an entry that is no EPT pointer", 0, 2);
    list[2] = views[1] | 0x800;
    check_exit("one with a reserved bit", 0, 2);
    list[LIST_ENTRIES - 1] = views[1];
    check_equal("the last of the list", try(CODE("vmfunc"), 0, LIST_ENTRIES - 1), EXIT_VMCALL);
    check_equal("is switched to", get(EPT_POINTER), views[1]);
    set(VM_FUNCTION_CONTROLS, 0);
    check_exit("function 0 where it is not enabled", 0, 1);
    set(VM_FUNCTION_CONTROLS, SWITCHING);
}

static void undefined(void)
{
    set(EXCEPTION_BITMAP, 1 << UD);
    check_equal("function 64", try(CODE("vmfunc"), 64, 0), EXIT_EXCEPTION_OR_NMI);
    disable(SECONDARY_CONTROLS, ENABLE_VM_FUNCTIONS);
    check_equal("without the control", try(CODE("vmfunc"), 0, 1), EXIT_EXCEPTION_OR_NMI);
    enable(SECONDARY_CONTROLS, ENABLE_VM_FUNCTIONS);
    set(EXCEPTION_BITMAP, 0);
    FAULTS("in VMX root operation", UD, 0, asm volatile("vmfunc"));
}

static const struct broken controls[] = {
    {"a function that is not offered", {OR(VM_FUNCTION_CONTROLS, 1ull << 63)}},
    {"a list that is no page", {BE(EPTP_LIST_ADDRESS, 8)}},
    {"a list beyond physical addresses", {OR(EPTP_LIST_ADDRESS, 1ull << 51)}},
    {"switching without EPT", {CLEAR(SECONDARY_CONTROLS, ENABLE_EPT)}},
};

void run(void)
{
    vmx_begin();
    vmcs_begin(&guest);
    if (!offered(SECONDARY_CONTROLS, ENABLE_EPT | ENABLE_VM_FUNCTIONS) || !(rdmsr(MSR_VMX_VMFUNC) & SWITCHING)) {
        check("VMX", true);
        skip("EPTP switching");
        return;
    }
    enable_ept();
    map(linear, (u64)new_pages(1), P | W | U);
    u64 page = *entry_of(linear, 1) & 0xffffffffff000;
    list = new_pages(1);
    for (unsigned view = 0; view < VIEWS; view++) {
        list[view] = views[view] = new_ept();
        pages[view] = (u64)new_pages(1);
        write64(pages[view], 0x100 + view);
        *ept_entry(views[view], page, 1) = pages[view] | EPT_ALL | EPT_WRITE_BACK;
    }
    enable(SECONDARY_CONTROLS, ENABLE_VM_FUNCTIONS);
    set(VM_FUNCTION_CONTROLS, SWITCHING);
    set(EPTP_LIST_ADDRESS, (u64)list);
    switches();
    code_of_a_view();
    set(EPT_POINTER, views[0]);
    at_ring_3();
    refusals();
    undefined();
    ENTRIES_FAIL(controls, ENTER_FAILED(ERROR_CONTROLS));
    check_equal("VMXOFF", vmxoff(), SUCCEED);
}
