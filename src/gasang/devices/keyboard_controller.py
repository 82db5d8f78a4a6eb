"""The 8042 keyboard controller, without keyboard and mouse: what is left is its self test and the reset line.

Offset 0 is the data port (0x60), offset 4 the status and command port (0x64).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from gasang.device import Saved

DATA, STATUS = 0, 4

_OUTPUT_FULL, _SYSTEM_FLAG, _COMMAND_LAST = 1 << 0, 1 << 2, 1 << 3
_SELF_TEST_PASSED, _INTERFACE_TEST_PASSED = 0x55, 0x00
_OUTPUT_RESET, _OUTPUT_A20 = 1 << 0, 1 << 1
_KEYBOARD_OFF, _MOUSE_OFF, _SYSTEM = 1 << 4, 1 << 5, 1 << 2


class Command(IntEnum):
    """Commands to the controller itself, written to port 0x64."""

    READ_CONFIGURATION = 0x20
    WRITE_CONFIGURATION = 0x60
    DISABLE_MOUSE = 0xA7
    ENABLE_MOUSE = 0xA8
    SELF_TEST = 0xAA
    TEST_KEYBOARD_INTERFACE = 0xAB
    DISABLE_KEYBOARD = 0xAD
    ENABLE_KEYBOARD = 0xAE
    READ_OUTPUT_PORT = 0xD0
    WRITE_OUTPUT_PORT = 0xD1


_PULSES = range(0xF0, 0x100)
"""Commands that pulse the output lines whose bit is 0; line 0 resets the processor."""


class KeyboardController:
    """`reset` is called when the guest pulls the processor's reset line."""

    def __init__(self, reset: Callable[[], None]) -> None:
        # wiring
        self._reset = reset
        # volatile state
        self._configuration = _KEYBOARD_OFF | _MOUSE_OFF | _SYSTEM
        self._output: deque[int] = deque()
        self._awaits_data: Command | None = None
        self._last_was_command = False

    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return self._output.popleft() if self._output else 0
        flags = _SYSTEM_FLAG
        if self._output:
            flags |= _OUTPUT_FULL
        if self._last_was_command:
            flags |= _COMMAND_LAST
        return flags

    def write(self, offset: int, size: int, value: int) -> None:
        self._last_was_command = offset == STATUS
        if offset == STATUS:
            self._command(value)
        else:
            self._data(value)

    def state(self) -> Saved:
        return {
            "configuration": self._configuration,
            "output": list(self._output),
            "awaits_data": self._awaits_data,
            "last_was_command": self._last_was_command,
        }

    def set_state(self, state: Saved) -> None:
        self._configuration = state["configuration"] & 0xFF
        self._output = deque(byte & 0xFF for byte in state["output"])
        awaited = state["awaits_data"]
        self._awaits_data = None if awaited is None else Command(awaited)
        self._last_was_command = bool(state["last_was_command"])

    def _command(self, code: int) -> None:
        self._awaits_data = None
        match code:
            case Command.READ_CONFIGURATION:
                self._output.append(self._configuration)
            case Command.WRITE_CONFIGURATION | Command.WRITE_OUTPUT_PORT:
                self._awaits_data = Command(code)
            case Command.SELF_TEST:
                self._output.clear()
                self._output.append(_SELF_TEST_PASSED)
            case Command.TEST_KEYBOARD_INTERFACE:
                self._output.append(_INTERFACE_TEST_PASSED)
            case Command.DISABLE_KEYBOARD:
                self._configuration |= _KEYBOARD_OFF
            case Command.ENABLE_KEYBOARD:
                self._configuration &= ~_KEYBOARD_OFF
            case Command.DISABLE_MOUSE:
                self._configuration |= _MOUSE_OFF
            case Command.ENABLE_MOUSE:
                self._configuration &= ~_MOUSE_OFF
            case Command.READ_OUTPUT_PORT:
                self._output.append(_OUTPUT_RESET | _OUTPUT_A20)
            case _ if code in _PULSES and not code & _OUTPUT_RESET:
                self._reset()

    def _data(self, value: int) -> None:
        """The operand of a command, or a byte for the keyboard, which is not there to answer."""
        command, self._awaits_data = self._awaits_data, None
        if command is Command.WRITE_CONFIGURATION:
            self._configuration = value
        elif command is Command.WRITE_OUTPUT_PORT and not value & _OUTPUT_RESET:
            self._reset()
