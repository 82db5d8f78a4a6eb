"""A small operating system as a guest: a kernel in ring 0 with demand paging and two system calls, a program
in ring 3. The hypervisor listens to the console port, and looks at every page fault before the guest's kernel
gets it."""

from gasang import vmx
from gasang.vmx import ExitReason

KERNEL, SYSTEM_CALL, PAGE_FAULT, END = 0x8000, 0x8010, 0x8020, 0x8060
USER, TEXT, USER_STACK = 0x10000, 0x10100, 0x12000
CODE = {
    KERNEL: "48 cf",  #  iretq                       ; to ring 3, by the frame that lies on the stack
    SYSTEM_CALL: "e6 e9"  # out 0xe9, al             ; int 0x80 prints AL
    "48 cf",  #          iretq
    PAGE_FAULT: "50"  #  push rax
    "53"  #              push rbx
    "0f 20 d0"  #        mov rax, cr2
    "c1 e8 0c"  #        shr eax, 12
    "25 ff010000"  #     and eax, 0x1ff              ; the page's number in its table
    "89 c3"  #           mov ebx, eax
    "c1 e3 0c"  #        shl ebx, 12
    "81 c3 07000200"  #  add ebx, 0x20007            ; a frame from 0x20000; user, writable, present
    "48 89 1cc5 00600000"  # mov [rax * 8 + 0x6000], rbx
    "5b"  #              pop rbx
    "58"  #              pop rax
    "48 83 c4 08"  #     add rsp, 8                  ; the error code
    "48 cf",  #          iretq
    END: "f4",  #        hlt                         ; int 0x81 ends it all
    USER: "bf 00004000"  # mov edi, 0x400000         ; where nothing is mapped yet
    "be 00010100"  #     mov esi, 0x10100
    "ac"  #              next: lodsb
    "84 c0"  #           test al, al
    "74 08"  #           jz done
    "88 07"  #           mov [rdi], al               ; faults the first time
    "ff c7"  #           inc edi
    "cd 80"  #           int 0x80
    "eb f3"  #           jmp next
    "c6 0425 00104000 2a"  # done: mov byte ptr [0x401000], 42   ; faults too
    "cd 81",  #          int 0x81
}
TABLES = 0x2000  # PML4, PDPT, page directory, page tables of 0 and of 0x400000
IDT, GDT, TSS, KERNEL_STACK = 0x7000, 0x9000, 0x9100, 0xB000
KERNEL_CODE, USER_CODE, USER_DATA, TASK = 0x08, 0x1B, 0x23, 0x28


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def gate(handler: int, privilege: int) -> bytes:
    """An interrupt gate of a 64-bit IDT."""
    rights = 0x8E | privilege << 5
    return words(handler & 0xFFFF | KERNEL_CODE << 16 | rights << 40 | handler >> 16 << 48, 0)


def load(memory: vmx.Memory) -> None:
    """What a boot loader and the kernel's first instructions would do."""
    for address, code in CODE.items():
        memory.write(address, bytes.fromhex(code))
    memory.write(TEXT, b"Hello from ring 3!\0")
    for level, table in enumerate((0x3007, 0x4007, 0x5007)):
        memory.write(TABLES + level * 0x1000, words(table))
    memory.write(0x4010, words(0x6007))
    supervisor, user = 3, 7
    pages = [page << 12 | (user if page in (0x10, 0x11) else supervisor) for page in range(0x20)]
    memory.write(0x5000, words(*pages))
    for vector, handler, privilege in ((14, PAGE_FAULT, 0), (0x80, SYSTEM_CALL, 3), (0x81, END, 3)):
        memory.write(IDT + vector * 16, gate(handler, privilege))
    flat = (0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xAFFB000000FFFF, 0xCFF3000000FFFF)
    memory.write(GDT, words(*flat, 0x8B0000000067 | TSS << 16, 0))
    memory.write(TSS + 4, words(KERNEL_STACK))
    memory.write(KERNEL_STACK - 40, words(USER, USER_CODE, 2, USER_STACK, USER_DATA))


with vmx.Processor(memory="2M") as cpu:
    load(cpu.memory)
    vmcs = cpu.vmcs("long")
    guest = vmcs.guest
    guest.rip, guest.rsp, guest.cr3 = KERNEL, KERNEL_STACK - 40, TABLES
    guest.gdtr = vmx.DescriptorTable(GDT, 0x37)
    guest.idtr = vmx.DescriptorTable(IDT, 0xFFF)
    guest.tr = vmx.Segment(TASK, TSS, 0x67, 0x8B)
    vmcs.execution.hlt_exiting = True
    vmcs.execution.exception_bitmap = 1 << 14

    console = ""
    exit = cpu.launch(vmcs)
    while exit.reason is not ExitReason.HLT:
        if exit.reason is ExitReason.IO_INSTRUCTION:
            console += chr(cpu.registers.rax & 0xFF)
            exit.skip()
        else:
            fault = exit.interruption
            assert fault is not None
            print(f"page fault at {exit.qualification:#x}, error code {fault.error_code}, RIP {exit.rip:#x}")
            # An exception that is intercepted has changed nothing yet: CR2 is the hypervisor's to set.
            cpu.registers.cr2 = exit.qualification
            vmcs.inject(fault.vector, fault.type, fault.error_code)
        exit = cpu.resume(vmcs)

    print(console)
    print("its memory:", cpu.memory[0x20000:0x20012].decode(), cpu.memory[0x21000])
