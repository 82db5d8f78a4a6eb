"""The same guest twice: under VT-x, and on a plain virtual machine. It cannot tell the difference, nor can
we."""

from gasang import vmx
from gasang._engine import DescriptorTable, Halted, Segment, Vm

CODE = bytes.fromhex(
    "31 c0"  #        xor eax, eax
    "bb 01000000"  #  mov ebx, 1
    "b9 28000000"  #  mov ecx, 40
    "0f c1 c3"  #     again: xadd ebx, eax
    "e2 fb"  #        loop again
    "f4"  #           hlt
)
FLAT_CODE = Segment(0x08, 0, 0xFFFFFFFF, 0xC09B)
FLAT_DATA = Segment(0x10, 0, 0xFFFFFFFF, 0xC093)
SHOWN = ("rax", "rbx", "rcx")


def with_vmx() -> tuple[dict[str, int], int]:
    with vmx.Processor(memory="2M") as cpu:
        cpu.memory[0x1000:] = CODE
        vmcs = cpu.vmcs("protected")
        vmcs.guest.rip = 0x1000
        vmcs.execution.hlt_exiting = True
        exit = cpu.launch(vmcs)
        assert exit.reason is vmx.ExitReason.HLT
        result = {name: getattr(cpu.registers, name) for name in SHOWN}
        return {**result, "rip": exit.rip, "rflags": vmcs.guest.rflags}, cpu.time


def without_vmx() -> tuple[dict[str, int], int]:
    vm = Vm(memory=2 << 20, clock="instructions")
    vm.write_memory(0x1000, CODE)
    vcpu = vm.vcpu(0)
    data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), FLAT_DATA)
    vcpu.set_registers(rip=0x1000, cs=FLAT_CODE, cr0=0x31, idtr=DescriptorTable(0, 0), **data)
    assert isinstance(vcpu.run(), Halted)
    registers = {name: value for name, value in vcpu.registers().items() if isinstance(value, int)}
    # HLT does not exit here: it has been executed, and RIP is behind it.
    result = {name: registers[name] for name in (*SHOWN, "rflags")}
    return {**result, "rip": registers["rip"] - 1}, vm.virtual_time() - 1


ours, time = with_vmx()
theirs, plain_time = without_vmx()
print("Fibonacci's 40th number:", ours["rax"])
print("registers:", "the same" if ours == theirs else f"{ours} and {theirs}")
print(f"instructions: {time} and {plain_time}")
