"""The engine's RAM as devices see it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from gasang import _engine
from gasang.device import GuestMemoryError


class Ram:
    """By copies, and in place."""

    def __init__(self, vm: _engine.Vm) -> None:
        self._vm = vm

    @cached_property
    def _regions(self) -> list[tuple[int, int, memoryview]]:
        """Start, end and content of each region, ascending."""
        regions = self._vm.memory_regions()
        return [(start, start + length, self._vm.memory_view(start, length)) for start, length in regions]

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes) -> None:
        try:
            self._vm.write_memory(address, data)
        except _engine.EngineError as error:
            raise GuestMemoryError(str(error)) from error

    def view(self, address: int, length: int) -> memoryview:
        for start, end, memory in self._regions:
            if start <= address and address + length <= end:
                return memory[address - start : address - start + length]
        raise GuestMemoryError(f"physical range {address:#x}+{length:#x} is not all RAM")

    def views(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        # Nearly all of them are in one region, and of a large request there are hundreds.
        start, end, memory = max(self._regions, key=lambda region: region[1] - region[0])
        return [
            memory[address - start : address - start + length]
            if start <= address and address + length <= end
            else self.view(address, length)
            for address, length in ranges
        ]

    def written(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._vm.memory_written(ranges)
