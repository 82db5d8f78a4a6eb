"""Who writes there? EPT makes a page read-only; each write to it is an EPT violation. The hypervisor lets the
one instruction through under the monitor trap flag, sees what it did, and closes the page again."""

from gasang import vmx
from gasang.vmx import ExitReason

CODE = bytes.fromhex(
    "bf 00300000"  #         mov edi, 0x3000
    "b0 41"  #               mov al, 'A'
    "aa"  #                  stosb
    "fe c0"  #               inc al
    "aa"  #                  stosb
    "c7 47 0e 78563412"  #   mov dword ptr [rdi + 14], 0x12345678
    "80 37 ff"  #            xor byte ptr [rdi], 0xff
    "f4"  #                  hlt
)
PAGE = 0x3000

with vmx.Processor(memory="2M") as cpu:
    cpu.memory[0x1000:] = CODE
    vmcs = cpu.vmcs("long")
    vmcs.guest.rip = 0x1000
    vmcs.execution.hlt_exiting = True
    vmcs.ept.protect(PAGE, 0x1000, write=False)

    exit = cpu.launch(vmcs)
    while exit.reason is ExitReason.EPT_VIOLATION:
        violation, rip = exit.ept_violation, exit.rip
        before = cpu.memory[PAGE : PAGE + 0x1000]

        vmcs.ept.protect(PAGE, 0x1000, write=True)
        vmcs.execution.monitor_trap_flag = True
        exit = cpu.resume(vmcs)
        assert exit.reason is ExitReason.MONITOR_TRAP_FLAG
        vmcs.execution.monitor_trap_flag = False
        vmcs.ept.protect(PAGE, 0x1000, write=False)

        after = cpu.memory[PAGE : PAGE + 0x1000]
        changed = [at for at in range(0x1000) if before[at] != after[at]]
        first, last = changed[0], changed[-1] + 1
        print(
            f"RIP {rip:#x} writes at {violation.guest_physical:#x}: "
            f"{before[first:last].hex()} -> {after[first:last].hex()}"
        )
        exit = cpu.resume(vmcs)
    print(exit)
