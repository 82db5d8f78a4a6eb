"""ACPI fixed hardware: the PM1a event and control registers (ACPI 6.5, section 4.8.3), for power-off.

Offset 0 is PM1 status, 2 PM1 enable, 4 PM1 control; each has 16 bits and is accessed by bytes here, so that a
guest may write any part.
"""

from __future__ import annotations

from collections.abc import Callable

from gasang.device import InterruptLine, Saved

STATUS, ENABLE, CONTROL = 0, 2, 4

_POWER_BUTTON = 1 << 8
_ENABLE_BITS = 1 << 0 | 1 << 5 | _POWER_BUTTON | 1 << 9 | 1 << 10
_SCI_ENABLE = 1 << 0
_SLEEP_TYPE_SHIFT, _SLEEP_TYPE_MASK = 10, 0b111
_SLEEP_ENABLE = 1 << 13


class PowerManagement:
    """`power_off` is called when the guest enters the sleep type `off_type`; others are not supported."""

    def __init__(self, interrupt: InterruptLine, power_off: Callable[[], None], off_type: int) -> None:
        # static configuration
        self._off_type = off_type
        # wiring
        self._interrupt = interrupt
        self._power_off = power_off
        # volatile state
        self._status = 0
        self._enable = 0
        self._control = _SCI_ENABLE

    def press_power_button(self) -> None:
        """Ask the guest to shut down, as the button of a PC does."""
        self._status |= _POWER_BUTTON
        self._update_interrupt()

    def read(self, offset: int, size: int) -> int:
        registers = (self._status, self._enable, self._control)
        return registers[offset // 2] >> (8 * (offset % 2)) & 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        shift = 8 * (offset % 2)
        bits, untouched = value << shift, 0xFF00 >> shift
        if offset >= CONTROL:
            self._write_control(self._control & untouched | bits)
        elif offset >= ENABLE:
            self._enable = (self._enable & untouched | bits) & _ENABLE_BITS
        else:
            self._status &= ~bits  # a 1 clears
        self._update_interrupt()

    def state(self) -> Saved:
        return {"status": self._status, "enable": self._enable, "control": self._control}

    def set_state(self, state: Saved) -> None:
        """The level of the interrupt line is the interrupt controllers' to know."""
        self._status = state["status"] & 0xFFFF
        self._enable = state["enable"] & _ENABLE_BITS
        self._control = state["control"] & 0xFFFF & ~_SLEEP_ENABLE | _SCI_ENABLE

    def _write_control(self, value: int) -> None:
        """Keep SCI_EN, as there is no other mode; SLP_EN acts and reads as 0."""
        self._control = value & ~_SLEEP_ENABLE | _SCI_ENABLE
        if value & _SLEEP_ENABLE and value >> _SLEEP_TYPE_SHIFT & _SLEEP_TYPE_MASK == self._off_type:
            self._power_off()

    def _update_interrupt(self) -> None:
        self._interrupt.set_level(bool(self._status & self._enable))
