"""Devices that test kernels use to say how it went: QEMU's isa-debug-exit and the 0xe9 console of Bochs."""

from __future__ import annotations

from collections.abc import Callable


class DebugExit:
    """A write of `value` ends the machine with exit code `value << 1 | 1`, cut to 8 bits."""

    def __init__(self, leave: Callable[[int], None]) -> None:
        self._leave = leave

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._leave((value << 1 | 1) & 0xFF)


class DebugConsole:
    """Bytes written appear on the host; reads give 0xe9, by which a guest finds out that somebody listens."""

    _PRESENT = 0xE9

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output

    def read(self, offset: int, size: int) -> int:
        return self._PRESENT

    def write(self, offset: int, size: int, value: int) -> None:
        self._output(bytes([value]))
