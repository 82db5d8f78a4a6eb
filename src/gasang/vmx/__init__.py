"""VT-x from Python: a processor in VMX operation whose hypervisor is the program that you write.

```python
from gasang import vmx

with vmx.Processor(memory="2M") as cpu:                  # VMXON ... VMXOFF
    cpu.memory[0x1000:] = bytes.fromhex("b02a f4")       # mov al, 42; hlt
    vmcs = cpu.vmcs()                                    # VMCLEAR, VMPTRLD
    vmcs.guest.rip = 0x1000
    vmcs.execution.hlt_exiting = True
    exit = cpu.launch(vmcs)                              # VMLAUNCH; the VM exit is the value
    assert exit.reason is vmx.ExitReason.HLT
    assert cpu.registers.rax & 0xFF == 42
```

Names are those of the Intel SDM, volume 3, chapters 24 to 31.
"""

from __future__ import annotations

from gasang._engine import DescriptorTable, Segment, VmxTransition
from gasang.errors import VmEntryFailed, VmInstructionError, VmxError, VmxTimeout
from gasang.vmx.bitmaps import MsrBitmaps, MsrSet, PortSet
from gasang.vmx.drawing import timeline
from gasang.vmx.enumerations import ActivityState, EventType, ExitReason
from gasang.vmx.ept import Ept, EptPage
from gasang.vmx.memory import Memory
from gasang.vmx.processor import Processor
from gasang.vmx.registers import Registers
from gasang.vmx.transitions import Transition, transition_line
from gasang.vmx.vm_exit import ControlRegisterAccess, EptViolation, Event, IoAccess, VmExit
from gasang.vmx.vmcs import Vmcs

__all__ = [
    "ActivityState",
    "ControlRegisterAccess",
    "DescriptorTable",
    "Ept",
    "EptPage",
    "EptViolation",
    "Event",
    "EventType",
    "ExitReason",
    "IoAccess",
    "Memory",
    "MsrBitmaps",
    "MsrSet",
    "PortSet",
    "Processor",
    "Registers",
    "Segment",
    "Transition",
    "VmEntryFailed",
    "VmExit",
    "VmInstructionError",
    "Vmcs",
    "VmxError",
    "VmxTimeout",
    "VmxTransition",
    "timeline",
    "transition_line",
]
