"""Fields of a VMCS as attributes of an object, and each bit that has a name.

The attributes are made from the engine's table, so there is none that the processor does not know.
"""

from __future__ import annotations

from typing import Any, Protocol

from gasang._engine import DescriptorTable, Segment
from gasang.vmx.names import BITS, FIELDS, Bit, Field, encoding

_RIGHTS = "_access_rights"
_TABLE_BASES = ("gdtr_base", "idtr_base")


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
    _fields: Fields

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

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


def add_attributes(area: type[Area]) -> None:
    """Give the class of an area its attributes."""
    for field in FIELDS.values():
        if field.area != area.name:
            continue
        setattr(area, field.name, _FieldAttribute(field))
        for bit in BITS.get(field.encoding, ()):
            setattr(area, bit.name, _BitAttribute(field, bit))
        if field.name.endswith(_RIGHTS):
            register = field.name.removesuffix(_RIGHTS)
            setattr(area, register, _SegmentAttribute(register))
        if area.name == "guest" and field.name in _TABLE_BASES:
            register = field.name.removesuffix("_base")
            setattr(area, register, _TableAttribute(register))
