"""The state in which a processor enters a boot image, in the engine's terms."""

from __future__ import annotations

from gasang import _engine
from gasang.loaders import SegmentRegister, TableRegister
from gasang.loaders.image import Registers


def engine_registers(registers: Registers) -> dict[str, int | _engine.Segment | _engine.DescriptorTable]:
    """The values, by the names that `Vcpu.set_registers` has for them."""
    return {name: _engine_register(value) for name, value in registers.items()}


def _engine_register(
    value: int | SegmentRegister | TableRegister,
) -> int | _engine.Segment | _engine.DescriptorTable:
    match value:
        case SegmentRegister(selector, base, limit, attributes):
            return _engine.Segment(selector, base, limit, attributes)
        case TableRegister(base, limit):
            return _engine.DescriptorTable(base, limit)
        case int():
            return value
