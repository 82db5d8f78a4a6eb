"""The guest's RAM, by slices; and the pages above it, where the hypervisor's structures lie."""

from __future__ import annotations

from typing import overload

from gasang._engine import EngineError, Vm
from gasang.errors import VmxError

PAGE = 0x1000


class Memory:
    """The guest's RAM by guest-physical address, which is physical: as bytes, like a `bytearray` that does
    not grow.

        cpu.memory[0x1000:] = code                  # as many bytes as there are
        cpu.memory[0x1000:0x1010]                   # bytes
        cpu.memory[0x1000]                          # one byte, as an int

    0xA0000 to 0xBFFFF is no RAM, as in a PC. Raises `VmxError` for addresses that are not the guest's RAM.
    """

    def __init__(self, vm: Vm, size: int) -> None:
        self._vm = vm
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Memory of {self._size:#x} bytes>"

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            return self.read(key, 1)[0]
        start, stop = self._bounds(key)
        return self.read(start, (self._size if stop is None else stop) - start)

    def __setitem__(self, key: int | slice, value: int | bytes) -> None:
        if isinstance(key, int):
            assert isinstance(value, int), "one byte is an int"
            self.write(key, bytes([value]))
            return
        assert not isinstance(value, int), "several bytes are bytes"
        start, stop = self._bounds(key)
        if stop is not None and stop - start != len(value):
            raise VmxError(f"{len(value)} bytes do not fill the {stop - start} from {start:#x} to {stop:#x}")
        self.write(start, value)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at a guest-physical address."""
        self._check(address, length)
        try:
            return self._vm.read_memory(address, length)
        except EngineError as error:
            raise VmxError(str(error)) from error

    def write(self, address: int, data: bytes) -> None:
        """Write `data` at a guest-physical address; all of it or, on an error, nothing."""
        self._check(address, len(data))
        try:
            self._vm.write_memory(address, bytes(data))
        except EngineError as error:
            raise VmxError(str(error)) from error

    def _bounds(self, key: slice) -> tuple[int, int | None]:
        if key.step not in (None, 1):
            raise VmxError("guest memory is read and written without gaps: leave out the slice's step")
        return key.start or 0, key.stop

    def _check(self, address: int, length: int) -> None:
        if address < 0 or length < 0 or address + length > self._size:
            raise VmxError(
                f"{length} bytes at {address:#x} are not in the guest's {self._size:#x} bytes of RAM"
            )


class Pages:
    """Pages of physical memory above the guest's RAM: no EPT maps them unless it is told to."""

    def __init__(self, vm: Vm, start: int, end: int) -> None:
        self._vm = vm
        self._next = start
        self._end = end

    def take(self, count: int = 1) -> int:
        """The physical address of `count` pages of zeros. Raises `VmxError` if there are no more."""
        address = self._next
        if address + count * PAGE > self._end:
            raise VmxError(
                "no page is left for VMCSs, EPT and bitmaps: make another Processor for more guests"
            )
        self._next += count * PAGE
        return address

    def read(self, address: int, length: int) -> bytes:
        """Bytes at a physical address."""
        return self._vm.read_memory(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes at a physical address."""
        self._vm.write_memory(address, data)

    def read_word(self, address: int) -> int:
        """Eight bytes as a number."""
        return int.from_bytes(self._vm.read_memory(address, 8), "little")

    def write_word(self, address: int, value: int) -> None:
        """A number as eight bytes."""
        self._vm.write_memory(address, value.to_bytes(8, "little"))
