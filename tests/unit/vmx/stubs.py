"""What type checkers are told of attributes and members that are made from the engine's tables.

`python tests/unit/vmx/stubs.py --write` writes it beside the modules that make them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gasang.vmx.areas import AREAS
from gasang.vmx.enumerations import ActivityState, EventType, ExitReason
from gasang.vmx.names import BITS, FIELDS

PACKAGE = Path(__file__).parents[3] / "src/gasang/vmx"
_HEAD = '"""Written by tests/unit/vmx/stubs.py from the engine\'s tables."""\n\n'


def areas() -> str:
    """The six areas with their attributes."""
    head = "from gasang._engine import DescriptorTable, Segment\nfrom gasang.vmx.area import Area\n"
    tail = "\nAREAS: tuple[type[Area], ...]\n"
    return _HEAD + head + "".join(map(_area, AREAS)) + tail


def _area(area: type) -> str:
    fields = [field for field in FIELDS.values() if field.area == area.name]
    lines = [f'\nclass {area.__name__}(Area):\n    """{area.__doc__}"""\n']
    for field in fields:
        lines.append(_attribute(field.name, "int", read_only=field.read_only))
        lines += (_attribute(bit.name, "bool", read_only=False) for bit in BITS.get(field.encoding, ()))
    registers = [field.name.removesuffix("_limit") for field in fields if field.name.endswith("_limit")]
    for register in registers:
        kind = "DescriptorTable" if register in ("gdtr", "idtr") else "Segment"
        lines.append(_attribute(register, kind, read_only=False))
    return "\n".join(lines) + "\n"


def _attribute(name: str, kind: str, *, read_only: bool) -> str:
    if read_only:
        return f"    @property\n    def {name}(self) -> {kind}: ..."
    return f"    {name}: {kind}"


def enumerations() -> str:
    """The enumerations with their members."""
    head = "from gasang.vmx.names import Named\n"
    return _HEAD + head + "".join(map(_enumeration, (ExitReason, EventType, ActivityState)))


def _enumeration(enumeration: type) -> str:
    members = "\n".join(f"    {member.name} = {member.value}" for member in enumeration)
    return f'\nclass {enumeration.__name__}(Named):\n    """{enumeration.__doc__}"""\n\n{members}\n'


STUBS = {PACKAGE / "areas.pyi": areas, PACKAGE / "enumerations.pyi": enumerations}


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for path, text in STUBS.items():
        path.write_text(text())
