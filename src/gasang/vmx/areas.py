"""The six areas of a VMCS (SDM vol. 3, 25.3). Their attributes are those of `areas.pyi`."""

from __future__ import annotations

from gasang.vmx.area import Area, add_attributes


class Guest(Area):
    """State of the guest: VM entries load it, VM exits save it (SDM vol. 3, 25.4).

    `cs` and the other segment registers, `ldtr` and `tr` are `Segment`s, `gdtr` and `idtr`
    `DescriptorTable`s; their parts are fields too (`cs_base`).
    """

    name = "guest"
    __slots__ = ()


class Host(Area):
    """State of the host: VM exits load it (SDM vol. 3, 25.5)."""

    name = "host"
    __slots__ = ()


class Execution(Area):
    """VM-execution controls: what happens in VMX non-root operation (SDM vol. 3, 25.6)."""

    name = "execution"
    __slots__ = ()


class ExitControls(Area):
    """VM-exit controls (SDM vol. 3, 25.7)."""

    name = "exit"
    __slots__ = ()


class EntryControls(Area):
    """VM-entry controls (SDM vol. 3, 25.8)."""

    name = "entry"
    __slots__ = ()


class ExitInformation(Area):
    """Why the last VM exit happened, and the last VM-instruction error (SDM vol. 3, 25.9). Read-only."""

    name = "exit_information"
    __slots__ = ()


AREAS = (Guest, Host, Execution, ExitControls, EntryControls, ExitInformation)
"""In the manual's order."""

for _area in AREAS:
    add_attributes(_area)
