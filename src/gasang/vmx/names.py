"""What fields, bits, exit reasons, errors and checks are called: the engine's tables, by name and by
number."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from gasang._engine import vm_entry_checks, vmcs_fields, vmx_control_capabilities, vmx_names


class Field(NamedTuple):
    """A field of the VMCS (SDM vol. 3, appendix B): `name` within its `area`, `title` the manual's."""

    encoding: int
    area: str
    name: str
    title: str
    width: int
    read_only: bool


class Bit(NamedTuple):
    """A bit of a field: its mask, its name as an attribute, what the manual calls it."""

    mask: int
    name: str
    title: str


class Check(NamedTuple):
    """A check of VM entries: what it demands of the controls, the host's or the guest's state, and where the
    manual says so (SDM vol. 3)."""

    name: str
    group: str
    section: str
    rule: str


FIELDS = {each[0]: Field(*each) for each in vmcs_fields()}
"""Every field by its encoding."""

CHECKS = {each[0]: Check(*each) for each in vm_entry_checks()}
"""Every check of VM entries by its name, in the manual's order."""

_NAMES = vmx_names()

INSTRUCTION_ERRORS = {number: title for number, _, title in _NAMES["instruction_errors"]}
"""What each VM-instruction error says (SDM vol. 3, 31.4)."""

_ENCODINGS = {f"{field.area}.{field.name}": field.encoding for field in FIELDS.values()}

BITS = {_ENCODINGS[place]: tuple(Bit(*bit) for bit in bits) for place, bits in _NAMES.items() if "." in place}
"""The bits that have names, of each field that consists of bits, by the field's encoding."""

CONTROL_CAPABILITIES = {_ENCODINGS[place]: msr for place, msr in vmx_control_capabilities().items()}
"""The capability MSR that tells what each word of controls may be, by the field's encoding."""


def encoding(area: str, name: str) -> int:
    """The encoding of a field. Raises `KeyError` if there is no such field."""
    return _ENCODINGS[f"{area}.{name}"]


def masks(structure: str) -> dict[str, int]:
    """The bits of something that is no field of the VMCS, by name: "ept_violation", "ept_entry"."""
    return {name: mask for mask, name, _ in _NAMES[structure]}


class Named(IntEnum):
    """A number that has a name in the manual."""

    @property
    def title(self) -> str:
        """What the manual calls it."""
        return _TITLES[type(self).__name__][self]


_SOURCES = {
    "ExitReason": "exit_reasons",
    "EventType": "event_types",
    "ActivityState": "activity_states",
}
_TITLES = {
    enumeration: {number: title for number, _, title in _NAMES[source]}
    for enumeration, source in _SOURCES.items()
}


def members(enumeration: str) -> dict[str, int]:
    """The members of an enumeration of `enumerations`."""
    return {name.upper(): number for number, name, _ in _NAMES[_SOURCES[enumeration]]}
