"""A guest says hello, a character at a time, to an I/O port that does not exist: its hypervisor listens."""

from gasang import vmx

CODE = bytes.fromhex(
    "be 0020"  # mov si, 0x2000
    "ac"  #     next: lodsb
    "84 c0"  #  test al, al
    "74 04"  #  jz done
    "e6 e9"  #  out 0xe9, al       ; a VM exit
    "eb f7"  #  jmp next
    "f4"  #     done: hlt          ; another one
)

with vmx.Processor(memory="2M") as cpu:
    cpu.memory[0x1000:] = CODE
    cpu.memory[0x2000:] = b"Hello from VMX non-root operation!\0"
    vmcs = cpu.vmcs()
    vmcs.guest.rip = 0x1000
    vmcs.execution.hlt_exiting = True

    text = ""
    exit = cpu.launch(vmcs)
    while exit.reason is vmx.ExitReason.IO_INSTRUCTION:
        text += chr(cpu.registers.rax & 0xFF)
        exit.skip()
        exit = cpu.resume(vmcs)

    print(text)
    print(exit)
    print(cpu.statistics()["vm_exits"], "VM exits")
