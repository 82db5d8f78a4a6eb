"""Two guests take turns: the VMX-preemption timer ends each one's slice. Both run the same code at the same
addresses, but EPT gives each its own page for the counter. With a file named on the command line, a timeline
goes there."""

import sys
from pathlib import Path

from gasang import vmx

CODE = bytes.fromhex(
    "66 ff 06 0020"  # again: inc dword ptr [0x2000]
    "eb f9"  #         jmp again
)
COUNTER, ITS_OWN = 0x2000, {"first": 0x10000, "second": 0x11000}
SLICE = {"first": 100, "second": 300}  # in units of 32 time-stamp counts (IA32_VMX_MISC, bits 4:0)

with vmx.Processor(memory="2M") as cpu:
    cpu.watch()
    cpu.memory[0x1000:] = CODE
    guests = {}
    for name, physical in ITS_OWN.items():
        vmcs = guests[name] = cpu.vmcs()
        vmcs.guest.rip = 0x1000
        vmcs.ept.map(COUNTER, physical, 0x1000)
        vmcs.execution.activate_preemption_timer = True
        vmcs.guest.preemption_timer_value = SLICE[name]

    for turn in range(4):
        for name, vmcs in guests.items():
            exit = cpu.launch(vmcs) if turn == 0 else cpu.resume(vmcs)
            assert exit.reason is vmx.ExitReason.PREEMPTION_TIMER_EXPIRED
            count = int.from_bytes(cpu.memory.read(ITS_OWN[name], 4), "little")
            print(f"{cpu.time:6} ns  the {name} guest has counted to {count}")

    for file in sys.argv[1:]:
        Path(file).write_text(vmx.timeline(cpu.transitions()))
