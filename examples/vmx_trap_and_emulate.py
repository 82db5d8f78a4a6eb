"""Trap and emulate: the guest asks CPUID who it runs on, counts in an MSR and reads a port; none of it exists
but in this program."""

from gasang import vmx
from gasang.vmx import ExitReason

CODE = bytes.fromhex(
    "31 c0"  #              xor eax, eax
    "0f a2"  #              cpuid
    "89 1c25 00200000"  #   mov [0x2000], ebx
    "89 1425 04200000"  #   mov [0x2004], edx
    "89 0c25 08200000"  #   mov [0x2008], ecx
    "b9 34120040"  #        mov ecx, 0x40001234
    "0f 32"  #              rdmsr
    "ff c0"  #              inc eax
    "0f 30"  #              wrmsr
    "e4 60"  #              in al, 0x60
    "f4"  #                 hlt
)
MSRS = {0x40001234: 41}
PORTS = {0x60: 0x1C}  # the Enter key of an old keyboard


def cpuid(registers: vmx.Registers) -> None:
    """Leaf 0: the highest leaf, and the name of a processor that nobody makes."""
    name = b"GasangInside"
    words = [int.from_bytes(name[at : at + 4], "little") for at in (0, 4, 8)]
    registers.rax, (registers.rbx, registers.rdx, registers.rcx) = 0, words


with vmx.Processor(memory="2M") as cpu:
    cpu.memory[0x1000:] = CODE
    vmcs = cpu.vmcs("long")
    vmcs.guest.rip = 0x1000
    vmcs.execution.hlt_exiting = True
    registers = cpu.registers

    exit = cpu.launch(vmcs)
    while exit.reason is not ExitReason.HLT:
        print(exit)
        match exit.reason:
            case ExitReason.CPUID:
                cpuid(registers)
            case ExitReason.RDMSR:
                registers.rax, registers.rdx = MSRS[registers.rcx], 0
            case ExitReason.WRMSR:
                MSRS[registers.rcx] = registers.rdx << 32 | registers.rax
            case ExitReason.IO_INSTRUCTION:
                registers.rax = registers.rax & ~0xFF | PORTS[exit.io.port]
        exit.skip()
        exit = cpu.resume(vmcs)

    print("the guest runs on", cpu.memory[0x2000:0x200C].decode())
    print("its MSR holds", MSRS[0x40001234])
    print(f"the key was {registers.rax & 0xFF:#x}")
