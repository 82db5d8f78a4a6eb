"""The six areas of a VMCS (SDM vol. 3, 25.3) as objects: each field an attribute, and each bit that has a
name.

The attributes are made from the engine's table, so there is none that the processor does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gasang._engine import DescriptorTable, Segment
from gasang.vmx.names import BITS, FIELDS, Bit, Field, encoding

_RIGHTS = "_access_rights"


class Fields(Protocol):
    """Where fields are read and written: a VMCS."""

    def has(self, encoding: int) -> bool: ...

    def read(self, encoding: int) -> int: ...

    def write(self, encoding: int, value: int) -> None: ...


class Area:
    """Fields of a VMCS as attributes; a name that the area has not raises `AttributeError`.

    Reading is VMREAD, assigning VMWRITE: it raises `VmInstructionError` for a field that this processor does
    not have (number 12) or that is read-only (13).
    """

    name = ""
    __slots__ = ("_fields",)

    def __init__(self, fields: Fields) -> None:
        object.__setattr__(self, "_fields", fields)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __repr__(self) -> str:
        return "\n".join([f"<{self.name.replace('_', ' ')} area>", *self.describe()])

    def describe(self) -> list[str]:
        """The fields that are not 0, a line each: title, value, and the bits that have names."""
        lines = []
        for field in FIELDS.values():
            if field.area != self.name or not self._fields.has(field.encoding):
                continue
            if value := self._fields.read(field.encoding):
                lines.append(f"  {field.title:<48} {value:#x}{_bits(field, value)}")
        return lines


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


class _FieldAttribute:
    """A field as an attribute."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self.__doc__ = f"The {field.title}: {field.width} bits."

    def __get__(self, area: Area | None, owner: type) -> Any:
        return self if area is None else area._fields.read(self._field.encoding)

    def __set__(self, area: Area, value: int) -> None:
        area._fields.write(self._field.encoding, value)


class _BitAttribute:
    """A bit of a field as an attribute that is true or false."""

    def __init__(self, field: Field, bit: Bit) -> None:
        self._encoding = field.encoding
        self._mask = bit.mask
        self.__doc__ = f"{bit.title}: bit {bit.mask.bit_length() - 1} of the {field.title}."

    def __get__(self, area: Area | None, owner: type) -> Any:
        return self if area is None else bool(area._fields.read(self._encoding) & self._mask)

    def __set__(self, area: Area, value: bool) -> None:
        rest = area._fields.read(self._encoding) & ~self._mask
        area._fields.write(self._encoding, rest | self._mask if value else rest)


class _SegmentAttribute:
    """A segment register, of its four fields."""

    def __init__(self, register: str) -> None:
        parts = ("selector", "base", "limit", "access_rights")
        self._encodings = [encoding("guest", f"{register}_{part}") for part in parts]
        self.__doc__ = f"Guest {register.upper()}: a Segment of selector, base, limit and access rights."

    def __get__(self, area: Area | None, owner: type) -> Any:
        return self if area is None else Segment(*map(area._fields.read, self._encodings))

    def __set__(self, area: Area, value: Segment) -> None:
        parts = (value.selector, value.base, value.limit, value.attributes)
        for place, part in zip(self._encodings, parts, strict=True):
            area._fields.write(place, part)


class _TableAttribute:
    """GDTR or IDTR, of its two fields."""

    def __init__(self, register: str) -> None:
        self._base = encoding("guest", f"{register}_base")
        self._limit = encoding("guest", f"{register}_limit")
        self.__doc__ = f"Guest {register.upper()}: a DescriptorTable of base and limit."

    def __get__(self, area: Area | None, owner: type) -> Any:
        if area is None:
            return self
        return DescriptorTable(area._fields.read(self._base), area._fields.read(self._limit))

    def __set__(self, area: Area, value: DescriptorTable) -> None:
        area._fields.write(self._base, value.base)
        area._fields.write(self._limit, value.limit)


def _bits(field: Field, value: int) -> str:
    names = [bit.title for bit in BITS.get(field.encoding, ()) if value & bit.mask]
    return f"  ({', '.join(names)})" if names else ""


def _add_attributes(area: type[Area]) -> None:
    for field in FIELDS.values():
        if field.area != area.name:
            continue
        setattr(area, field.name, _FieldAttribute(field))
        for bit in BITS.get(field.encoding, ()):
            setattr(area, bit.name, _BitAttribute(field, bit))
        if field.name.endswith(_RIGHTS):
            register = field.name.removesuffix(_RIGHTS)
            setattr(area, register, _SegmentAttribute(register))
    if area is Guest:
        for register in ("gdtr", "idtr"):
            setattr(area, register, _TableAttribute(register))


for _area in (Guest, Host, Execution, ExitControls, EntryControls, ExitInformation):
    _add_attributes(_area)
