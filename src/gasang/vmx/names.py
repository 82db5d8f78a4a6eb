"""What fields, bits, exit reasons, errors and checks are called: the engine's tables, by name and by
number."""

from __future__ import annotations

from enum import EnumMeta, IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

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


class _Names(EnumMeta):
    """Enumerations whose members are the engine's, which no type checker knows."""

    if TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any: ...


class Named(IntEnum, metaclass=_Names):
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


def _members(enumeration: str) -> dict[str, int]:
    return {name.upper(): number for number, name, _ in _NAMES[_SOURCES[enumeration]]}


if TYPE_CHECKING:

    class ExitReason(Named):
        """Basic exit reasons."""

    class EventType(Named):
        """Types of events."""

    class ActivityState(Named):
        """Activity states."""

else:
    ExitReason = Named("ExitReason", _members("ExitReason"), module=__name__)
    ExitReason.__doc__ = "Why a VM exit happened: the basic exit reasons (SDM vol. 3, appendix C)."
    EventType = Named("EventType", _members("EventType"), module=__name__)
    EventType.__doc__ = "Types of events that are injected or intercepted (SDM vol. 3, 25.8.3, 25.9.2)."
    ActivityState = Named("ActivityState", _members("ActivityState"), module=__name__)
    ActivityState.__doc__ = "What a guest does when it is entered (SDM vol. 3, 25.4.2)."
